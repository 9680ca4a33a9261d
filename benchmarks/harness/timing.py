"""Timing of small pieces of work against one another on a machine that others use too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

STORED = 5000
"""Transitions in every buffer that a learner is timed with."""


def interleaved(work: Mapping[str, Callable[[], object]], calls: int, rounds: int) -> dict[str, float]:
    """Seconds per call of each piece: the median over `rounds` of blocks of `calls`, taken in turn.

    Taking turns lets all of them meet the same disturbances, so that ratios mean something where times do not.
    """
    for function in work.values():
        for _ in range(max(1, calls // 4)):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, function in work.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(values) for name, values in seconds.items()}
