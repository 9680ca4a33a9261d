"""Where cues go: a plug per way of telling a person. Another one is a class with `emit`, and a line in OUTPUTS."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from sensor_msgs.msg import JoyFeedback

from rlt_teleop.feedback_cues import Cue, Urgency
from rlt_teleop.printable import printable

BELL = "\a"
RUMBLE = {Urgency.ASK: 0.4, Urgency.ALARM: 1.0}
"""Intensity; news does not shake a hand that is steering."""


class Output(Protocol):
    """Tells a person. Must not block: it is called between messages."""

    def emit(self, cue: Cue) -> None:
        """Tell it, or leave it."""


class Terminal:
    """A line per cue, with the bell when the person is wanted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def emit(self, cue: Cue) -> None:
        """Print it."""
        print(f"{BELL if cue.urgency > Urgency.NEWS else ''}{printable(cue.text)}", file=self._stream, flush=True)


class Speech:
    """Speaks through a command that takes the words as its last argument, e.g. `spd-say --wait`.

    Args:
        command: never run by a shell. Raises FileNotFoundError at the first cue when it is not there.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._speaking: subprocess.Popen | None = None

    def emit(self, cue: Cue) -> None:
        """Say it. News are dropped while it still speaks; an alarm cuts in."""
        if self._speaking is not None and self._speaking.poll() is None:
            if cue.urgency == Urgency.NEWS:
                return
            self._speaking.terminate()
            self._speaking.wait()
        self._speaking = subprocess.Popen(
            [*self._command, cue.text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """End what is being said."""
        if self._speaking is not None:
            self._speaking.terminate()
            self._speaking.wait()


class Rumble:
    """Shakes the pad: joy_node and our own gamepad node take JoyFeedback on joy/set_feedback.

    Args:
        publish: sends a JoyFeedback.
        later: calls a function once, after a moment: to end the shaking.
    """

    def __init__(self, publish: Callable[[JoyFeedback], None], later: Callable[[Callable[[], None]], None]) -> None:
        self._publish, self._later = publish, later

    def emit(self, cue: Cue) -> None:
        """Shake, unless it is only news."""
        if cue.urgency not in RUMBLE:
            return
        self._publish(_rumble(RUMBLE[cue.urgency]))
        self._later(lambda: self._publish(_rumble(0.0)))


def _rumble(intensity: float) -> JoyFeedback:
    return JoyFeedback(type=JoyFeedback.TYPE_RUMBLE, id=0, intensity=intensity)
