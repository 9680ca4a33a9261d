"""What every VLA behind this package offers: final-layer embeddings z for the RL token and action chunks.

A backend speaks the policy's own units at its border: the state vector and the chunks of the policy, whose
normalisation it does itself. What stands between these and the robot is a layout (`layout`). The RL token and the nodes
use nothing but the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rlt_vla_node.anchor import Anchor

KIND_PROPRIOCEPTION = 0
KIND_IMAGE = 1
KIND_LANGUAGE = 2


class BackendError(RuntimeError):
    """A VLA that cannot be opened, or a server that does not answer; says which and what to do."""


@dataclass(frozen=True)
class BackendSpec:
    """The facts about a backend that its users must agree with."""

    name: str
    embed_dim: int
    """D, width of the final-layer embeddings."""
    max_tokens: int
    """Largest M, tokens in a prefix."""
    horizon: int
    """H, rows of a chunk, at `control_hz`."""
    action_dim: int
    """Columns of a chunk, in the policy's units."""
    state_dim: int
    """S, length of the state vector taken, in the policy's units."""
    control_hz: float
    """Rows of a chunk per second."""
    camera_keys: tuple[str, ...]
    """The robot's cameras in the order of the images taken."""
    image_shape: tuple[int, int] | None
    """(height, width) in pixels that images must have; None: the backend resizes them itself."""
    noise_dim: int
    """Columns of the flow noise (H, noise_dim); 0 for a policy that draws none."""
    fingerprint: str
    """First 16 hex digits of the sha256 over weights and statistics."""


@dataclass(frozen=True)
class ObservationBatch:
    """B observations as a backend takes them, and what its chunks have to be read by.

    Attributes:
        images: (B, C, H, W, 3) uint8 RGB, in the order of the backend's cameras.
        state: (B, S) float32, the policy's state vector.
        joints: (B, n) float32, measured joints, rad or m, where the layout needs them.
        anchors: B times where a chunk is added to, where that is known (`chunk_layout`); empty: nowhere.
    """

    images: Tensor
    state: Tensor
    joints: Tensor | None = None
    anchors: tuple[Anchor | None, ...] = ()

    def rows(self, index: Sequence[int]) -> ObservationBatch:
        """The observations at these places, which may be named more than once."""
        anchors = tuple(self.anchors[i] for i in index) if self.anchors else ()
        index = list(index)
        joints = None if self.joints is None else self.joints[index]
        return ObservationBatch(self.images[index], self.state[index], joints, anchors)


@dataclass(frozen=True)
class Prefix:
    """What a backend knows about a batch of observations after encoding it."""

    tokens: Tensor
    """(B, M, D) float32 final-layer embeddings z_1..M."""
    mask: Tensor
    """(B, M) bool, True where a token is real and the RL token reads it."""
    kind: Tensor
    """(M,) int64, KIND_* of each token."""
    cache: Any = None
    """Whatever the backend needs again in sample_chunk (keys and values, for one)."""

    def token_mask(self) -> Tensor:
        """(B, M) bool: the tokens that the RL token reads. Language is left out (Sec. IV-A, footnote 1)."""
        return self.mask & (self.kind != KIND_LANGUAGE)


class VlaBackend(Protocol):
    """A vision-language-action model, frozen."""

    @property
    def spec(self) -> BackendSpec:
        """The backend's facts."""

    @property
    def device(self) -> torch.device:
        """Where its embeddings are."""

    def encode(self, observation: ObservationBatch) -> Prefix:
        """Final-layer embeddings of a batch. Raises BackendError."""

    def sample_chunk(self, prefix: Prefix, *, steps: int, noise: Tensor) -> Tensor:
        """(B, H, action_dim) chunks from `noise` (B, H, noise_dim), with `steps` flow steps. Raises BackendError."""

    def encode_and_sample(self, observation: ObservationBatch, *, steps: int, noise: Tensor) -> tuple[Prefix, Tensor]:
        """Both in one call: the only one that is safe to make remotely, since a cache does not travel."""


class StateEncoder(Protocol):
    """Makes one vector of an observation: the RL token, or what takes its place."""

    @property
    def width(self) -> int:
        """D, its length."""

    def represent(self, observation: ObservationBatch, prefix: Prefix) -> Tensor:
        """(B, D) float32 of B observations and what the VLA made of them."""


def check_observation(spec: BackendSpec, observation: ObservationBatch) -> None:
    """Raise ValueError when a batch does not have the shapes of `spec` or its proprioception is not finite."""
    images, state = observation.images, observation.state
    height, width = spec.image_shape or images.shape[2:4]
    expected = (len(spec.camera_keys), height, width, 3)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}: {spec.name} takes uint8 (B, "
            + ", ".join(map(str, expected))
            + f") of the cameras {', '.join(spec.camera_keys)}"
        )
    if state.shape != (images.shape[0], spec.state_dim):
        raise ValueError(
            f"proprioception has shape {tuple(state.shape)}: {spec.name} takes ({images.shape[0]}, {spec.state_dim})"
        )
    if not bool(torch.isfinite(state).all()):
        bad = int(torch.argmin(torch.isfinite(state).all(dim=0).int()))
        raise ValueError(f"proprioception holds a value that is not finite at index {bad}")


class TrainableBackend(VlaBackend, Protocol):
    """A VLA whose weights are in this process, so that `adapt` can train them (L_vla of Sec. IV-A).

    Samples have LeRobot's names, in the policy's vectors: `observation.images.<camera>` (B, 3, H, W) float32 in 0 to 1
    by the robot's names of the cameras, `observation.state` (B, S), `action` (B, H, width) in rows at the policy's
    rate, `action_is_pad` (B, H) bool, `task` B strings.
    """

    @property
    def module(self) -> nn.Module:
        """The policy's network: what optimisers, adapters (LoRA) and checkpoints see."""

    def training_batch(self, samples: Mapping[str, Any]) -> Any:
        """Samples after the policy's own processing (normalisation, tokenizer), for `training_losses`."""

    def training_losses(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """L_vla (scalar), z (B, M, D) without gradient, and the mask (B, M) of what the RL token reads, in one pass."""

    def save_policy(self, folder: Path) -> None:
        """Write the policy in its own format: a folder that `open_backend` opens."""
