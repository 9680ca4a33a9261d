"""What the bench of the executor's ticks judges by."""

import control
import numpy as np
import pytest
from harness.tick_times import figures, lateness_s

PERIOD_S = 0.02


def test_a_deadline_that_was_passed_over_is_as_late_as_the_next_start():
    # Deadline 2 is 45 ms late; 3 and 4 are passed over, and served 25 and 5 ms late by that start.
    ticks = [(0.0, 0.001), (0.02, 0.02), (0.04, 0.085), (0.10, 0.1005)]
    late = lateness_s(np.array(ticks), PERIOD_S)
    assert late * 1e3 == pytest.approx([1, 0, 45, 25, 5, 0.5])


def test_a_loop_that_names_only_the_newest_deadline_hides_nothing():
    """rclpy's timer, 45 ms late, says that it is 5 ms late for the third deadline."""
    ticks = [(0.0, 0.001), (0.02, 0.02), (0.08, 0.085), (0.10, 0.1005)]
    late = lateness_s(np.array(ticks), PERIOD_S)
    assert late * 1e3 == pytest.approx([1, 0, 45, 25, 5, 0.5])


def test_a_deadline_that_was_read_late_is_put_right():
    """A process that is put aside between two clock readings: here for 3 ms after the tick began, in 1 of 100."""
    ticks = np.array([(0.02 * i, 0.02 * i + 0.001) for i in range(100)])
    ticks[50] += 0.003
    assert lateness_s(ticks, PERIOD_S) * 1e3 == pytest.approx([1.0] * 50 + [4.0] + [1.0] * 49)


def test_misses_are_counted():
    found = figures(np.array([0.0] * 997 + [0.0051, 0.02, 0.0201]))
    assert (found["ticks"], found["over_5_ms"], found["over_20_ms"]) == (1000, 3, 1)
    assert found["late_ms"]["max"] == pytest.approx(20.1)


@pytest.mark.parametrize("ticks", [np.zeros((0, 2)), np.zeros(4), np.array([(0.0, 0.0), (0.02, 0.02), (0.05, 0.05)])])
def test_what_is_no_loop_is_an_error(ticks):
    with pytest.raises(ValueError, match=r"ticks of shape|on a grid"):
        lateness_s(ticks, PERIOD_S)


def row(loop, misses, gross=0, priority=0, seconds=600.0, ticks=30_000):
    return {
        "load": control.LOADED,
        "loop": loop,
        "priority": priority,
        "seconds": seconds,
        "ticks": ticks,
        "over_5_ms": misses,
        "over_20_ms": gross,
    }


@pytest.mark.parametrize(
    ("own", "timer", "met"),
    [
        (dict(misses=30), dict(misses=300), [True, True, True, True]),
        (dict(misses=31), dict(misses=400), [True, False, True, True]),
        (dict(misses=30, gross=1), dict(misses=299), [True, True, False, False]),
        (dict(misses=0), dict(misses=9), [True, True, True, False]),
        (dict(misses=0, seconds=599.0), dict(misses=10), [False, True, True, True]),
    ],
)
def test_goals_are_the_issue_s(own, timer, met):
    worse = [row(control.EXECUTOR, 900), row(control.PLAIN, 900)]
    rows = [*worse, row(control.EXECUTOR, priority=control.PRIORITY, **own), row(control.PLAIN, **timer)]
    assert [goal.met for goal in control.goals(rows)] == met
