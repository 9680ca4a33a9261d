"""The executor's process: priority and cores are really set or refused in words, and lateness is counted."""

import gc
import os
import signal
import subprocess
import sys

import pytest

from rlt_control.real_time import (
    QUIET_S,
    TickLateness,
    keep_garbage_collection_short,
    run_on_deadlines,
    scheduling,
)

CPUS = sorted(os.sched_getaffinity(0))
THREADED = """
import ctypes, os, sys, threading
from rlt_control.real_time import schedule, scheduling
{before}
named, done = threading.Event(), threading.Event()

def wait():
    PR_SET_NAME = 15
    ctypes.CDLL(None).prctl(PR_SET_NAME, {name!r}, 0, 0, 0)
    named.set()
    done.wait()

other = threading.Thread(target=wait)
other.start()
named.wait()
print(schedule({priority}, {cpus}))
print(scheduling())
thread = other.native_id
priority = os.sched_getparam(thread).sched_priority
print(os.sched_getscheduler(thread), priority, sorted(os.sched_getaffinity(thread)))
done.set()
"""


def in_a_process(priority=0, cpus=(), before="", name="other"):
    """The words of schedule(), the scheduling of the process, and that of a thread `name` that was there before."""
    text = THREADED.format(priority=priority, cpus=list(cpus), before=before, name=name.encode())
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_nothing_is_changed_unless_asked_for():
    words, now, _ = in_a_process()
    assert (words, now) == ("", scheduling())


def test_every_thread_stays_on_the_cores():
    words, now, other = in_a_process(cpus=CPUS[:1])
    assert words == ""
    assert now.endswith(f"cpus {CPUS[0]}")
    assert other.endswith(str(CPUS[:1]))


def test_a_core_that_is_not_there_is_refused_and_named():
    words, now, _ = in_a_process(cpus=(4000,))
    assert "cpus [4000]" in words
    assert f"may use {', '.join(map(str, CPUS))}" in words
    assert now == scheduling()


def may_have_priority() -> bool:
    ask = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, timeout=60).returncode == 0


@pytest.mark.skipif(not may_have_priority(), reason="this user may have no real-time priority")
def test_every_thread_gets_the_priority():
    words, now, other = in_a_process(priority=5)
    assert words == ""
    assert now.startswith("SCHED_FIFO 5,")
    assert other.startswith(f"{os.SCHED_FIFO} 4 ")


@pytest.mark.skipif(not may_have_priority(), reason="this user may have no real-time priority")
def test_the_sending_thread_of_dds_stands_below_those_that_it_may_wait_for():
    _, _, other = in_a_process(priority=5, name="dds.asyn.0.0")
    assert other.startswith(f"{os.SCHED_FIFO} 3 ")


@pytest.mark.skipif(not may_have_priority(), reason="this user may have no real-time priority")
def test_a_runaway_ends_the_process_and_says_where_it_was():
    begin = "from rlt_control.real_time import schedule\nassert not schedule(5, [])\n"
    text = begin + "def runaway():\n    while True: pass\nrunaway()"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGXCPU
    assert "in runaway" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become a user who may not")
def test_a_user_who_may_not_is_told_what_to_set():
    nobody = "import resource; resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0)); os.setgroups([]); os.setuid(65534)"
    words, now, _ = in_a_process(priority=5, before=nobody)
    assert "priority 5" in words
    assert "rtprio 5" in words
    assert "limits.d" in words
    assert now == scheduling()


def test_what_is_there_is_left_out_of_collections():
    before = gc.get_freeze_count()
    try:
        keep_garbage_collection_short()
        assert gc.get_freeze_count() > before
        assert len(gc.get_objects()) < 1000
    finally:
        gc.unfreeze()


def test_lateness_has_percentiles_of_the_window_and_counts_since_the_start():
    late = TickLateness(window=100)
    assert late.values()["late_max_ms"] == "0.00"
    for value_s in [0.0501, 0.006] + [0.001] * 99 + [0.0049]:
        late.add(value_s)
    values = late.values()
    assert (values["late_over_5_ms"], values["late_over_20_ms"]) == ("2", "1")
    assert (values["late_p50_ms"], values["late_max_ms"]) == ("1.00", "4.90")


class Loop:
    """The loop on a clock that only waiting and work move. `callbacks`: when each comes and how long it takes, s."""

    def __init__(self, callbacks=(), work_s=0.0, ticks=5):
        self.now, self.waiting, self.work_s, self.left = 0.0, list(callbacks), work_s, ticks
        self.late, self.began = [], []
        run_on_deadlines(0.02, self.tick, self.spin_once, lambda: self.left > 0, lambda: self.now, self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def spin_once(self, timeout_s):
        if self.waiting and self.waiting[0][0] <= self.now + timeout_s:
            comes, takes = self.waiting.pop(0)
            self.now = max(self.now, comes)
            self.began.append(self.now)
            self.now += takes
        else:
            self.now += timeout_s

    def tick(self, late_s):
        self.late.append(late_s)
        self.left -= 1
        self.now += self.work_s


def test_ticks_keep_their_deadlines_beside_callbacks_and_work():
    loop = Loop([(0.001 * i, 0.0005) for i in range(90)], work_s=0.004)
    assert loop.late == pytest.approx([0.0] * 5, abs=1e-9)
    assert len(loop.began) > 50


def test_no_callback_begins_right_before_a_tick():
    loop = Loop([(0.02 - QUIET_S / 2, 0.01)])
    assert loop.late == pytest.approx([0.0] * 5, abs=1e-9)
    assert loop.began == pytest.approx([0.02])


def test_deadlines_that_a_long_callback_passed_are_left_out():
    loop = Loop([(0.01, 0.055)])
    assert loop.late == pytest.approx([0.045, 0.0, 0.0, 0.0, 0.0], abs=1e-9)


def test_callbacks_get_their_turn_between_ticks_that_are_always_late():
    loop = Loop([(0.0, 0.0)] * 5, work_s=0.03)
    assert len(loop.began) == 5
