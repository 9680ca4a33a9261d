"""Plain numpy records of an episode, as replay and learner see it. No ROS, no torch.

Only the CRITICAL phase counts here (Sec. V, "Targeted improvement of critical phases"). Steps are control steps counted
from the episode's start; actions and references are in robot units (m, rad, m per control step).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Source(IntEnum):
    """Who chose the action of a control step; HOLD to HUMAN have the numbers of rlt_msgs/ExecutedAction.

    REPOSITIONING is a human's step with ExecutedAction.repositioning: executed, but in no transition.
    """

    HOLD = 0
    VLA = 1
    RL = 2
    HUMAN = 3
    REPOSITIONING = 4


class Label(IntEnum):
    """How an episode ended; the numbers are those of rlt_msgs/EpisodeState."""

    NONE = 0
    SUCCESS = 1
    FAILURE = 2
    TIMEOUT = 3
    DISCARD = 4

    @property
    def terminal(self) -> bool:
        """Success and failure end the task: no bootstrap. A time-out does not."""
        return self in (Label.SUCCESS, Label.FAILURE)

    @property
    def trainable(self) -> bool:
        """Whether an episode with this label may enter the replay."""
        return self in (Label.SUCCESS, Label.FAILURE, Label.TIMEOUT)


class EpisodeKey(NamedTuple):
    """Which episode of which robot. Every robot counts its own; demonstrations have negative ids and no robot."""

    episode_id: int
    robot: str = ""  # its namespace without the leading slash; empty: the only one

    def __str__(self) -> str:
        return f"episode {self.episode_id}" + (f" of {self.robot}" if self.robot else "")


class RecordError(ValueError):
    """A record whose parts do not fit together; says which."""


@dataclass(frozen=True)
class Step:
    """One control step: what was really sent, after limits."""

    step: int
    stamp_ns: int
    source: Source
    action: np.ndarray  # (d,) float32


@dataclass(frozen=True)
class Encoded:
    """What the frozen VLA and RL token make of ONE observation: x = (z_rl, s^p) and the reference chunk."""

    stamp_ns: int
    rl_token: np.ndarray  # (D,) float32, z_rl
    rl_state: np.ndarray  # (P,) float32, proprioception, SI units
    reference: np.ndarray  # (H, d) float32; row 0 is for the observation's own control step
    is_boundary: bool


@dataclass(frozen=True)
class EpisodeData:
    """The CRITICAL phase of one labelled episode.

    Both groups of arrays are in strictly rising order of step. Of the graph, `encoded_steps` are executed steps: the
    observation of the state that the last action led to comes before none, and the VLA does not encode it.
    """

    episode_id: int
    label: Label
    delay: int  # d, control steps between an observation and row 0 of its chunk
    steps: np.ndarray  # (N,) int64
    sources: np.ndarray  # (N,) uint8, Source
    actions: np.ndarray  # (N, d) float32
    encoded_steps: np.ndarray  # (M,) int64
    boundary: np.ndarray  # (M,) bool
    rl_tokens: np.ndarray  # (M, D) float32
    rl_states: np.ndarray  # (M, P) float32
    references: np.ndarray  # (M, H, d) float32
    robot: str = ""  # whose, as in EpisodeKey

    def __post_init__(self) -> None:
        where = str(self.key)
        count, encoded = len(self.steps), len(self.encoded_steps)
        for name, length in (("sources", count), ("actions", count), ("boundary", encoded), ("rl_tokens", encoded)):
            if len(getattr(self, name)) != length:
                raise RecordError(f"{where}: {name} has {len(getattr(self, name))} entries, expected {length}")
        for name in ("rl_states", "references"):
            if len(getattr(self, name)) != encoded:
                raise RecordError(f"{where}: {name} has {len(getattr(self, name))} entries, expected {encoded}")
        for name, dims in (("actions", 2), ("rl_tokens", 2), ("rl_states", 2), ("references", 3)):
            values = getattr(self, name)
            if values.ndim != dims:
                raise RecordError(f"{where}: {name} has {values.ndim} dimensions, expected {dims}")
            if not np.isfinite(values).all():
                raise RecordError(f"{where}: {name} holds a value that is not finite")
        if count and encoded and self.references.shape[2] != self.actions.shape[1]:
            raise RecordError(
                f"{where}: references have {self.references.shape[2]} columns, actions {self.actions.shape[1]}"
            )
        for name in ("steps", "encoded_steps"):
            if np.any(np.diff(getattr(self, name)) <= 0):
                raise RecordError(f"{where}: {name} is not strictly rising")
        if self.delay < 0:
            raise RecordError(f"{where}: delay {self.delay} is negative")

    @property
    def key(self) -> EpisodeKey:
        """Which episode of which robot it is."""
        return EpisodeKey(self.episode_id, self.robot)
