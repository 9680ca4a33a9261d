"""What every VLA behind this package offers: final-layer embeddings z for the RL token and action chunks.

A backend keeps its own statistics and speaks SI units at its border: proprioception goes in, and chunks come out, in
m, rad, m/s, N as the robot file names them. The RL token and the nodes use nothing but this interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

KIND_PROPRIOCEPTION = 0
KIND_IMAGE = 1
KIND_LANGUAGE = 2


@dataclass(frozen=True)
class BackendSpec:
    """The facts about a backend that its users must agree with."""

    name: str
    embed_dim: int
    """D, width of the final-layer embeddings."""
    max_tokens: int
    """Largest M, tokens in a prefix."""
    horizon: int
    """H, rows of a chunk."""
    action_dim: int
    """d, columns of a chunk."""
    state_dim: int
    """S, proprioception values taken."""
    control_hz: float
    camera_keys: tuple[str, ...]
    """Cameras in the order of the images taken."""
    image_shape: tuple[int, int]
    """(height, width) in pixels."""
    actions: str
    """What its actions change: `tool_pose` or `joints`."""
    relative_to: str
    """What its actions are added to: the `commanded` or the `measured` poses or joints."""
    fingerprint: str
    """First 16 hex digits of the sha256 over weights and statistics."""


@dataclass(frozen=True)
class ObservationBatch:
    """B observations: images (B, C, H, W, 3) uint8 RGB in camera order; state (B, S) float32, SI units."""

    images: Tensor
    state: Tensor


@dataclass(frozen=True)
class Prefix:
    """What a backend knows about a batch of observations after encoding it."""

    tokens: Tensor
    """(B, M, D) float32 final-layer embeddings z_1..M."""
    mask: Tensor
    """(B, M) bool, True where a token is real."""
    kind: Tensor
    """(M,) int64, KIND_* of each token."""
    cache: Any = None
    """Whatever the backend needs again in sample_chunk (keys and values, for one)."""

    def token_mask(self) -> Tensor:
        """(B, M) bool: the tokens that the RL token reads. Language is left out (Sec. IV-A, footnote 1)."""
        return self.mask & (self.kind != KIND_LANGUAGE)


@dataclass(frozen=True)
class ChunkBatch:
    """Training data of a backend.

    Attributes:
        features: (B, T, D) float32, what :meth:`VlaBackend.features` made of the images.
        state: (B, S) float32, SI units.
        actions: (B, H, d) float32, robot units per control step.
        noise: (K * B, H, d) float32 standard normal and
        time: (K * B,) float32 in [0, 1]: K flow samples per observation, drawn by the caller's generator.
    """

    features: Tensor
    state: Tensor
    actions: Tensor
    noise: Tensor
    time: Tensor


class VlaBackend(Protocol):
    """A vision-language-action model, frozen or in adaptation."""

    @property
    def spec(self) -> BackendSpec:
        """The backend's facts."""

    def features(self, images: Tensor) -> Tensor:
        """The part of the computation that stays frozen in adaptation: images to (B, T, D), cached by the trainer."""

    def encode(self, observation: ObservationBatch) -> Prefix:
        """Final-layer embeddings of a batch."""

    def sample_chunk(self, prefix: Prefix, *, steps: int, noise: Tensor) -> Tensor:
        """(B, H, d) chunks in robot units from `noise` (B, H, d), with `steps` flow steps."""

    def encode_and_sample(self, observation: ObservationBatch, *, steps: int, noise: Tensor) -> tuple[Prefix, Tensor]:
        """Both in one call: the only one that is safe to make remotely, since a cache does not travel."""

    def training_losses(self, batch: ChunkBatch) -> tuple[Tensor, Tensor, Tensor]:
        """L_vla (scalar), z (B, M, D) and its mask (B, M), in one pass."""


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
    expected = (len(spec.camera_keys), *spec.image_shape, 3)
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
