"""Figures over several seeds: every held-out reset of every seed counts once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlt_bringup import statistics

Policy = Mapping[str, Sequence[Any]]
"""A policy on the resets of one seed: `success` and critical `steps` of its episodes in order, maybe more."""


def pool(policies: Sequence[Policy], control_hz: float) -> dict[str, Any]:
    """Success rate, throughput and median steps over the episodes of all seeds, under the names of a report."""
    success, steps = _joined(policies, "success"), _joined(policies, "steps")
    return {
        "episodes": len(success),
        "successes": sum(success),
        "success_rate": sum(success) / len(success),
        "ci95": statistics.wilson_interval(sum(success), len(success)),
        "throughput_per_10min": statistics.throughput(sum(success), sum(steps), control_hz),
        "median_steps": statistics.median([n for n, won in zip(steps, success, strict=True) if won]),
    }


def pooled_ratio(policies: Sequence[Policy], others: Sequence[Policy], control_hz: float) -> dict[str, Any]:
    """Throughput and median steps of `policies` over those of `others` on the same resets, under the names of a report.

    An end of the throughput's interval that is not finite is None.
    """
    ours, theirs = pool(policies, control_hz), pool(others, control_hz)
    columns = [_joined(source, key) for source in (policies, others) for key in ("success", "steps")]
    bounds = statistics.bootstrap_throughput_ratio(*columns, seed=0)
    return {
        "throughput": quotient(ours["throughput_per_10min"], theirs["throughput_per_10min"]),
        "throughput_ci95": [bound if math.isfinite(bound) else None for bound in bounds],
        "median_steps": quotient(ours["median_steps"], theirs["median_steps"]),
    }


def quotient(value: float | None, other: float | None) -> float | None:
    """`value` over `other`; None where there is none."""
    return None if value is None or not other else value / other


def _joined(policies: Sequence[Policy], key: str) -> list[Any]:
    return [value for policy in policies for value in policy[key]]
