"""Running the frozen VLA and RL token on observations: the same function live, in replay and in benchmarks.

A boundary observation is run as a batch of one, so that replaying it gives the same numbers bit for bit. Strided ones
run in batches of one fixed size: a short batch is filled up, so that a row does not depend on how many others came
with it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from rlt_common.codecs import ObservationData
from rlt_common.config import RobotConfig, TaskConfig
from rlt_vla_node.anchor import Anchor
from rlt_vla_node.backend import ObservationBatch, StateEncoder, VlaBackend
from rlt_vla_node.handoff import HandoffHead
from rlt_vla_node.layout import Layout, LayoutError

FLOW_STEPS = 5


class Outputs(NamedTuple):
    """What the frozen models say of B observations, float32; of one, without the leading B."""

    rl_token: np.ndarray
    """z_rl (B, D)."""
    reference: np.ndarray
    """Chunks (B, H, d) in robot units."""
    handoff_probability: np.ndarray
    """(B,) that the critical phase has begun; NaN without a hand-off head."""


@dataclass(frozen=True)
class FrozenModel:
    """What `adapt` produced: VLA and RL token, frozen together, with the facts they depend on."""

    backend: VlaBackend
    token: StateEncoder
    layout: Layout
    """What stands between the robot and the VLA."""
    hash: str
    """First 16 hex digits of the sha256 over weights, statistics and layout."""

    def fitted(self, robot: RobotConfig, task: TaskConfig) -> FrozenModel:
        """The model on this robot and task. Raises LayoutError naming the first thing that does not fit."""
        try:
            return replace(self, layout=self.layout.fitted(robot, task, self.backend.spec))
        except LayoutError as error:
            raise LayoutError(f"the VLA checkpoint {self.hash} does not fit: {error}") from error

    def batch(self, observations: Sequence[ObservationData], anchors: Sequence[Anchor | None] = ()) -> ObservationBatch:
        """Observations as the backend takes them. Raises LayoutError for another camera or block layout."""
        return self.layout.batch(observations, self.backend.spec, anchors)


def noise_seed(run_seed: int, episode_id: int, observation_id: int) -> int:
    """The flow noise seed (64 bits) of one observation: the same after a restart and in replay."""
    packed = struct.pack("<QQQ", run_seed, episode_id, observation_id)
    return int.from_bytes(hashlib.sha256(packed).digest()[:8], "little")


def flow_noise(seed: int, horizon: int, noise_dim: int) -> torch.Tensor:
    """(H, noise_dim) float32 standard normal; drawn on the CPU, so the same on every device."""
    draw = np.random.default_rng(seed).standard_normal((horizon, noise_dim), dtype=np.float32)
    return torch.from_numpy(draw)


def run_batch(
    model: FrozenModel,
    observation: ObservationBatch,
    seeds: Sequence[int],
    *,
    steps: int = FLOW_STEPS,
    size: int | None = None,
    head: HandoffHead | None = None,
) -> Outputs:
    """Outputs of B observations from one pass over them.

    Args:
        model: the frozen models; its `token` is the RL token, or what an ablation puts in its place.
        observation: B observations.
        seeds: flow noise seed of each.
        steps: flow steps.
        size: batch size to fill up to by repeating the first row; at least B.
        head: the hand-off head, if there is one.

    Raises BackendError where a VLA cannot be reached, LayoutError for a broken chunk.
    """
    count = len(seeds)
    size = count if size is None else size
    if not 0 < count <= size or observation.state.shape[0] != count:
        raise ValueError(f"{observation.state.shape[0]} observations with {count} seeds do not fit a batch of {size}")
    spec = model.backend.spec
    fill = [*range(count), *([0] * (size - count))]
    padded = observation.rows(fill)
    noise = torch.stack([flow_noise(seed, spec.horizon, spec.noise_dim) for seed in seeds])[fill]
    with torch.inference_mode():
        prefix, chunks = model.backend.encode_and_sample(padded, steps=steps, noise=noise)
        rl_tokens = model.token.represent(padded, prefix)
        probability = torch.full((size,), torch.nan)
        if head is not None:
            probability = head.probability(prefix.tokens, prefix.token_mask(), padded.state)
    actions = model.layout.actions(chunks[:count].cpu(), observation)
    return Outputs(rl_tokens[:count].cpu().numpy(), actions, probability[:count].cpu().numpy())


def run_observation(
    model: FrozenModel,
    observation: ObservationBatch,
    seed: int,
    *,
    steps: int = FLOW_STEPS,
    head: HandoffHead | None = None,
) -> Outputs:
    """Outputs of ONE observation.

    The same observation and seed give the same bits on the same machine and number of threads.
    """
    outputs = run_batch(model, observation, [seed], steps=steps, head=head)
    return Outputs(*(values[0] for values in outputs))
