"""Which changes of the graph a person at the robot should hear or feel, and in which words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from rlt_common.health import ERROR
from rlt_msgs.msg import ControlState, EpisodeState, RecorderStatus

MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)
LABELS = {
    EpisodeState.LABEL_SUCCESS: "success",
    EpisodeState.LABEL_FAILURE: "failure",
    EpisodeState.LABEL_TIMEOUT: "time-out",
    EpisodeState.LABEL_DISCARD: "discarded",
}
EXECUTOR_SILENT_S = 3.0
"""It speaks at 2 Hz of wall time."""
PAD = "joy_operator"
"""The node whose errors a person should hear: it reads their device."""
DRIVERS = {EpisodeState.DRIVER_VLA: "the VLA", EpisodeState.DRIVER_RL: "RL", EpisodeState.DRIVER_HUMAN: "you"}


class Urgency(IntEnum):
    """How much a cue matters."""

    NEWS = 0
    """Good to know."""
    ASK = 1
    """The run waits for the person."""
    ALARM = 2
    """Look at the robot now."""


@dataclass(frozen=True)
class Cue:
    """Words for a person."""

    text: str
    urgency: Urgency = Urgency.NEWS


class Cues:
    """Compares each state with the one before it. What stands already when it starts is no news."""

    def __init__(self) -> None:
        self._episode: EpisodeState | None = None
        self._control: ControlState | None = None
        self._control_s = 0.0
        self._executor_gone = False
        self._pad_error = False
        self._told_hold = ""
        self._recorder_error = ""

    def on_episode(self, message: EpisodeState) -> list[Cue]:
        """A state of the episode manager."""
        before, self._episode = self._episode, message
        if before is None:
            return []
        found = []
        if message.relabelling and message.relabelling != before.relabelling:
            found.append(Cue(message.reason, Urgency.ASK))
        elif before.relabelling and not message.relabelling and message.phase == before.phase:
            found.append(Cue(message.reason))
        if message.reminders > before.reminders and message.waiting_for:
            found.append(Cue(message.waiting_for, Urgency.ASK))
        if (message.episode_id, message.phase) != (before.episode_id, before.phase):
            self._told_hold = ""
            found += _phase(message)
        elif message.confirmation == EpisodeState.CONFIRMATION_LOST != before.confirmation:
            found.append(Cue(f"episode {message.episode_id} is lost: it was not recorded", Urgency.ALARM))
        elif message.phase in MOVING and message.human_in_control != before.human_in_control:
            driver = "you" if message.human_in_control else DRIVERS.get(message.driver, "an unknown driver")
            found.append(Cue(f"{driver} drive{'' if driver == 'you' else 's'}"))
        return found

    def on_control(self, message: ControlState, now_s: float = 0.0) -> list[Cue]:
        """A state of the executor at monotonic time `now_s`. A hold while moving is told once per reason and phase."""
        before, self._control, self._control_s = self._control, message, now_s
        if before is None:
            return []
        found = []
        if self._executor_gone:
            self._executor_gone = False
            found.append(Cue("the chunk executor is back"))
        if message.estop and not before.estop:
            found.append(Cue(f"emergency stop: {message.hold_reason}", Urgency.ALARM))
        elif before.estop and not message.estop:
            found.append(Cue("the emergency stop is released"))
        elif message.phase in MOVING and message.hold_reason and message.hold_reason == before.hold_reason:
            # Said twice, so half a second at least: a hold for a single tick is nobody's business.
            if message.hold_reason != self._told_hold:
                self._told_hold = message.hold_reason
                found.append(Cue(f"the arms hold: {message.hold_reason}", Urgency.ALARM))
        elif not message.hold_reason:
            self._told_hold = ""
        return found

    def on_time(self, now_s: float) -> list[Cue]:
        """Time goes by: an executor that was there and falls silent is told once."""
        silent = self._control is not None and now_s - self._control_s > EXECUTOR_SILENT_S
        if not silent or self._executor_gone:
            return []
        self._executor_gone = True
        return [Cue("the chunk executor is gone: nothing commands the arms", Urgency.ALARM)]

    def on_health(self, name: str, level: bytes, text: str) -> list[Cue]:
        """A node's health: that of the person's own device is told."""
        if name.rpartition("/")[2] != PAD or (level == ERROR) == self._pad_error:
            return []
        self._pad_error = level == ERROR
        return [Cue(text, Urgency.ALARM) if self._pad_error else Cue("your device is heard again")]

    def on_recorder(self, message: RecorderStatus) -> list[Cue]:
        """The recorder's word about an episode file."""
        if message.error == self._recorder_error:
            return []
        self._recorder_error = message.error
        return [Cue(f"recorder: {message.error}", Urgency.ALARM)] if message.error else []


def _phase(message: EpisodeState) -> list[Cue]:
    """A phase was entered."""
    episode = f"episode {message.episode_id}"
    if message.phase == EpisodeState.PHASE_RESETTING:
        return [Cue(f"{episode}: reset the scene", Urgency.ASK)]
    if message.phase == EpisodeState.PHASE_BASE:
        return [Cue(f"{episode}: {'you drive' if message.human_in_control else 'the VLA drives'}")]
    if message.phase == EpisodeState.PHASE_CRITICAL:
        driver = "you" if message.human_in_control else DRIVERS.get(message.driver, "an unknown driver")
        return [Cue(f"critical phase: {driver} drive{'' if driver == 'you' else 's'}")]
    if message.phase == EpisodeState.PHASE_LABELLED:
        text = LABELS.get(message.label, f"label {message.label}")
        return [Cue(f"{text}: {message.reason}" if message.label == EpisodeState.LABEL_DISCARD else text)]
    if message.phase == EpisodeState.PHASE_ESTOP:
        return [Cue(f"emergency stop: {message.reason}", Urgency.ALARM)]
    if message.phase == EpisodeState.PHASE_IDLE and message.confirmation == EpisodeState.CONFIRMATION_LOST:
        return [Cue(message.reason, Urgency.ALARM)]
    if message.phase == EpisodeState.PHASE_IDLE and message.episodes:
        return [Cue(f"{message.successes} of {message.episodes}: ready for the next episode", Urgency.ASK)]
    return []
