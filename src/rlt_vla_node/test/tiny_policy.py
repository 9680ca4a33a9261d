"""A tiny flow policy of absolute joints that can be trained: real weights and gradients, a few hundred of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlt_vla_node.backend import (
    KIND_IMAGE,
    KIND_PROPRIOCEPTION,
    BackendSpec,
    ObservationBatch,
    Prefix,
    check_observation,
)
from rlt_vla_node.tensors import tensors_hash

WIDTH, TOKENS, HORIZON, JOINTS = 8, 3, 12, 14
CAMERAS = ("wrist", "base")


class TinyNetwork(nn.Module):
    """Two image tokens from each camera's mean colour and one of proprioception; a linear flow."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.feel = nn.Linear(3, WIDTH), nn.Linear(JOINTS, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.act = nn.Linear(WIDTH + JOINTS + 1, JOINTS)

    def tokens(self, colours: Tensor, state: Tensor) -> Tensor:
        """(B, 3, WIDTH) of mean colours (B, 2, 3) in 0 to 1 and states (B, JOINTS)."""
        return self.mix(torch.cat([self.see(colours), self.feel(state)[:, None]], dim=1)).tanh()

    def velocity(self, tokens: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Of the flow: x (B, H, JOINTS), time (B,)."""
        context = tokens.mean(dim=1)[:, None].expand(-1, x.shape[1], -1)
        return self.act(torch.cat([context, x, time[:, None, None].expand(-1, x.shape[1], 1)], dim=-1))


class TinyPolicy:
    """:class:`rlt_vla_node.backend.TrainableBackend` on a TinyNetwork."""

    device = torch.device("cpu")

    def __init__(self, network: TinyNetwork, rate_hz: float = 50.0) -> None:
        self.module = network.requires_grad_(True)
        self._rate_hz = rate_hz

    @property
    def spec(self) -> BackendSpec:
        digest = tensors_hash(self.module.state_dict())
        return BackendSpec("tiny", WIDTH, TOKENS, HORIZON, JOINTS, JOINTS, self._rate_hz, CAMERAS, None, JOINTS, digest)

    def encode(self, observation: ObservationBatch) -> Prefix:
        check_observation(self.spec, observation)
        colours = observation.images.float().mean(dim=(2, 3)) / 255
        return self._prefix(self.module.tokens(colours, observation.state))

    def sample_chunk(self, prefix: Prefix, *, steps: int, noise: Tensor) -> Tensor:
        x = noise
        for i in range(steps):
            x = x + self.module.velocity(prefix.tokens, x, torch.full((len(x),), i / steps)) / steps
        return x

    def encode_and_sample(self, observation: ObservationBatch, *, steps: int, noise: Tensor) -> tuple[Prefix, Tensor]:
        prefix = self.encode(observation)
        return prefix, self.sample_chunk(prefix, steps=steps, noise=noise)

    def training_batch(self, samples: Mapping[str, Any]) -> Any:
        colours = torch.stack([samples[f"observation.images.{name}"].mean(dim=(2, 3)) for name in CAMERAS], dim=1)
        return colours, samples["observation.state"], samples["action"], samples["action_is_pad"]

    def training_losses(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        colours, state, action, padded = batch
        tokens = self.module.tokens(colours, state)
        noise, time = torch.randn_like(action), torch.rand(len(action))
        x = torch.lerp(noise, action, time[:, None, None])
        error = (self.module.velocity(tokens, x, time) - (action - noise)).square().mean(dim=-1)
        loss = (error * ~padded).sum() / (~padded).sum()
        return loss, tokens.detach(), self._prefix(tokens).mask

    def save_policy(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.module.state_dict(), folder / "model.safetensors")

    def _prefix(self, tokens: Tensor) -> Prefix:
        mask = torch.tensor([True, True, False]).expand(len(tokens), -1)
        return Prefix(tokens, mask, torch.tensor([KIND_IMAGE, KIND_IMAGE, KIND_PROPRIOCEPTION]))


def tiny_policy(seed: int = 0, rate_hz: float = 50.0) -> TinyPolicy:
    """Random weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyPolicy(TinyNetwork(), rate_hz)


def open_tiny(folder: Path | str, rate_hz: float = 50.0) -> TinyPolicy:
    """The policy that `save_policy` wrote."""
    policy = tiny_policy(0, rate_hz)
    policy.module.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return policy
