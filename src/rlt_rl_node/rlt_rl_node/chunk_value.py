"""What the critics of a checkpoint say of a chunk: Q(x, a), for whoever looks back at an episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rlt_common.parameters import ParameterError, from_mapping
from rlt_rl_node import checkpoint, tensor_file
from rlt_rl_node.checkpoint import CheckpointError
from rlt_rl_node.networks import Critics, Layout, Standardiser
from rlt_rl_node.tensor_file import TensorFileError


@dataclass(frozen=True)
class ChunkValue:
    """The critics of one checkpoint with all they need to judge."""

    critics: Critics
    standardise: Standardiser
    spread: np.ndarray  # (d,) float32, robot units per unit of the networks
    vla_hash: str

    @torch.no_grad()
    def of(self, rl_token: np.ndarray, rl_state: np.ndarray, actions: np.ndarray) -> float:
        """Q of the first C rows of `actions` (n, d), robot units: the lowest of the ensemble, as targets take it.

        `rl_token` (D,), `rl_state` (P,). Raises ValueError for other shapes, or fewer rows than C.
        """
        layout = self.critics.layout
        for name, got, expected in (
            ("RL token", rl_token.shape, (layout.token_dim,)),
            ("RL state", rl_state.shape, (layout.state_dim,)),
            ("chunk", actions[: layout.chunk_length].shape, (layout.chunk_length, layout.action_dim)),
        ):
            if got != expected:
                raise ValueError(f"{name} has shape {got}, the critics take {expected}")
        parts = [rl_token, rl_state] if layout.use_rl_token else [rl_state]
        x = torch.from_numpy(np.concatenate(parts).astype(np.float32))[None]
        chunk = (actions[: layout.chunk_length] / self.spread).astype(np.float32).reshape(1, -1)
        return float(self.critics(self.standardise(x), torch.from_numpy(chunk)).amin())


def load_value(path: Path) -> ChunkValue:
    """The critics of a checkpoint. Raises CheckpointError."""
    state = checkpoint.read_state(path)
    try:
        layout = from_mapping(Layout, state["layout"], "layout")
        agent = state["settings"]["agent"]
        arrays, _ = tensor_file.parse(checkpoint.read_part(path, checkpoint.LEARNER, state), checkpoint.MAX_BYTES)
        critics = Critics(layout, int(agent["critics"]), bool(agent["critic_layer_norm"]))
        standardise = Standardiser(layout.x_dim)
        with torch.no_grad():
            for module, prefix in ((critics, "critics."), (standardise, "x.")):
                for name, value in (*module.named_parameters(), *module.named_buffers()):
                    held = arrays[prefix + name]
                    if held.shape != tuple(value.shape):
                        raise ValueError(f"{prefix + name} has shape {held.shape}, not {tuple(value.shape)}")
                    value.copy_(torch.from_numpy(held))
        return ChunkValue(critics, standardise, np.asarray(state["spread"], np.float32), str(state["vla_hash"]))
    except (KeyError, TypeError, ValueError, ParameterError, TensorFileError) as error:
        raise CheckpointError(f"checkpoint {path}: its critics: {error}") from error
