"""The delay between a camera's stamps and the arms', from a recording in which a person moves an arm. Pure.

Between two images the picture changes by as much as the arms have moved between the two exposures. So, for every
candidate delay d, the distance that the joints went from t0 - d to t1 - d is compared with the change of the picture
between the images stamped t0 and t1; the d of the highest correlation is the delay, to a fraction of a frame since the
joint states are interpolated. Leaving out one tenth of the recording at a time (jackknife) says how sure that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SEARCH_S = (-0.2, 0.6)
STEP_S = 0.005
LEAST_SECONDS = 8.0
LEAST_IMAGES = 80
LEAST_SPEED = 0.05
"""rad/s (m/s), root of the sum of squares over the joints: below, the arm counts as at rest."""
LEAST_MOVING = 0.3
"""Share of the images between which the arm has to move."""
LEAST_CONTRAST = 2.0
"""The picture's change while the arm moves, in multiples of its change at rest or nearly so."""
LEAST_CORRELATION = 0.5
MOST_RIVAL = 0.9
MOST_ERROR_S = 0.01
BLOCKS = 10
PICTURE_SIZE = 160
"""Pixels of the longer side at which pictures are compared."""


class CalibrationError(ValueError):
    """The recording does not tell the delay: what is missing and how to record again."""


@dataclass(frozen=True)
class DelayEstimate:
    """The delay, s, with its standard error, s, and the correlation (0 to 1) of picture and joints at that delay."""

    delay_s: float
    error_s: float
    correlation: float
    images: int


class MotionRecording:
    """What was heard of the joints and seen by the camera. Stamps in ns, each source's in rising order."""

    def __init__(self) -> None:
        self._states: list[tuple[int, np.ndarray]] = []
        self._changes: list[tuple[int, float]] = []
        self._picture: np.ndarray | None = None

    def on_state(self, stamp_ns: int, positions: Sequence[float]) -> None:
        """Joint positions (J,), rad or m. A stamp that does not advance is passed over."""
        if not self._states or stamp_ns > self._states[-1][0]:
            self._states.append((stamp_ns, np.asarray(positions, np.float64)))

    def on_image(self, stamp_ns: int, rgb: np.ndarray) -> None:
        """An image (H, W, 3) uint8. A stamp that does not advance is passed over."""
        if self._changes and stamp_ns <= self._changes[-1][0]:
            return
        scale = PICTURE_SIZE / max(rgb.shape[:2])
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        if scale < 1.0:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        change = 0.0 if self._picture is None else float(cv2.absdiff(grey, self._picture).mean())
        self._picture = grey
        self._changes.append((stamp_ns, change))

    @property
    def images(self) -> int:
        """How many images were taken in."""
        return len(self._changes)

    @property
    def states(self) -> int:
        """How many joint states were taken in."""
        return len(self._states)

    @property
    def seconds(self) -> float:
        """What both sources cover, s."""
        if not self._states or not self._changes:
            return 0.0
        end = min(self._states[-1][0], self._changes[-1][0])
        return max(0.0, (end - max(self._states[0][0], self._changes[0][0])) * 1e-9)

    def estimate(self) -> DelayEstimate:
        """The delay. Raises CalibrationError when the recording does not tell it."""
        if self.seconds < LEAST_SECONDS or self.images < LEAST_IMAGES:
            raise CalibrationError(
                f"{self.images} images over {self.seconds:.1f} s in which joint states came too: at least "
                f"{LEAST_IMAGES} over {LEAST_SECONDS:g} s are needed; do camera and joint states publish, and do their "
                "clocks agree?"
            )
        zero = self._states[0][0]
        states_s = np.array([(stamp - zero) * 1e-9 for stamp, _ in self._states])
        images_s = np.array([(stamp - zero) * 1e-9 for stamp, _ in self._changes])
        positions = np.stack([position for _, position in self._states])
        changes = np.array([change for _, change in self._changes])
        inside = (images_s > states_s[0] + SEARCH_S[1]) & (images_s < states_s[-1] + SEARCH_S[0])
        first, last = int(np.argmax(inside)), len(inside) - int(np.argmax(inside[::-1]))
        images_s, changes = images_s[first:last], changes[first + 1 : last]
        moves = _moves(states_s, positions, images_s)
        self._check_motion(moves, changes, images_s)
        delays = np.arange(SEARCH_S[0], SEARCH_S[1] + STEP_S / 2, STEP_S)
        curves = np.stack([_moves(states_s, positions, images_s - delay) for delay in delays])
        return _estimate(delays, curves, changes)

    @staticmethod
    def _check_motion(moves: np.ndarray, changes: np.ndarray, images_s: np.ndarray) -> None:
        moving = moves > LEAST_SPEED * np.diff(images_s)
        if moving.mean() < LEAST_MOVING:
            raise CalibrationError(
                f"the arm moved in {moving.mean():.0%} of the recording, at least {LEAST_MOVING:.0%} are needed: move "
                "it by hand or by teleoperation, in view of the camera"
            )
        low, high = np.percentile(changes, (10, 90))
        if high < LEAST_CONTRAST * max(low, 1e-3):
            raise CalibrationError(
                f"the picture changed by {low:.2f} to {high:.2f} levels, whether the arm moved or not: move it faster, "
                "with stops, where the camera sees it"
            )


