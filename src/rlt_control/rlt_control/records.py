"""Plain records of the control side: what comes in, what goes out. No ROS types, so that tests need no node."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np


class Source(enum.IntEnum):
    """Who drove a control step (ExecutedAction.SOURCE_*)."""

    HOLD = 0
    VLA = 1
    RL = 2
    HUMAN = 3


class Frame(enum.IntEnum):
    """The frame of a human's action (TeleopCommand.FRAME_*)."""

    WORLD = 0
    TOOL = 1


class Phase(enum.IntEnum):
    """Episode phase (EpisodeState.PHASE_*)."""

    IDLE = 0
    RESETTING = 1
    BASE = 2
    CRITICAL = 3
    LABELLED = 4
    ESTOP = 5


MOVING = (Phase.BASE, Phase.CRITICAL)
"""The only phases in which an arm may move."""


@dataclass(frozen=True)
class Episode:
    """What the executor needs of an EpisodeState. `rows`: chunk rows wanted per request in the current phase."""

    episode_id: int
    epoch: int
    phase: Phase
    human_in_control: bool
    rows: int
    handoff_step: int
    max_base_steps: int
    max_critical_steps: int


@dataclass(frozen=True)
class RobotState:
    """Measured joints q (n,) in rad or m, with the stamp of the measurement in ns."""

    stamp_ns: int
    q: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """An action chunk: `actions` and `reference` are (rows, d) in m, rad, m per control step.

    `anchored`: row 0 leads on from the request's anchor to a place, so every row before it has to be played.
    """

    episode_id: int
    epoch: int
    chunk_id: int
    observation_id: int
    observation_stamp_ns: int
    first_step: int
    source: Source
    policy_version: int
    actions: np.ndarray
    reference: np.ndarray
    arm_names: tuple[str, ...]
    anchored: bool = False


@dataclass(frozen=True)
class HumanCommand:
    """A human's command: `action` (d,) per control step, valid while `enabled`; `received_s` on the caller's clock.

    `repositioning`: the step is executed but is no demonstration, so it is kept out of replay and adaptation.
    """

    enabled: bool
    action: np.ndarray
    received_s: float
    frame: Frame = Frame.WORLD
    repositioning: bool = False


@dataclass(frozen=True)
class Request:
    """A wish for the next chunk (ChunkRequest), made at the robot state of `stamp_ns`.

    `boundary_step` and `first_step` are as planned: an observation that belongs to a later or an earlier control step
    moves both.
    """

    episode_id: int
    epoch: int
    request_id: int
    stamp_ns: int
    not_before_ns: int
    boundary_step: int
    first_step: int
    rows: int
    anchor: np.ndarray | None = None
    """(d,) what will be commanded before `first_step`; None where actions start from the measured poses."""


@dataclass(frozen=True)
class Executed:
    """One executed control step (ExecutedAction). Arrays are (d,), `joint_target` is (n,)."""

    stamp_ns: int
    episode_id: int
    epoch: int
    step: int
    phase: Phase
    source: Source
    action: np.ndarray
    commanded: np.ndarray
    reference: np.ndarray
    clamped: np.ndarray
    chunk_id: int
    row: int
    observation_id: int
    policy_version: int
    delay_s: float
    joint_target: np.ndarray
    repositioning: bool = False


@dataclass(frozen=True)
class Tick:
    """What a control tick decided.

    Attributes:
        executed: the step taken, or None when nothing was executed (not moving, or waiting in lockstep).
        joint_target: (n,) to send to the arm driver, or None to send nothing.
        request: a chunk request to send now, or None.
    """

    executed: Executed | None = None
    joint_target: np.ndarray | None = None
    request: Request | None = None
