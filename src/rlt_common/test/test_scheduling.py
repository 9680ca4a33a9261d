"""Priority and cores of a process are really set, or refused in words."""

import os
import signal
import subprocess
import sys

import pytest

from rlt_common.scheduling import scheduling

CPUS = sorted(os.sched_getaffinity(0))
THREADED = """
import ctypes, os, sys, threading
from rlt_common.scheduling import schedule, scheduling
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
    begin = "from rlt_common.scheduling import schedule\nassert not schedule(5, runaway_s=1.0)\n"
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
