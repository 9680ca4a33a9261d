"""How late the ticks of a 50 Hz loop start, from when they were due and when they started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

MISS_S, GROSS_S = 0.005, 0.020
"""Started so late, a tick is a miss; a gross one."""
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


def lateness_s(ticks: np.ndarray, period_s: float) -> np.ndarray:
    """Lateness of every deadline, also of those that a loop passed over because it was late.

    A deadline that was passed over is as late as the next tick that started after it.

    Args:
        ticks: (n, 2) monotonic s: deadline, start; rising, deadlines whole periods apart.
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
    periods = np.diff(due) / period_s
    if np.any(np.abs(periods - np.round(periods)) > 0.05):
        raise ValueError(
            f"deadlines {periods.min():g} to {periods.max():g} periods apart: not a loop of {period_s:g} s"
        )
    # From one tick to the next only, so that a clock that drifts against the period does no harm.
    gaps = np.concatenate(([1], np.round(periods).astype(int)))
    every = np.concatenate([d - period_s * np.arange(g - 1, -1, -1) for d, g in zip(due, gaps, strict=True)])
    first = np.searchsorted(start, every - 1e-4)
    return np.maximum(start[np.minimum(first, len(start) - 1)] - every, 0.0)


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
