"""What the bench of parity judges by."""

import parity
import pytest


def run(**changes):
    values = {
        "bags": 3,
        "megabytes": 3.0,
        "robot_minutes": 1.0,
        "speed": 2.0,
        "chunks_recorded": 20,
        "refined_chunks": 8,
        "checkpoints": 3,
        "offline_replay": 3,
        "offline_weights": 3,
        "offline_updates": 90,
    }
    counts = {name: 20 for kind in ("chunks", "boundary", "strided") for name in (kind, f"{kind}_equal")}
    return {**values, **counts, **changes}


def turn(number, on, off):
    late = {"p50": 0.1, "p99": 1.0, "p99.9": 2.0, "max": 9.0}
    common = {"turn": number, "ticks": 1000, "over_20_ms": 0, "late_ms": late, "load_average": 1.0}
    common |= {"real_time": True, "seconds": 20.0}
    return [{**common, "recorder": recording, "over_5_ms": count} for recording, count in ((True, on), (False, off))]


@pytest.mark.parametrize(
    ("changes", "turns", "met"),
    [
        ({}, [(0, 0), (0, 1)], [True, True, True, True, True]),
        ({"chunks_equal": 19}, [(0, 1)], [False, True, True, True, True]),
        ({"chunks_recorded": 21}, [(0, 1)], [False, True, True, True, True]),  # whose actor was not at hand counts
        ({"boundary_equal": 19}, [(0, 0)], [True, False, True, True, True]),
        ({"offline_weights": 2}, [(0, 0)], [True, True, False, True, True]),
        ({}, [(1, 1), (1, 1)], [True, True, True, False, True]),  # the machine's, as it seems
        ({}, [(0, 1), (3, 1)], [True, True, True, False, False]),
    ],
)
def test_goals_are_the_issue_s(changes, turns, met):
    rows = [run(**changes), *(row for i, counts in enumerate(turns) for row in turn(i, *counts))]
    assert [goal.met for goal in parity.goals(rows)] == met


def test_what_the_recorder_adds_is_paired_by_turn():
    rows = [row for i, counts in enumerate([(10, 10), (30, 28), (0, 0)]) for row in turn(i, *counts)]
    mean, low, high = parity.added(rows)
    assert mean == pytest.approx(20 / 3)
    assert (low, high) == (0.0, pytest.approx(20.0))


def test_the_tables_say_what_was_counted():
    rows = [run(), *turn(0, 2, 1)]
    text = parity.lines(rows)
    assert "| 3 | 20 of 20 | 8 | 20 of 20 | 20 of 20 | 3.0 | 2.0 x real time | 3 of 3 checkpoints" in text
    assert "| on | 1,000 | 2 (20.0 per 10,000) |" in text
