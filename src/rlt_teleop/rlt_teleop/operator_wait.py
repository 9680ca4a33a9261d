"""Waiting for a person: what for, since when, when to remind and when to give up. Pure; time comes in."""

from __future__ import annotations

from enum import Enum, auto


class Wait(Enum):
    """What :meth:`OperatorWait.update` found."""

    NOTHING = auto()
    CHANGED = auto()
    """It waits for something else than before, or for nothing any more."""
    REMIND = auto()
    EXPIRED = auto()
    """The limit is over; said once."""


class OperatorWait:
    """One thing at a time that a person is waited for.

    Args:
        remind_s: a reminder each time so long has passed.
        limit_s: after so long the wait is given up; 0: never.
    """

    def __init__(self, remind_s: float, limit_s: float = 0.0) -> None:
        self._remind_s, self._limit_s = remind_s, limit_s
        self._since_s = self._reminded_s = 0.0
        self._expired = False
        self.text = ""
        self.reminders = 0

    def update(self, text: str, now_s: float) -> Wait:
        """`text`: what is waited for now, empty for nothing; `now_s`: monotonic time."""
        if text != self.text:
            self.text, self.reminders, self._expired = text, 0, False
            self._since_s = self._reminded_s = now_s
            return Wait.CHANGED
        if not text:
            return Wait.NOTHING
        if self._limit_s and not self._expired and now_s - self._since_s >= self._limit_s:
            self._expired = True
            return Wait.EXPIRED
        if now_s - self._reminded_s >= self._remind_s:
            self._reminded_s = now_s
            self.reminders += 1
            return Wait.REMIND
        return Wait.NOTHING
