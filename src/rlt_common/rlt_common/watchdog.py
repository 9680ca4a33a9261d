"""When did each input last speak, and is it to be trusted: one table of named inputs with ages and time-outs.

Pure: the caller says what was heard, when (monotonic, s) and with which stamp. An input is at fault when

- it never spoke, or was silent for longer than its time-out;
- what it said was refused (:meth:`Watchdog.refuse`), until it says something usable; an alarm (:meth:`Watchdog.alarm`)
  lasts besides until somebody has looked (:meth:`Watchdog.looked`), so that a peak between two looks is not missed;
- its stamps jumped: they went back, or ran away from the time between two messages by more than the time-out. It stays
  at fault until it has run evenly for a whole time-out.

A message that repeats the newest stamp, or is slightly older, is no sign of life: its source stands still, whatever
DDS thinks of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NEVER = math.inf
"""The time-out of an input that is shown in the table but not judged by its age or stamps."""


@dataclass(frozen=True)
class InputStatus:
    """One row of the table. `age_s`: None before the first message. `fault`: empty while the input is to be trusted."""

    name: str
    age_s: float | None
    timeout_s: float
    repeats: int
    fault: str

    def __str__(self) -> str:
        age = "never heard" if self.age_s is None else f"{self.age_s * 1e3:.0f} ms"
        limit = "not judged" if self.timeout_s == NEVER else f"of {self.timeout_s * 1e3:.0f} ms"
        repeats = f", {self.repeats} old stamps" if self.repeats else ""
        return f"{age} {limit}{repeats}{f', {self.fault}' if self.fault else ''}"


@dataclass
class _Input:
    timeout_s: float
    heard_s: float | None = None
    stamp_ns: int | None = None
    repeats: int = 0
    refusal: str = ""
    unseen: bool = False  # an alarm that nobody has looked at yet
    over: bool = False  # the input has said something usable since
    jump: str = ""
    settled_s: float = 0.0


class Watchdog:
    """The inputs of one node. `timeouts_s`: name -> s; NEVER: shown, not judged. Another name is a KeyError."""

    def __init__(self, timeouts_s: Mapping[str, float]) -> None:
        for name, timeout_s in timeouts_s.items():
            if not timeout_s > 0.0:
                raise ValueError(f"time-out of {name} is {timeout_s} s: it must be above 0")
        self._inputs = {name: _Input(timeout_s) for name, timeout_s in timeouts_s.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._inputs

    def heard(self, name: str, now_s: float, stamp_ns: int | None = None) -> bool:
        """The input spoke at `now_s`. Returns False when its stamp shows that it said nothing new."""
        own = self._inputs[name]
        if stamp_ns is not None and own.stamp_ns is not None and own.timeout_s != NEVER:
            advance_s = (stamp_ns - own.stamp_ns) * 1e-9
            if -own.timeout_s <= advance_s <= 0.0:
                own.repeats += 1
                return False
            off_s = advance_s - (now_s - own.heard_s)
            if advance_s < 0.0 or abs(off_s) > own.timeout_s:
                own.jump = f"its stamps jumped by {off_s:+.3f} s"
                own.settled_s = now_s + own.timeout_s
        own.heard_s, own.over = now_s, own.unseen
        if not own.unseen:
            own.refusal = ""
        if stamp_ns is not None:
            own.stamp_ns = stamp_ns
        return True

    def refuse(self, name: str, reason: str) -> None:
        """The input said something that cannot be used: at fault until it says something that can."""
        own = self._inputs[name]
        own.refusal, own.over = reason, False

    def alarm(self, name: str, reason: str) -> None:
        """Refuse a single sample that must not be missed: usable ones that follow do not end it before a look."""
        self.refuse(name, reason)
        self._inputs[name].unseen = True

    def looked(self) -> None:
        """Whoever acts on the faults has done so: alarms that are over end."""
        for own in self._inputs.values():
            if own.over:
                own.refusal = ""
            own.unseen = own.over = False

    def fault(self, name: str, now_s: float) -> str:
        """Why the input is not to be trusted at `now_s`, in words that begin with its name; "" when it is."""
        own = self._inputs[name]
        reason = self._reason(own, now_s)
        return f"{name}: {reason}" if reason else ""

    def first_fault(self, now_s: float, *, apart_from: tuple[str, ...] = ()) -> str:
        """The first fault in the order of the table, "" when there is none."""
        faults = (self.fault(name, now_s) for name in self._inputs if name not in apart_from)
        return next(filter(None, faults), "")

    def age_s(self, name: str, now_s: float) -> float | None:
        """s since the input last said something new; None before the first time."""
        heard_s = self._inputs[name].heard_s
        return None if heard_s is None else now_s - heard_s

    def table(self, now_s: float) -> list[InputStatus]:
        """Every input, in the order in which they were named."""
        return [
            InputStatus(name, self.age_s(name, now_s), own.timeout_s, own.repeats, self._reason(own, now_s))
            for name, own in self._inputs.items()
        ]

    @staticmethod
    def _reason(own: _Input, now_s: float) -> str:
        if own.refusal:
            return own.refusal
        if own.timeout_s == NEVER:
            return ""
        if own.heard_s is None:
            return "nothing heard yet"
        if now_s - own.heard_s > own.timeout_s:
            return f"{(now_s - own.heard_s) * 1e3:.0f} ms old, time-out {own.timeout_s * 1e3:.0f} ms"
        if now_s < own.settled_s:
            return f"{own.jump}: waiting until it has run evenly for {own.timeout_s * 1e3:.0f} ms"
        return ""
