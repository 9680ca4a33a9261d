"""Running the frozen VLA and RL token on observations: the same function live, in replay and in benchmarks.

A boundary observation is run as a batch of one, so that replaying it gives the same numbers bit for bit. Strided ones
run in batches of one fixed size: a short batch is filled up, so that a row does not depend on how many others came
with it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from rlt_common.codecs import ObservationData
from rlt_common.config import RobotConfig, TaskConfig
from rlt_vla_node.backend import ObservationBatch, StateEncoder, VlaBackend
from rlt_vla_node.handoff import HandoffHead

FLOW_STEPS = 5


class Outputs(NamedTuple):
    """What the frozen models say of B observations, float32; of one, without the leading B."""

    rl_token: np.ndarray
    """z_rl (B, D)."""
    reference: np.ndarray
    """Chunks (B, H, d) in robot units."""
    handoff_probability: np.ndarray
    """(B,) that the critical phase has begun; NaN without a hand-off head."""


class LayoutError(ValueError):
    """A frozen model that does not fit the robot, the task or an observation."""


@dataclass(frozen=True)
class FrozenModel:
    """What `adapt` produced: VLA and RL token, frozen together, with the facts they depend on."""

    backend: VlaBackend
    token: StateEncoder
    vla_state: tuple[tuple[str, int], ...]
    """Proprioception blocks the VLA takes, in order, with their sizes."""
    hash: str
    """First 16 hex digits of the sha256 over weights, statistics and layout."""

    def check(self, robot: RobotConfig, task: TaskConfig) -> None:
        """Raise LayoutError naming the first thing in which model and configuration differ."""
        spec = self.backend.spec
        pairs = [
            ("cameras", spec.camera_keys, tuple(camera.name for camera in robot.cameras)),
            ("vla_state blocks", self.vla_state, tuple((n, robot.block_sizes[n]) for n in task.vla_state)),
            ("action dimensions", spec.action_dim, robot.action_dim),
            ("actions that change", spec.actions, robot.actions),
            ("actions relative to the pose", spec.relative_to, robot.relative_to),
            ("horizon", spec.horizon, task.horizon),
            ("control rate (Hz)", spec.control_hz, robot.control_hz),
        ]
        pairs += [
            (f"image (height, width) of camera {camera.name}", spec.image_shape, (camera.height, camera.width))
            for camera in robot.cameras
        ]
        for what, own, wanted in pairs:
            if own != wanted:
                raise LayoutError(
                    f"the VLA checkpoint {self.hash} was adapted with {what} {own}, robot {robot.name} and task "
                    f"{task.name} have {wanted}: adapt again, or choose the checkpoint that belongs to them"
                )

    def batch(self, observations: Sequence[ObservationData]) -> ObservationBatch:
        """Observations as the backend takes them. Raises LayoutError for another camera or block layout."""
        keys = self.backend.spec.camera_keys
        for observation in observations:
            if observation.camera_names != keys:
                raise LayoutError(f"observation has cameras {observation.camera_names}, the VLA takes {keys}")
            for name, size in self.vla_state:
                have = observation.blocks[name].size if name in observation.blocks else 0
                if have != size:
                    raise LayoutError(f"observation has {have} values of block {name!r}, the VLA takes {size}")
        names = [name for name, _ in self.vla_state]
        return ObservationBatch(
            images=torch.from_numpy(np.stack([o.images for o in observations])),
            state=torch.from_numpy(np.stack([o.state(names) for o in observations])),
        )


def noise_seed(run_seed: int, episode_id: int, observation_id: int) -> int:
    """The flow noise seed (64 bits) of one observation: the same after a restart and in replay."""
    packed = struct.pack("<QQQ", run_seed, episode_id, observation_id)
    return int.from_bytes(hashlib.sha256(packed).digest()[:8], "little")


def flow_noise(seed: int, horizon: int, action_dim: int) -> torch.Tensor:
    """(H, d) float32 standard normal; drawn on the CPU, so the same on every device."""
    draw = np.random.default_rng(seed).standard_normal((horizon, action_dim), dtype=np.float32)
    return torch.from_numpy(draw)


def run_batch(
    backend: VlaBackend,
    token: StateEncoder,
    observation: ObservationBatch,
    seeds: Sequence[int],
    *,
    steps: int = FLOW_STEPS,
    size: int | None = None,
    head: HandoffHead | None = None,
) -> Outputs:
    """Outputs of B observations from one pass over them.

    Args:
        backend, token: the frozen models; `token` is the RL token, or what an ablation puts in its place.
        observation: B observations.
        seeds: flow noise seed of each.
        steps: flow steps.
        size: batch size to fill up to by repeating the first row; at least B.
        head: the hand-off head, if there is one.
    """
    count = len(seeds)
    size = count if size is None else size
    if not 0 < count <= size or observation.state.shape[0] != count:
        raise ValueError(f"{observation.state.shape[0]} observations with {count} seeds do not fit a batch of {size}")
    spec = backend.spec
    fill = [*range(count), *([0] * (size - count))]
    padded = ObservationBatch(images=observation.images[fill], state=observation.state[fill])
    noise = torch.stack([flow_noise(seed, spec.horizon, spec.action_dim) for seed in seeds])[fill]
    with torch.inference_mode():
        prefix, chunks = backend.encode_and_sample(padded, steps=steps, noise=noise)
        rl_tokens = token.represent(padded, prefix)
        probability = torch.full((size,), torch.nan)
        if head is not None:
            probability = head.probability(prefix.tokens, prefix.token_mask(), padded.state)
    return Outputs(rl_tokens[:count].numpy(), chunks[:count].numpy(), probability[:count].numpy())


def run_observation(
    backend: VlaBackend,
    token: StateEncoder,
    observation: ObservationBatch,
    seed: int,
    *,
    steps: int = FLOW_STEPS,
    head: HandoffHead | None = None,
) -> Outputs:
    """Outputs of ONE observation.

    The same observation and seed give the same bits on the same machine and number of threads.
    """
    outputs = run_batch(backend, token, observation, [seed], steps=steps, head=head)
    return Outputs(*(values[0] for values in outputs))
