"""A pad's states to an operator's decisions and motion. Pure: no ROS, no clock of its own.

Decisions are edge-triggered: a button fires once, when it goes down. What is already held in the first message does not
fire before it was released. Repeated messages (joy's autorepeat) therefore do nothing. Motion is level-triggered: it
lasts while the enable button is held and messages keep coming; where it comes from is the motion source's business
(motion.py, leader_motion.py), and no step is larger than the robot's step limit. A pad or a motion source that went
silent while it was in control asks for no motion until the enable button was let go, and nothing that a pad comes back
with fires but the emergency stop. It does not give control back by itself: the arms hold until a person decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.parameters import ParameterError
from rlt_msgs.msg import OperatorEvent, TeleopCommand
from rlt_teleop.joy_mapping import DISABLED, JoyMapping
from rlt_teleop.leader_motion import LeaderMotion
from rlt_teleop.motion import AxesMotion, MotionSource, PadState, TwistMotion

EVENTS = {
    "estop": OperatorEvent.EVENT_ESTOP,
    "handoff": OperatorEvent.EVENT_HANDOFF,
    "success": OperatorEvent.EVENT_SUCCESS,
    "failure": OperatorEvent.EVENT_FAILURE,
    "discard": OperatorEvent.EVENT_DISCARD,
    "next_episode": OperatorEvent.EVENT_NEXT_EPISODE,
    "undo": OperatorEvent.EVENT_UNDO,
}
LABELS = ("success", "failure", "discard")
GONE_S = 1.0
"""Readers that repeat the state do so many times in it."""
SILENT = "the pad went silent while in control"


class JoyError(ValueError):
    """A Joy message that does not fit the mapping; says how."""


@dataclass(frozen=True)
class Command:
    """Motion asked for in one control step.

    Attributes:
        enabled: whether it may take effect.
        action: (d,) m, rad, m; zeros unless `enabled`.
        frame: TeleopCommand.FRAME_* of translation and rotation.
        repositioning: the step demonstrates nothing.
        reason: why nothing moves although the human is in control.
    """

    enabled: bool
    action: np.ndarray
    frame: int = TeleopCommand.FRAME_WORLD
    repositioning: bool = False
    reason: str = ""


def make_motion(mapping: JoyMapping, robot: RobotConfig) -> MotionSource:
    """The motion source that the mapping names. Raises ParameterError when it does not fit the robot."""
    if mapping.motion == "leader":
        return LeaderMotion(mapping, robot)
    source = TwistMotion if mapping.motion == "twist" else AxesMotion
    return source(mapping, len(robot.arms), robot.control_hz)


class JoyOperator:
    """Turns successive pad states into OperatorEvent numbers and commands.

    Args:
        mapping: what the pad's buttons and axes mean.
        robot: arms, step limits, control rate.
        silence_s: without a message for so long the pad counts as silent.
    """

    def __init__(self, mapping: JoyMapping, robot: RobotConfig, silence_s: float) -> None:
        arms = [arm.name for arm in robot.arms]
        unknown = sorted(set(mapping.buttons.select) - set(arms))
        if unknown:
            raise ParameterError(
                f"joystick mapping of {mapping.device}: buttons: select: the robot has no arm "
                f"{unknown[0]!r}; it has {', '.join(arms)}"
            )
        self._mapping = mapping
        self._arms = arms
        self._silence_s = silence_s
        self._step_limit = robot.hand_step_limit
        self.motion = make_motion(mapping, robot)
        self._select = {index: arm for arm, index in mapping.buttons.select.items() if index != DISABLED}
        self._pressed: frozenset[int] | None = None
        self._axes = np.zeros(0)
        self._heard_s = self._changed_s = -np.inf
        self._must_release = ""
        self.arm = self._arms[0]
        self.intervening = False
        self.refused = ""

    def accept(self, axes: Sequence[float], buttons: Sequence[int], now_s: float) -> list[int]:
        """Take one pad state at monotonic time `now_s`. Returns OperatorEvent.EVENT_* in the order to publish them.

        Raises JoyError, without any effect, for a message with too few buttons or axes or a value that is not finite.
        """
        self._check(axes, buttons)
        self.motion.watch(axes)
        pressed = frozenset(index for index, value in enumerate(buttons) if value)
        own = self._mapping.buttons
        # What was pressed while nobody heard it does not count, but for the emergency stop.
        before = pressed - {own.estop} if self._pressed is None else self._pressed
        if self.intervening and self.silent(now_s):
            before |= pressed - {own.estop}
            self._must_release = SILENT
        values = np.asarray(axes, dtype=np.float64)
        if pressed != self._pressed or not np.array_equal(values, self._axes):
            self._changed_s = now_s
        self._pressed, self._axes, self._heard_s = pressed, values, now_s
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
            self.motion.begin()
            events.append(OperatorEvent.EVENT_INTERVENE_START)
        elif self.intervening and own.enable not in pressed:
            self.intervening, self._must_release = False, ""
            events.append(OperatorEvent.EVENT_INTERVENE_STOP)
        return events

    @property
    def heard(self) -> bool:
        """Whether the pad ever sent a usable message."""
        return self._pressed is not None

    def silent(self, now_s: float) -> bool:
        """Whether no message came for longer than the silence time-out (true before the first)."""
        return now_s - self._heard_s > self._silence_s

    def gone(self, now_s: float) -> bool:
        """Whether a pad that was there has said nothing for so long that its buttons do nothing any more."""
        return self.heard and now_s - self._heard_s > max(GONE_S, self._silence_s)

    def command(self, now_s: float) -> Command:
        """The motion asked for now; to be called once per control step while the human is in control."""
        rest = Command(False, np.zeros_like(self._step_limit), self.motion.frame)
        if not self.intervening:
            return rest
        if self.silent(now_s):
            return replace(rest, reason=SILENT)
        self._must_release = self._must_release or self.motion.fault(now_s)
        if self._must_release:
            return replace(rest, reason=f"{self._must_release}; let go the enable button and press it again")
        age_s = now_s - self._changed_s
        step = self.motion.step(PadState(self._axes, self._pressed, self._arms.index(self.arm), age_s), now_s)
        if step.waiting or (self._mapping.rest_is_hold and not step.action.any()):
            return replace(rest, reason=step.waiting)
        action = np.clip(step.action, -self._step_limit, self._step_limit)
        repositioning = step.repositioning or self._mapping.buttons.reposition in self._pressed
        return Command(True, action, self.motion.frame, repositioning)

    def _check(self, axes: Sequence[float], buttons: Sequence[int]) -> None:
        mapping = self._mapping
        too_few = len(buttons) < mapping.buttons_needed and not mapping.absent_buttons_released
        if too_few or len(axes) < mapping.axes_needed:
            raise JoyError(
                f"the pad has {len(buttons)} buttons and {len(axes)} axes, the mapping {mapping.device!r} needs "
                f"{mapping.buttons_needed} and {mapping.axes_needed}: choose the mapping file of this pad"
            )
        if len(axes) and not np.isfinite(np.asarray(axes, dtype=np.float64)).all():
            raise JoyError("the pad sent an axis value that is not finite")
