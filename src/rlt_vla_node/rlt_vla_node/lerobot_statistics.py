"""Statistics of a data set's columns as LeRobot keeps them: of each episode, and of all.

Computed in float64: LeRobot's own writer takes the variance of float32 values as the mean of squares minus the squared
mean, which leaves nothing of a joint that moves little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
SAMPLED_IMAGES, SAMPLED_PIXELS = 50, 150
"""Images of an episode, and pixels a side, at most, that the statistics of its images are taken of."""

Statistics = dict[str, np.ndarray]


def column_statistics(values: np.ndarray) -> Statistics:
    """Of (T, width) numbers: (width,) float64 each, and count (1,)."""
    wide = values.astype(np.float64)
    found = {
        "min": wide.min(axis=0),
        "max": wide.max(axis=0),
        "mean": wide.mean(axis=0),
        "std": wide.std(axis=0),
        "count": np.array([len(wide)]),
    }
    quantiles = np.quantile(wide, list(QUANTILES.values()), axis=0)
    return found | dict(zip(QUANTILES, quantiles, strict=True))


def image_statistics(images: np.ndarray) -> Statistics:
    """Of (N, H, W, 3) uint8 RGB: (3, 1, 1) float64 each, from 0 to 1, and count (1,): the images."""
    step = -(-max(images.shape[1:3]) // SAMPLED_PIXELS)
    pixels = images[:, ::step, ::step].reshape(-1, 3) / 255.0
    found = {name: values.reshape(3, 1, 1) for name, values in column_statistics(pixels).items() if name != "count"}
    return {**found, "count": np.array([len(images)])}


def sampled(count: int) -> np.ndarray:
    """Places of the images that an episode of `count` is judged by, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLED_IMAGES)).round().astype(int))


def combined(parts: Sequence[Mapping[str, np.ndarray]]) -> Statistics:
    """Of all episodes, from those of each. Quantiles are the mean of theirs, by count, as in LeRobot."""
    counts = np.array([part["count"][0] for part in parts], np.float64)
    weights = (counts / counts.sum()).reshape(-1, *[1] * parts[0]["mean"].ndim)

    def of(name: str) -> np.ndarray:
        return np.stack([part[name] for part in parts])

    mean = (weights * of("mean")).sum(axis=0)
    variance = (weights * (of("std") ** 2 + (of("mean") - mean) ** 2)).sum(axis=0)
    found = {
        "min": of("min").min(axis=0),
        "max": of("max").max(axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(counts.sum())]),
    }
    return found | {name: (weights * of(name)).sum(axis=0) for name in QUANTILES}
