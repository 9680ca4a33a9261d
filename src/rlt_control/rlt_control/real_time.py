"""How the operating system runs the executor's process, and how late its ticks start. No ROS.

Real-time priority and cores are asked for by parameter; where the system refuses, the words say what to set
(docs/robot_pc.md). Nothing here is needed in lockstep.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlt_common.reading import read_limited

WINDOW = 3000
"""Ticks that the percentiles are taken over: a minute at 50 Hz."""
QUIET_S = 0.001
"""So long before a tick no callback is begun any more: it would run into the tick."""
RUNAWAY_S = 1.0
SENDING_THREAD = b"dds.asyn"
"""How the names of Fast DDS's sending threads begin."""
LIMITS_MS = (5, 20)
"""Ticks that start later than these are counted."""


def schedule(priority: int, cpus: Sequence[int]) -> str:
    """Give every thread of this process a real-time priority and keep it on some cores.

    Call it in the main thread and when the threads of DDS are there: they take the messages in, and those they start
    inherit from them. The main thread stands above them, and Fast DDS's sending thread, which spins while another
    thread takes a message out of its queue, below: on one core it would else never let that thread go on. A thread
    that runs for RUNAWAY_S without waiting for anything ends the process (SIGXCPU), and the arms hold.

    Args:
        priority: of SCHED_FIFO, 1 to 99, for the main thread; 0 leaves the scheduling as it is.
        cpus: numbers of the cores; none leaves them as they are.

    Returns:
        "" or what the system refused and what to set; what could be set is set.
    """
    problems = []
    threads = [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
    try:
        for thread in threads if cpus else ():
            _set_cpus(thread, cpus)
    except OSError as error:
        usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        problems.append(f"cpus {list(cpus)}: {error.strerror}: this process may use {usable}")
    try:
        if priority:
            _end_when_runaway()
        for thread in threads if priority else ():
            _set_priority(thread, max(1, priority - _below(thread)))
    except PermissionError as error:
        problems.append(
            f"priority {priority}: {error.strerror}: allow it with `rtprio {priority}` for this user in "
            "/etc/security/limits.d and log in again (docs/robot_pc.md)"
        )
    return "; ".join(problems)


def scheduling() -> str:
    """How this process is scheduled, for diagnostics: policy, priority, cores."""
    policies = {os.SCHED_OTHER: "SCHED_OTHER", os.SCHED_FIFO: "SCHED_FIFO", os.SCHED_RR: "SCHED_RR"}
    policy = os.sched_getscheduler(0)
    priority = os.sched_getparam(0).sched_priority
    cpus = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    return f"{policies.get(policy, f'policy {policy}')} {priority}, cpus {cpus}"


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


def _below(thread: int) -> int:
    """How far a thread's priority stands below the main thread's."""
    if thread == os.getpid():
        return 0
    with contextlib.suppress(FileNotFoundError):
        if read_limited(f"/proc/self/task/{thread}/comm", 64).startswith(SENDING_THREAD):
            return 2
    return 1


def _end_when_runaway() -> None:
    """The kernel's limit for real-time threads; where each Python thread was goes to stderr."""
    faulthandler.register(signal.SIGXCPU, chain=True)
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    limit = round(RUNAWAY_S * 1e6)
    resource.setrlimit(resource.RLIMIT_RTTIME, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _set_cpus(thread: int, cpus: Sequence[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended since it was listed
        os.sched_setaffinity(thread, cpus)


def _set_priority(thread: int, priority: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
