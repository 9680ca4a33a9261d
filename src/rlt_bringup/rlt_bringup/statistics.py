"""The few statistics behind the report: interval of a success rate, median, throughput, and a ratio on equal resets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959963984540054  # 97.5 % point of the standard normal distribution
THROUGHPUT_WINDOW_S = 600.0  # Sec. V: successful completions per 10 minutes
_DRAWS_AT_ONCE = 1000


def wilson_interval(successes: int, trials: int) -> tuple[float, float] | None:
    """95 % Wilson score interval of a success rate; None without trials.

    Raises ValueError when `successes` does not lie in 0 to `trials`.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return None
    rate, z2 = successes / trials, Z_95 * Z_95
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return low, high


def median(values: Sequence[float]) -> float | None:
    """The median; None for no values."""
    return float(np.median(values)) if len(values) else None


def throughput(successes: int, steps: int, control_hz: float) -> float | None:
    """Successes per 10 minutes of robot time. `steps` counts every control step, those of failures too.

    None when no time has passed.
    """
    if steps == 0:
        return None
    return successes * THROUGHPUT_WINDOW_S * control_hz / steps


def bootstrap_throughput_ratio(
    success: Sequence[bool],
    steps: Sequence[int],
    base_success: Sequence[bool],
    base_steps: Sequence[int],
    *,
    seed: int,
    draws: int = 10_000,
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of throughput / base throughput of two policies on the same resets.

    All four sequences are indexed by reset: episodes of one reset are drawn together, since hard resets are hard for
    both policies. A draw without any success of the base counts as 0 for the lower end and as infinite for the upper
    one if the policy has none either, and as infinite otherwise; the upper end may therefore be infinite.

    Returns None for no episodes. Raises ValueError for sequences of unequal length.
    """
    columns = [np.asarray(column, np.float64) for column in (success, steps, base_success, base_steps)]
    if len({column.size for column in columns}) != 1:
        raise ValueError(f"sequences of {[column.size for column in columns]} episodes are not paired")
    data = np.stack(columns, axis=1)
    if len(data) == 0:
        return None
    rng = np.random.default_rng(seed)
    ratios = []
    for begin in range(0, draws, _DRAWS_AT_ONCE):
        index = rng.integers(0, len(data), (min(_DRAWS_AT_ONCE, draws - begin), len(data)))
        won, taken, base_won, base_taken = data[index].sum(axis=1).T
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append((won / taken) / (base_won / base_taken))
    return _ratio_interval(np.concatenate(ratios))


def difference_interval(
    successes: int, trials: int, base_successes: int, base_trials: int
) -> tuple[float, float] | None:
    """95 % interval of a difference of two success rates, of episodes that are not paired; None without trials of both.

    Newcombe's hybrid of two Wilson intervals (Statistics in Medicine 17, 1998, method 10).
    """
    ours, theirs = wilson_interval(successes, trials), wilson_interval(base_successes, base_trials)
    if ours is None or theirs is None:
        return None
    rate, base = successes / trials, base_successes / base_trials
    low = math.hypot(rate - ours[0], theirs[1] - base)
    high = math.hypot(ours[1] - rate, base - theirs[0])
    return rate - base - low, rate - base + high


def bootstrap_throughput(
    success: Sequence[bool], steps: Sequence[int], control_hz: float, *, seed: int, draws: int = 1000
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the throughput over episodes; None when no time has passed."""
    won, taken = np.asarray(success, float), np.asarray(steps, float)
    if not taken.sum():
        return None
    index = np.random.default_rng(seed).integers(0, len(won), (draws, len(won)))
    passed = np.maximum(taken[index].sum(axis=1), 1.0)
    low, high = np.percentile(THROUGHPUT_WINDOW_S * control_hz * won[index].sum(axis=1) / passed, (2.5, 97.5))
    return float(low), float(high)


def bootstrap_ratio(
    success: Sequence[bool],
    steps: Sequence[int],
    base_success: Sequence[bool],
    base_steps: Sequence[int],
    *,
    seed: int,
    draws: int = 10_000,
) -> tuple[float, float] | None:
    """As :func:`bootstrap_throughput_ratio`, of episodes that are not paired: each policy's are drawn by themselves."""
    if not len(success) or not len(base_success):
        return None
    rng = np.random.default_rng(seed)
    rates = []
    for won, taken in ((success, steps), (base_success, base_steps)):
        won, taken = np.asarray(won, float), np.asarray(taken, float)
        index = rng.integers(0, len(won), (draws, len(won)))
        rates.append(won[index].sum(axis=1) / np.maximum(taken[index].sum(axis=1), 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rates[0] / rates[1]
    return _ratio_interval(ratio)


def bootstrap_median_difference(
    values: Sequence[float], base: Sequence[float], *, seed: int, draws: int = 10_000
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a difference of medians; None when either has no values."""
    if not len(values) or not len(base):
        return None
    rng = np.random.default_rng(seed)
    ours, theirs = (
        np.median(np.asarray(part, float)[rng.integers(0, len(part), (draws, len(part)))], axis=1)
        for part in (values, base)
    )
    low, high = np.percentile(ours - theirs, (2.5, 97.5))
    return float(low), float(high)


def _ratio_interval(ratio: np.ndarray) -> tuple[float, float]:
    """95 % of the drawn ratios; 0 / 0 counts as 0 for the lower end and as infinite for the upper one."""
    undecided = np.isnan(ratio)
    low = np.percentile(np.where(undecided, 0.0, ratio), 2.5, method="inverted_cdf")
    high = np.percentile(np.where(undecided, np.inf, ratio), 97.5, method="inverted_cdf")
    return float(low), float(high)
