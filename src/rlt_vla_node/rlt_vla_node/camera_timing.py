"""How late, how regular and how far from the robot state a camera's images are. Pure: stamps and times come in.

What is measured is what this node can see: the age of an image on arrival (its stamp to now, by the ROS clock), the
distance between stamps, and how far a matched image was from its state. The delay between the exposure and the stamp is
not in it: `calibrate_delay` measures that one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from rlt_common.config import CameraConfig

KEEP = 300
"""Images over which the figures are taken."""
RESTART_NS = 5_000_000_000
"""A gap between stamps beyond which the camera counts as started anew, not as having lost images."""
LEAST_IMAGES = 10
MOST_AGE_S = 1.0
MOST_AHEAD_S = 0.005
LEAST_RATE = 0.8
MOST_DROPPED = 0.02


@dataclass(frozen=True)
class TimingReport:
    """Figures over the newest images; None where nothing was measured yet.

    Attributes:
        images: so many came.
        dropped: so many are missing between stamps, by the rate that the robot file gives.
        rate_hz: by the stamps.
        age_s: (median, 99th percentile), s from stamp to arrival.
        skew_s: (median, 99th percentile of the absolute value), s from the state to the image, less `delay_s`.
    """

    images: int
    dropped: int
    rate_hz: float | None
    age_s: tuple[float, float] | None
    skew_s: tuple[float, float] | None

    def __str__(self) -> str:
        rate = "no rate yet" if self.rate_hz is None else f"{self.rate_hz:.1f} Hz"
        age = _pair("age", self.age_s)
        return f"{rate}, {age}, {_pair('skew', self.skew_s)}, {self.dropped} of {self.images + self.dropped} dropped"


def _pair(what: str, values: tuple[float, float] | None) -> str:
    return f"no {what} yet" if values is None else f"{what} {values[0] * 1e3:.0f} ms (p99 {values[1] * 1e3:.0f})"


class CameraTiming:
    """One camera's figures. `rate_hz`: what the robot file says."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._images: deque[tuple[int, int, int]] = deque(maxlen=KEEP)  # stamp ns, age ns, images missing before it
        self._skews_ns: deque[int] = deque(maxlen=KEEP)

    def on_image(self, stamp_ns: int, now_ns: int) -> None:
        """An image of `stamp_ns` came at `now_ns`, both by the ROS clock."""
        missing = 0
        if self._images:
            gap_ns = stamp_ns - self._images[-1][0]
            if gap_ns == 0:
                return
            if not 0 < gap_ns < RESTART_NS:
                self._images.clear()
            else:
                missing = max(0, round(gap_ns * 1e-9 * self._rate_hz) - 1)
        self._images.append((stamp_ns, now_ns - stamp_ns, missing))

    def on_match(self, skew_ns: int) -> None:
        """An image was taken for a state that is `skew_ns` older than it."""
        self._skews_ns.append(skew_ns)

    def report(self) -> TimingReport:
        """The figures of now."""
        stamps = [stamp for stamp, _, _ in self._images]
        span_ns = stamps[-1] - stamps[0] if stamps else 0
        ages, skews = sorted(age for _, age, _ in self._images), sorted(self._skews_ns)
        return TimingReport(
            images=len(stamps),
            dropped=sum(missing for _, _, missing in self._images),
            rate_hz=(len(stamps) - 1) * 1e9 / span_ns if span_ns else None,
            age_s=(_percentile(ages, 50), _percentile(ages, 99)) if ages else None,
            skew_s=(_percentile(skews, 50), _percentile(sorted(map(abs, skews)), 99)) if skews else None,
        )


def _percentile(rising_ns: list[int], percent: int) -> float:
    """By nearest rank; s. numpy's takes ten times as long for so few values, and this runs beside the observations."""
    return rising_ns[min(len(rising_ns) - 1, percent * len(rising_ns) // 100)] * 1e-9


def timing_problems(camera: CameraConfig, report: TimingReport) -> list[str]:
    """What is wrong with a robot's camera and what to do, one sentence each. Nothing before ten images."""
    if report.images < LEAST_IMAGES or report.age_s is None or report.rate_hz is None:
        return []
    found, age_s = [], report.age_s[0]
    if age_s < -MOST_AHEAD_S:
        found.append(
            f"its stamps are {-age_s:.3f} s ahead of this machine's clock: synchronise the clocks (chrony, PTP), or "
            "have the driver stamp with the system's time"
        )
    if age_s > MOST_AGE_S:
        found.append(
            f"its images are {age_s:.1f} s old when they come: the driver stamps by another clock, or images queue up "
            "on the way"
        )
    if report.rate_hz < LEAST_RATE * camera.rate_hz:
        found.append(
            f"it gives {report.rate_hz:.1f} of {camera.rate_hz:g} Hz: shorten its exposure, look at USB and network "
            "load, or correct rate_hz in the robot file"
        )
    elif report.dropped > MOST_DROPPED * (report.images + report.dropped):
        found.append(
            f"{report.dropped} of {report.images + report.dropped} images were lost: use transport: compressed, a "
            "smaller image, or look at USB and network load"
        )
    return found
