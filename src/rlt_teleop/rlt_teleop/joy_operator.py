"""A gamepad's states to an operator's decisions and motion. Pure: no ROS, no clock of its own.

Decisions are edge-triggered: a button fires once, when it goes down. What is already held in the first message does not
fire before it was released. Repeated messages (joy's autorepeat) therefore do nothing. Motion is level-triggered: it
lasts while the enable button is held and messages keep coming. A pad that went silent while it was in control asks for
no motion until the enable button was let go, and nothing that it comes back with fires but the emergency stop. It does
not give control back by itself: the arms hold until a person decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlt_common.config import ARM_ACTION_DIM
from rlt_common.parameters import ParameterError
from rlt_msgs.msg import OperatorEvent
from rlt_teleop.joy_mapping import DISABLED, JoyMapping

EVENTS = {
    "estop": OperatorEvent.EVENT_ESTOP,
    "handoff": OperatorEvent.EVENT_HANDOFF,
    "success": OperatorEvent.EVENT_SUCCESS,
    "failure": OperatorEvent.EVENT_FAILURE,
    "discard": OperatorEvent.EVENT_DISCARD,
    "next_episode": OperatorEvent.EVENT_NEXT_EPISODE,
}
LABELS = ("success", "failure", "discard")
GRIPPER = ARM_ACTION_DIM - 1


class JoyError(ValueError):
    """A Joy message that does not fit the mapping; says how."""


@dataclass(frozen=True)
class Command:
    """Motion asked for: `action` (d,) per control step in m, rad, m; zeros unless `enabled`."""

    enabled: bool
    action: np.ndarray


class JoyOperator:
    """Turns successive pad states into OperatorEvent numbers and commands.

    Args:
        mapping: what the pad's buttons and axes mean.
        arms: arm names in the order of the action vector.
        control_hz: control rate; speeds become deltas per control step.
        silence_s: without a message for so long the pad counts as silent.
    """

    def __init__(self, mapping: JoyMapping, arms: Sequence[str], control_hz: float, silence_s: float) -> None:
        unknown = sorted(set(mapping.buttons.select) - set(arms))
        if unknown:
            raise ParameterError(
                f"joystick mapping of {mapping.device}: buttons: select: the robot has no arm "
                f"{unknown[0]!r}; it has {', '.join(arms)}"
            )
        self._mapping = mapping
        self._arms = tuple(arms)
        self._silence_s = silence_s
        linear, angular = mapping.linear_speed / control_hz, mapping.angular_speed / control_hz
        self._scale = np.array([linear] * 3 + [angular] * 3)
        self._gripper_step = mapping.gripper_speed / control_hz
        self._select = {index: arm for arm, index in mapping.buttons.select.items() if index != DISABLED}
        self._pressed: frozenset[int] | None = None
        self._axes = np.zeros(0)
        self._heard_s = -np.inf
        self._must_release = False
        self.arm = self._arms[0]
        self.intervening = False
        self.refused = ""

    def accept(self, axes: Sequence[float], buttons: Sequence[int], now_s: float) -> list[int]:
        """Take one pad state at monotonic time `now_s`. Returns OperatorEvent.EVENT_* in the order to publish them.

        Raises JoyError, without any effect, for a message with too few buttons or axes or a value that is not finite.
        """
        self._check(axes, buttons)
        pressed = frozenset(index for index, value in enumerate(buttons) if value)
        before = pressed if self._pressed is None else self._pressed
        own = self._mapping.buttons
        if self.intervening and self.silent(now_s):
            before |= pressed - {own.estop}
            self._must_release = True
        self._pressed, self._axes, self._heard_s = pressed, np.asarray(axes, dtype=np.float64), now_s
        risen = pressed - before

        for index in risen & self._select.keys():
            self.arm = self._select[index]
        decisions = [name for name in EVENTS if getattr(own, name) in risen]
        if sum(name in LABELS for name in decisions) > 1:
            self.refused = f"pressed together: {', '.join(n for n in decisions if n in LABELS)}: none of them counts"
            decisions = [name for name in decisions if name not in LABELS]
        events = [EVENTS[name] for name in decisions]
        if own.enable in risen:
            self.intervening = True
            events.append(OperatorEvent.EVENT_INTERVENE_START)
        elif self.intervening and own.enable not in pressed:
            self.intervening = self._must_release = False
            events.append(OperatorEvent.EVENT_INTERVENE_STOP)
        return events

    @property
    def heard(self) -> bool:
        """Whether the pad ever sent a usable message."""
        return self._pressed is not None

    def silent(self, now_s: float) -> bool:
        """Whether no message came for longer than the silence time-out (true before the first)."""
        return now_s - self._heard_s > self._silence_s

    def command(self, now_s: float) -> Command:
        """The motion asked for now."""
        action = np.zeros(ARM_ACTION_DIM * len(self._arms))
        enabled = self.intervening and not self._must_release and not self.silent(now_s)
        if enabled:
            start = ARM_ACTION_DIM * self._arms.index(self.arm)
            action[start : start + GRIPPER] = self._deflection() * self._scale
            own = self._mapping.buttons
            direction = (own.gripper_open in self._pressed) - (own.gripper_close in self._pressed)
            action[start + GRIPPER] = direction * self._gripper_step
        return Command(enabled, action)

    def _deflection(self) -> np.ndarray:
        """(6,) in [-1, 1]: x, y, z, rx, ry, rz, continuous at the edge of the dead zone."""
        raw = np.array([a.sign * self._axes[a.index] if a.index >= 0 else 0.0 for _, a in self._mapping.axes.items()])
        rest = self._mapping.dead_zone
        return np.sign(raw) * np.clip((np.abs(raw) - rest) / (1.0 - rest), 0.0, 1.0)

    def _check(self, axes: Sequence[float], buttons: Sequence[int]) -> None:
        mapping = self._mapping
        if len(buttons) < mapping.buttons_needed or len(axes) < mapping.axes_needed:
            raise JoyError(
                f"the pad has {len(buttons)} buttons and {len(axes)} axes, the mapping {mapping.device!r} needs "
                f"{mapping.buttons_needed} and {mapping.axes_needed}: choose the mapping file of this pad"
            )
        if len(axes) and not np.isfinite(np.asarray(axes, dtype=np.float64)).all():
            raise JoyError("the pad sent an axis value that is not finite")