def _moves(states_s: np.ndarray, positions: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """How far the joints go (root of the sum of squares) between the times `at_s` (N,): (N - 1,)."""
    there = np.stack([np.interp(at_s, states_s, joint) for joint in positions.T], axis=1)
    return np.linalg.norm(np.diff(there, axis=0), axis=1)


def _correlations(curves: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Correlation of every row of `curves` (D, N) with `changes` (N,). Square roots: a picture's change saturates."""
    rows, target = np.sqrt(curves), np.sqrt(changes)
    rows, target = rows - rows.mean(axis=1, keepdims=True), target - target.mean()
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(target)
    return rows @ target / np.maximum(norms, 1e-12)


def _peak(delays: np.ndarray, correlations: np.ndarray) -> float:
    """The delay of the highest correlation, between the candidates by a parabola."""
    best = int(np.argmax(correlations))
    if not 0 < best < len(delays) - 1:
        return float(delays[best])
    before, at, after = correlations[best - 1 : best + 2]
    return float(delays[best] + 0.5 * (before - after) / (before - 2.0 * at + after) * STEP_S)


def _estimate(delays: np.ndarray, curves: np.ndarray, changes: np.ndarray) -> DelayEstimate:
    correlations = _correlations(curves, changes)
    best = int(np.argmax(correlations))
    height = float(correlations[best])
    if height < LEAST_CORRELATION:
        raise CalibrationError(
            f"the picture's motion does not follow the joints' (correlation {height:.2f}, at least "
            f"{LEAST_CORRELATION:g} is needed): does this camera see this arm, and does nothing else move?"
        )
    if not 0 < best < len(delays) - 1:
        raise CalibrationError(
            f"the delay is beyond {SEARCH_S[0]:g} to {SEARCH_S[1]:g} s: do camera and arms stamp by the same clock?"
        )
    middle = correlations[1:-1]
    tops = (middle >= correlations[:-2]) & (middle >= correlations[2:])
    rivals = [float(c) for i, c in enumerate(middle, 1) if tops[i - 1] and i != best]
    if rivals and max(rivals) > MOST_RIVAL * height:
        raise CalibrationError(
            "the motion repeats itself, so that several delays fit: move irregularly, now fast, now slow, with stops"
        )
    parts = np.array_split(np.arange(len(changes)), BLOCKS)
    without = [
        _peak(delays, _correlations(np.delete(curves, part, axis=1), np.delete(changes, part))) for part in parts
    ]
    error_s = float(np.sqrt((BLOCKS - 1) / BLOCKS * np.sum((without - np.mean(without)) ** 2)))
    if error_s > MOST_ERROR_S:
        raise CalibrationError(
            f"parts of the recording disagree (standard error {error_s * 1e3:.0f} ms): record longer, move faster and "
            "more irregularly, and keep everything else in the picture still"
        )
    return DelayEstimate(_peak(delays, correlations), error_s, height, len(changes) + 1)
