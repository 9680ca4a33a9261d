"""What the RL state may hold in the place of z_rl: other FROZEN encoders, for the ablation of the RL token.

The paper's ablation takes an ImageNet ResNet. Pretrained weights are not part of this suite, so its stand-in is a fixed
random convolutional network: frozen and task-agnostic as well, but a weaker one. The mean of the VLA's own embeddings
is the other choice: adapted to the task, but not trained to hold what matters in one vector.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from rlt_common.parameters import ParameterError
from rlt_vla_node.backend import ObservationBatch, Prefix, StateEncoder
from rlt_vla_node.builtin import pixels_from_bytes
from rlt_vla_node.inference import FrozenModel

RL_TOKEN, MEAN_POOL, RANDOM_CONV = "rl_token", "mean_pool", "random_conv"
STATE_ENCODERS = (RL_TOKEN, MEAN_POOL, RANDOM_CONV)
_CHANNELS = (3, 32, 64, 64)
_GRID = 4  # cells per side that the convolutional features are averaged to: position is kept coarsely


class MeanPooledEmbeddings:
    """The mean of the VLA's final-layer embeddings, language left out; D is the VLA's width."""

    def __init__(self, embed_dim: int) -> None:
        self.width = embed_dim

    def represent(self, observation: ObservationBatch, prefix: Prefix) -> Tensor:
        """(B, D)."""
        mask = prefix.token_mask()[..., None]
        return (prefix.tokens * mask).sum(1) / mask.sum(1)


class RandomConvolutions(nn.Module):
    """Three strided convolutions per camera, averaged on a grid, and a projection: all random, all fixed by a seed."""

    def __init__(self, cameras: int, width: int, seed: int) -> None:
        super().__init__()
        self.width = width
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in pairwise(_CHANNELS))
        features = cameras * _CHANNELS[-1] * _GRID * _GRID
        self.register_buffer("projection", torch.randn(features, width, generator=generator) / features**0.5)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        self.eval().requires_grad_(False)

    def represent(self, observation: ObservationBatch, prefix: Prefix) -> Tensor:
        """(B, D)."""
        pixels = pixels_from_bytes(observation.images)
        batch = pixels.shape[0]
        value = pixels.flatten(0, 1)
        for layer in self.layers:
            value = layer(value).relu()
        return nn.functional.adaptive_avg_pool2d(value, _GRID).reshape(batch, -1) @ self.projection


def with_state_encoder(model: FrozenModel, kind: str, seed: int = 0) -> FrozenModel:
    """The model with another encoder in the place of its RL token, under a hash of its own.

    Args:
        kind: one of STATE_ENCODERS.
        seed: of the random convolutions; their width is the RL token's.

    Raises ParameterError for an unknown kind.
    """
    if kind == RL_TOKEN:
        return model
    if kind == MEAN_POOL:
        encoder: StateEncoder = MeanPooledEmbeddings(model.backend.spec.embed_dim)
    elif kind == RANDOM_CONV:
        encoder = RandomConvolutions(len(model.backend.spec.camera_keys), model.token.width, seed)
    else:
        raise ParameterError(f"state encoder {kind!r}: choose one of {', '.join(STATE_ENCODERS)}")
    digest = hashlib.sha256(f"{model.hash} {kind} {seed}".encode()).hexdigest()
    return replace(model, token=encoder, hash=digest[: len(model.hash)])
