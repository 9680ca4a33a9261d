"""Waiting for a person: what for, since when, when to remind and when to give up. Pure; time comes in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True)
class Wanted:
    """What a person is waited for.

    Attributes:
        text: in words; empty: nothing.
        limit_s: after so long the wait is given up; 0: never.
        remind: whether to say it again and again; what can wait for as long as the person likes is only shown.
    """

    text: str = ""
    limit_s: float = 0.0
    remind: bool = True


class Wait(Enum):
    """What :meth:`OperatorWait.update` found."""

    NOTHING = auto()
    CHANGED = auto()
    """It waits for something else than before, or for nothing any more."""
    REMIND = auto()
    EXPIRED = auto()
    """The limit is over; said once."""


class OperatorWait:
    """One thing at a time that a person is waited for. `remind_s`: a reminder each time so long has passed."""

    def __init__(self, remind_s: float) -> None:
        self._remind_s = remind_s
        self._since_s = self._reminded_s = 0.0
        self._expired = False
        self.text = ""
        self.reminders = 0

    def update(self, wanted: Wanted, now_s: float) -> Wait:
        """`wanted`: what is waited for now; `now_s`: monotonic time."""
        if wanted.text != self.text:
            self.text, self.reminders, self._expired = wanted.text, 0, False
            self._since_s = self._reminded_s = now_s
            return Wait.CHANGED
        if not wanted.text:
            return Wait.NOTHING
        if wanted.limit_s and not self._expired and now_s - self._since_s >= wanted.limit_s:
            self._expired = True
            return Wait.EXPIRED
        if wanted.remind and now_s - self._reminded_s >= self._remind_s:
            self._reminded_s = now_s
            self.reminders += 1
            return Wait.REMIND
        return Wait.NOTHING
