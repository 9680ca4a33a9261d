"""Is a camera's picture too bright, too dark, or no longer what it was at the start? Pure.

A policy sees pixels: automatic exposure or a lamp that was switched changes them all. Only a subsample of the pixels is
looked at, and what is said are averages over some seconds, so that a hand before the lens is no warning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SATURATED_LEVEL = 250
BLACK_LEVEL = 5
MOST_SATURATED = 0.25
MOST_BLACK = 0.60
MOST_DRIFT = 0.40
"""Share of its first mean brightness by which the mean may change."""
LEAST_DRIFT = 10.0
"""Levels of 255, below which a change is none, however dark the picture."""
GRID = 32
FIRST_LOOKS = 25
WEIGHT = 0.05
"""Of a new look in the running mean."""


@dataclass(frozen=True)
class Exposure:
    """Of one image: mean brightness (0 to 255), and the shares (0 to 1) of pixels at its upper and lower end."""

    mean: float
    saturated: float
    black: float

    def __str__(self) -> str:
        return f"mean {self.mean:.0f}, {self.saturated:.0%} saturated, {self.black:.0%} black"


def measure(rgb: np.ndarray) -> Exposure:
    """(H, W, 3) uint8, of which about 32 x 32 pixels are looked at."""
    rows, columns = (max(1, size // GRID) for size in rgb.shape[:2])
    grey = rgb[rows // 2 :: rows, columns // 2 :: columns].mean(axis=2)
    return Exposure(float(grey.mean()), float((grey >= SATURATED_LEVEL).mean()), float((grey <= BLACK_LEVEL).mean()))


class ExposureWatch:
    """One camera's running means. Call :meth:`look` a few times a second."""

    def __init__(self) -> None:
        self._looks = 0
        self._first_mean = 0.0
        self.now: Exposure | None = None
        """Running means; None before the first look."""

    def look(self, rgb: np.ndarray) -> None:
        """Take (H, W, 3) uint8 into the means."""
        new, old = measure(rgb), self.now
        self._looks += 1
        weight = max(WEIGHT, 1.0 / self._looks)
        if old is None:
            self.now = new
        else:
            self.now = Exposure(
                *(a + weight * (b - a) for a, b in zip(_values(old), _values(new), strict=True)),
            )
        if self._looks <= FIRST_LOOKS:
            self._first_mean = self.now.mean

    def problems(self) -> list[str]:
        """What is wrong and what to do, one sentence each. Drift is judged once the first mean stands."""
        if self.now is None:
            return []
        found = []
        if self.now.saturated > MOST_SATURATED:
            found.append(f"{self.now.saturated:.0%} of its pixels are saturated: shorten the exposure or dim the light")
        if self.now.black > MOST_BLACK:
            found.append(f"{self.now.black:.0%} of its pixels are black: lengthen the exposure, light, or uncover it")
        change = self.now.mean - self._first_mean
        if self._looks > FIRST_LOOKS and abs(change) > max(LEAST_DRIFT, MOST_DRIFT * self._first_mean):
            found.append(
                f"its mean brightness went from {self._first_mean:.0f} to {self.now.mean:.0f}: fix exposure and white "
                "balance, and keep the light as it was in the demonstrations"
            )
        return found


def _values(exposure: Exposure) -> tuple[float, float, float]:
    return exposure.mean, exposure.saturated, exposure.black
