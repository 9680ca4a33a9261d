"""How the operating system runs a node's process: real-time priority and cores, asked for by parameter.

Where the system refuses, the words say what to set (docs/robot_pc.md). Only on a robot: in lockstep everybody waits.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

from rclpy.node import Node

from rlt_common.parameters import param
from rlt_common.reading import read_limited

HIGHEST_PRIORITY = 98
SENDING_THREAD = b"dds.asyn"
"""How the names of Fast DDS's sending threads begin."""


def priority_param() -> int:
    """The parameter `priority` of a node that may have one."""
    return param(
        0,
        "on a robot: real-time priority of the process (SCHED_FIFO); 0: as the system has it",
        minimum=0,
        maximum=HIGHEST_PRIORITY,
    )


def schedule_node(node: Node, priority: int, cpus: Sequence[int] = (), runaway_s: float | None = None) -> str:
    """:func:`schedule` the process of `node`; what the system refused is a warning in its log, and returned."""
    refused = schedule(priority, cpus, runaway_s)
    if refused:
        node.get_logger().warning(refused)
    return refused


def schedule(priority: int, cpus: Sequence[int] = (), runaway_s: float | None = None) -> str:
    """Give every thread of this process a real-time priority and keep it on some cores.

    Call it in the main thread and when the threads of DDS are there: they take the messages in, and those they start
    inherit from them. The main thread stands above them, and Fast DDS's sending thread, which spins while another
    thread takes a message out of its queue, below: on one core it would else never let that thread go on.

    Args:
        priority: of SCHED_FIFO, 1 to 99, for the main thread; 0 leaves the scheduling as it is.
        cpus: numbers of the cores; none leaves them as they are.
        runaway_s: a thread of real-time priority that runs so long, s, without waiting for anything ends the process
            (SIGXCPU). None: it may, but for what the kernel keeps for others.

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
        if priority and runaway_s is not None:
            _end_when_runaway(runaway_s)
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


def _below(thread: int) -> int:
    """How far a thread's priority stands below the main thread's."""
    if thread == os.getpid():
        return 0
    with contextlib.suppress(FileNotFoundError):
        if read_limited(f"/proc/self/task/{thread}/comm", 64).startswith(SENDING_THREAD):
            return 2
    return 1


def _end_when_runaway(runaway_s: float) -> None:
    """The kernel's limit for real-time threads; where each Python thread was goes to stderr."""
    faulthandler.register(signal.SIGXCPU, chain=True)
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    limit = round(runaway_s * 1e6)
    resource.setrlimit(resource.RLIMIT_RTTIME, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _set_cpus(thread: int, cpus: Sequence[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended since it was listed
        os.sched_setaffinity(thread, cpus)


def _set_priority(thread: int, priority: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
