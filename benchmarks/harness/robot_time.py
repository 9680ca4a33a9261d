"""One server as the robot's time passes: calls that come at their times, and deferred work in between. Pure.

As the VLA node spins: what has come is taken first, one after the other; deferred work is begun only when nothing
waits, and what comes meanwhile waits until it is done. Robot time is virtual: it advances by what each call took, and
jumps to the next arrival when there is nothing to do. So a phase of ten seconds takes as long as its work alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DEFERRED = "deferred"


@dataclass(frozen=True)
class Arrival:
    """A call that comes at `at_s` of robot time. `kind` is any name but DEFERRED."""

    at_s: float
    kind: str
    call: Callable[[], object]


@dataclass(frozen=True)
class Served:
    """One call that was done; deferred work counts as come when it was begun. Robot time."""

    kind: str
    came_s: float
    begun_s: float
    ended_s: float

    @property
    def latency_s(self) -> float:
        """From coming to being done."""
        return self.ended_s - self.came_s

    @property
    def busy_s(self) -> float:
        """What the call itself took."""
        return self.ended_s - self.begun_s


def serve(
    arrivals: Sequence[Arrival],
    due: Callable[[], bool],
    work: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> list[Served]:
    """Serve all arrivals and all deferred work; returns the calls in the order in which they were done.

    Args:
        arrivals: sorted by time.
        due: whether deferred work is due.
        work: does one piece of it.
        clock: seconds, to measure the calls with.
    """
    now_s, served, waiting = 0.0, [], list(reversed(arrivals))
    while waiting or due():
        if waiting and (waiting[-1].at_s <= now_s or not due()):
            arrival = waiting.pop()
            kind, call, came_s = arrival.kind, arrival.call, arrival.at_s
        else:
            kind, call, came_s = DEFERRED, work, now_s
        begun_s = max(now_s, came_s)
        started = clock()
        call()
        now_s = begun_s + clock() - started
        served.append(Served(kind, came_s, begun_s, now_s))
    return served
