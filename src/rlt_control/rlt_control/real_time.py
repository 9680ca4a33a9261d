"""The executor's ticks on absolute deadlines, what its process does for them, and how late they start. No ROS.

Nothing here is needed in lockstep. Its priority and cores: `rlt_common.scheduling`.
"""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable

import numpy as np

WINDOW = 3000
"""Ticks that the percentiles are taken over: a minute at 50 Hz."""
QUIET_S = 0.001
"""So long before a tick no callback is begun any more: it would run into the tick."""
RUNAWAY_S = 1.0
"""A thread of the executor that runs so long without waiting for anything ends the process, and the arms hold."""
LIMITS_MS = (5, 20)
"""Ticks that start later than these are counted."""


def keep_garbage_collection_short() -> None:
    """Take what is there now (modules, node, model) out of the garbage collector's sight.

    A full collection over all of it takes tens of milliseconds; over what a control loop makes, less than one.
    """
    gc.collect()
    gc.freeze()


def publish_from_another_thread() -> None:
    """Let Fast DDS send in a thread of its own, unless the caller's environment says otherwise. Before rclpy.init().

    Whoever sends through shared memory locks the receiver's port. A receiver of low priority that the scheduler puts
    aside while it holds that lock keeps even a real-time sender waiting, for tens of milliseconds on a busy machine.
    """
    os.environ.setdefault("RMW_FASTRTPS_PUBLICATION_MODE", "ASYNCHRONOUS")


def run_on_deadlines(
    period_s: float,
    tick: Callable[[float], None],
    spin_once: Callable[[float], None],
    running: Callable[[], bool],
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Tick on absolute deadlines; between them callbacks run until shortly before the next one.

    Args:
        period_s: between deadlines. Those that a late tick has passed are left out.
        tick: gets how late it starts, s.
        spin_once: waits at most so long, s, for one callback and runs it.
        running: whether to go on.
        now_s: monotonic clock.
        sleep: waits, s.
    """
    deadline = now_s() + period_s
    while running():
        spin_once(0.0)  # however late a tick is, an emergency stop gets its turn
        while (left := deadline - QUIET_S - now_s()) > 0:
            spin_once(left)
        if (left := deadline - now_s()) > 0:
            sleep(left)
        now = now_s()
        tick(now - deadline)
        deadline += period_s * max(1, int((now - deadline) / period_s) + 1)


class TickLateness:
    """How late ticks start: percentiles over the last minute, counts since the start."""

    def __init__(self, window: int = WINDOW) -> None:
        self._late_s: deque[float] = deque(maxlen=window)
        self._over = dict.fromkeys(LIMITS_MS, 0)

    def add(self, late_s: float) -> None:
        """A tick started `late_s` after its deadline."""
        self._late_s.append(late_s)
        for limit_ms in LIMITS_MS:
            self._over[limit_ms] += late_s * 1e3 > limit_ms

    def values(self) -> dict[str, str]:
        """Named values for diagnostics."""
        late = np.percentile(self._late_s, (50, 99, 99.9, 100)) * 1e3 if self._late_s else np.zeros(4)
        names = ("late_p50_ms", "late_p99_ms", "late_p999_ms", "late_max_ms")
        over = {f"late_over_{limit_ms}_ms": str(count) for limit_ms, count in self._over.items()}
        return {**{name: f"{value:.2f}" for name, value in zip(names, late, strict=True)}, **over}
