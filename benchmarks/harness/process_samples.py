"""What the processes of a graph take over time: memory, file handles, shared memory; and how fast it grows.

Read from /proc. Slopes are least squares over the time after a warm-up, with 95 % intervals; one whose upper
end is too small to matter is flat.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")
SHARED = Path("/dev/shm")
Z95 = 1.96


@dataclass(frozen=True)
class Slope:
    """Growth per hour with its 95 % interval."""

    per_hour: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """For a table."""
        return f"{self.per_hour:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def sample_process(pid: int) -> dict[str, float]:
    """Resident memory (MB) and open file handles of a process. Raises OSError when it is gone."""
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
    return {"rss_mb": int(fields[1]) * PAGE / 1e6, "handles": float(len(os.listdir(f"/proc/{pid}/fd")))}


def shared_memory_mb(pids: Sequence[int]) -> float:
    """Room that what these processes have mapped takes in /dev/shm, MB: what is written, not what was reserved."""
    mapped = set()
    for pid in pids:
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
        mapped |= {words[5] for line in lines if len(words := line.split(maxsplit=5)) == 6}
    total = 0
    for path in mapped:
        if path.startswith(str(SHARED)):
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(path).st_blocks * 512
    return total / 1e6


def slope(hours: Sequence[float], values: Sequence[float]) -> Slope:
    """Growth of `values` over `hours`; neighbours that resemble each other widen the interval.

    The residuals of samples seconds apart are correlated: the number of independent ones follows from their lag-one
    autocorrelation. Raises ValueError for fewer than 8 samples.
    """
    x, y = np.asarray(hours, float), np.asarray(values, float)
    if x.size < 8 or np.ptp(x) <= 0:
        raise ValueError(f"{x.size} samples over {np.ptp(x) if x.size else 0:g} h say nothing about growth")
    centred = x - x.mean()
    per_hour = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - per_hour * centred
    power = float(rest @ rest)
    alike = max(0.0, float(rest[1:] @ rest[:-1]) / power) if power > 0 else 0.0
    independent = max(3.0, x.size * (1 - alike) / (1 + alike))
    error = math.sqrt(power / (x.size - 2) / float(centred @ centred) * x.size / independent)
    return Slope(per_hour, per_hour - Z95 * error, per_hour + Z95 * error)


def flat(found: Slope, bearable_per_hour: float) -> bool:
    """Whether growth beyond the bearable is ruled out: a slope that is not known well enough is not flat."""
    return found.high <= bearable_per_hour
