"""Where a human's motion comes from. Pure: no ROS, no clock of its own.

Each source turns what a person does into one action per control step, a change of the tool pose. The joystick operator
asks one of them (`motion` in the mapping) while the enable button is held; it alone decides whether there is motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlt_common.config import ARM_ACTION_DIM
from rlt_msgs.msg import TeleopCommand
from rlt_teleop.joy_mapping import JoyMapping

FRAMES = {"world": TeleopCommand.FRAME_WORLD, "tool": TeleopCommand.FRAME_TOOL}
GRIPPER = ARM_ACTION_DIM - 1
TRIGGER_REST = 0.9
"""A trigger that was seen above this is known to rest there."""


class MotionError(ValueError):
    """A message of a motion source that cannot be used; says which and why."""


@dataclass(frozen=True)
class PadState:
    """The pad as motion sees it.

    Attributes:
        axes: Joy axes, as they came.
        pressed: numbers of the buttons held.
        arm: index of the selected arm.
        unchanged_s: s since any value of the pad changed.
    """

    axes: np.ndarray
    pressed: frozenset[int]
    arm: int
    unchanged_s: float


@dataclass(frozen=True)
class Step:
    """One control step of motion.

    Attributes:
        action: (d,) m, rad, m per control step.
        repositioning: the step ramps onto a pose: it demonstrates nothing.
        waiting: why nothing moves for the moment; empty when it may.
    """

    action: np.ndarray
    repositioning: bool = False
    waiting: str = ""


class MotionSource(Protocol):
    """What the joystick operator needs of a source of motion."""

    frame: int
    """TeleopCommand.FRAME_*."""

    def begin(self) -> None:
        """The human takes over: what was before does not count."""

    def watch(self, axes: Sequence[float]) -> None:
        """See every state of the pad, in control or not."""

    def fault(self, now_s: float) -> str:
        """Why the source may not move anything before the enable button was let go; empty when it may."""

    def step(self, pad: PadState, now_s: float) -> Step:
        """The motion asked for in this control step."""


class Gripper:
    """The selected arm's gripper, by buttons or by triggers.

    Args:
        mapping: buttons, triggers and gripper speed.
        control_hz: control rate.
    """

    def __init__(self, mapping: JoyMapping, control_hz: float) -> None:
        self._buttons, self._triggers = mapping.buttons, mapping.triggers
        self._step = mapping.gripper_speed / control_hz
        self._rested: set[int] = set()

    def watch(self, axes: Sequence[float]) -> None:
        """Learn which triggers work: one that never moved reads 0 with some drivers, half pressed."""
        self._rested |= {index for _, index in self._triggers.items() if index >= 0 and axes[index] > TRIGGER_REST}

    def step(self, pad: PadState) -> float:
        """m per control step, opening positive."""
        return self._step * (
            self._pull(self._buttons.gripper_open, self._triggers.gripper_open, pad)
            - self._pull(self._buttons.gripper_close, self._triggers.gripper_close, pad)
        )

    def _pull(self, button: int, trigger: int, pad: PadState) -> float:
        if trigger in self._rested:
            return float(np.clip((TRIGGER_REST - pad.axes[trigger]) / (TRIGGER_REST + 1.0), 0.0, 1.0))
        return float(button in pad.pressed)


class AxesMotion:
    """The pad's axes move the selected tool; the gripper follows buttons or triggers.

    Args:
        mapping: axes, speeds, dead zone, frame.
        arms: how many arms the robot has.
        control_hz: control rate; speeds become deltas per control step.
    """

    def __init__(self, mapping: JoyMapping, arms: int, control_hz: float) -> None:
        self.frame = FRAMES[mapping.frame]
        self._mapping, self._dim = mapping, ARM_ACTION_DIM * arms
        self._scale = speed_scale(mapping, control_hz)
        self._gripper = Gripper(mapping, control_hz)

    def begin(self) -> None:
        """Axes are speeds: motion starts from wherever the tool is."""

    def watch(self, axes: Sequence[float]) -> None:
        """See every state of the pad."""
        self._gripper.watch(axes)

    def fault(self, now_s: float) -> str:
        """The pad's own silence is the operator's business."""
        return ""

    def step(self, pad: PadState, now_s: float) -> Step:
        """The motion asked for in this control step."""
        raw = np.array([a.sign * pad.axes[a.index] if a.index >= 0 else 0.0 for _, a in self._mapping.axes.items()])
        action = arm_action(self._dim, pad.arm, deflection(raw, self._mapping.dead_zone) * self._scale)
        action[ARM_ACTION_DIM * pad.arm + GRIPPER] = self._gripper.step(pad)
        return unless_frozen(action, pad.unchanged_s, self._mapping.unchanged_s, "the pad")


class TwistMotion:
    """A twist (SpaceMouse) moves the selected tool; the gripper follows the pad's buttons or triggers.

    Args:
        mapping: its section `twist`, speeds, dead zone, frame.
        arms: how many arms the robot has.
        control_hz: control rate.
    """

    def __init__(self, mapping: JoyMapping, arms: int, control_hz: float) -> None:
        self.frame = FRAMES[mapping.frame]
        self._mapping, self._dim = mapping, ARM_ACTION_DIM * arms
        self._full = np.array([mapping.twist.linear_full] * 3 + [mapping.twist.angular_full] * 3)
        self._scale = speed_scale(mapping, control_hz)
        self._gripper = Gripper(mapping, control_hz)
        self._twist = np.zeros(6)
        self._heard_s = self._changed_s = -np.inf
        self._error = ""

    def accept(self, twist: Sequence[float], now_s: float) -> None:
        """Take (6,) linear x, y, z and angular x, y, z at monotonic time `now_s`.

        Raises MotionError for a value that is not finite; nothing moves until one is that comes after it.
        """
        values = np.asarray(twist, dtype=np.float64)
        if not np.isfinite(values).all():
            self._error = f"{self._mapping.twist.topic} holds a value that is not finite: {values.tolist()}"
            raise MotionError(self._error)
        if not np.array_equal(values, self._twist):
            self._changed_s = now_s
        self._twist, self._heard_s, self._error = values, now_s, ""

    def begin(self) -> None:
        """A twist is a speed: motion starts from wherever the tool is."""

    def watch(self, axes: Sequence[float]) -> None:
        """See every state of the pad."""
        self._gripper.watch(axes)

    def fault(self, now_s: float) -> str:
        """Why the twist may not move anything."""
        if self._error:
            return self._error
        silence_s = now_s - self._heard_s
        if silence_s > self._mapping.twist.timeout_s:
            return f"no {self._mapping.twist.topic} for {silence_s:.2g} s: is the device's node running?"
        return ""

    def step(self, pad: PadState, now_s: float) -> Step:
        """The motion asked for in this control step."""
        part = deflection(self._twist / self._full, self._mapping.dead_zone) * self._scale
        action = arm_action(self._dim, pad.arm, part)
        gripper, unchanged_s = self._gripper.step(pad), now_s - self._changed_s
        if not action.any():  # a puck at rest is not gone while a hand is on the buttons
            unchanged_s = 0.0 if gripper else min(unchanged_s, pad.unchanged_s)
        found = unless_frozen(action, unchanged_s, self._mapping.unchanged_s, self._mapping.twist.topic)
        found.action[ARM_ACTION_DIM * pad.arm + GRIPPER] = gripper
        return found


def speed_scale(mapping: JoyMapping, control_hz: float) -> np.ndarray:
    """(6,) largest change per control step, m and rad."""
    return np.array([mapping.linear_speed] * 3 + [mapping.angular_speed] * 3) / control_hz


def arm_action(dim: int, arm: int, part: np.ndarray) -> np.ndarray:
    """(dim,) action that moves one arm's tool by `part` (6,) and nothing else."""
    action = np.zeros(dim)
    action[ARM_ACTION_DIM * arm : ARM_ACTION_DIM * arm + GRIPPER] = part
    return action


def deflection(raw: np.ndarray, rest: float) -> np.ndarray:
    """Values in [-1, 1], continuous at the edge of the dead zone `rest`."""
    return np.sign(raw) * np.clip((np.abs(raw) - rest) / (1.0 - rest), 0.0, 1.0)


def unless_frozen(action: np.ndarray, unchanged_s: float, limit_s: float, what: str) -> Step:
    """The step, or none when the very same values have been said too long (limit_s 0: no limit).

    At rest too: standing still is a demonstration only of who is known to be there.
    """
    if limit_s and unchanged_s > limit_s:
        return Step(
            np.zeros_like(action), waiting=f"{what} has said the very same for more than {limit_s:g} s: is it there?"
        )
    return Step(action)
