"""How late the ticks of a 50 Hz loop start, from when they were due and when they started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

MISS_S, GROSS_S = 0.005, 0.020
"""Started so late, a tick is a miss; a gross one."""
OFF_GRID, MOST_OFF_GRID = 0.05, 0.02
"""Periods; share of the ticks."""
EARLY_S = 1e-4
"""A tick may seem so early: two clock readings lie between its deadline and its start."""
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


def lateness_s(ticks: np.ndarray, period_s: float) -> np.ndarray:
    """Lateness of every deadline, also of those that a loop passed over because it was late.

    A deadline that was passed over is as late as the next tick that started after it. The deadlines are a grid: their
    phase is the median of what the ticks say, since a process that is put aside between two lines says it wrongly.

    Args:
        ticks: (n, 2) monotonic s: deadline, start; rising.
        period_s: of the loop.

    Returns:
        (m,) s, m >= n: one per period from the first deadline to the last.

    Raises:
        ValueError: there are no ticks, or their deadlines are not whole periods apart.
    """
    ticks = np.asarray(ticks, np.float64)
    if ticks.ndim != 2 or ticks.shape[1] != 2 or not len(ticks):
        raise ValueError(f"ticks of shape {ticks.shape}: (n, 2) with n > 0 is needed")
    due, start = ticks.T
    periods = (due - due[0]) / period_s
    phase = np.median(periods - np.round(periods))
    off = np.abs(periods - phase - np.round(periods - phase)) > OFF_GRID
    if off.mean() > MOST_OFF_GRID:
        raise ValueError(f"{off.sum()} of {len(off)} deadlines are not on a grid: not a loop of {period_s:g} s")
    first, last = np.round(periods - phase).astype(int)[[0, -1]]
    every = due[0] + (phase + np.arange(first, last + 1)) * period_s
    served = np.searchsorted(start, every - EARLY_S)
    return np.maximum(start[np.minimum(served, len(start) - 1)] - every, 0.0)


def figures(late_s: np.ndarray) -> dict[str, Any]:
    """Ticks, misses, and percentiles of the lateness in ms."""
    values = np.percentile(late_s, list(PERCENTILES.values())) * 1e3
    return {
        "ticks": len(late_s),
        "over_5_ms": int((late_s > MISS_S).sum()),
        "over_20_ms": int((late_s > GROSS_S).sum()),
        "late_ms": {name: float(value) for name, value in zip(PERCENTILES, values, strict=True)},
    }


def share(row: Mapping[str, Any]) -> float:
    """Misses per tick."""
    return row["over_5_ms"] / row["ticks"]
