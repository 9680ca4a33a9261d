"""The benchmark of false stops: clean runs are clean, a true fault is stopped in time, a run can be repeated."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def safety(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module("safety")


@pytest.fixture
def clean_runs(safety):
    return importlib.import_module("harness.clean_runs")


def test_a_clean_run_moves_all_the_time_and_a_seed_repeats_it(safety, clean_runs):
    first, again = (clean_runs.CleanRun(safety.robot(), safety.JITTERS[0], 3).run(25.0) for _ in range(2))
    assert first == again
    assert (first.stops.total(), first.late_chunks) == (0, 0)
    assert first.moving_s > 18.0
    assert first.worst_age_ms["joint_states"] < 100.0
    assert first != clean_runs.CleanRun(safety.robot(), safety.JITTERS[0], 4).run(25.0)


def test_stalls_longer_than_the_time_out_are_counted_once_each(safety, clean_runs):
    stalling = replace(safety.JITTERS[0], stall_every_s=3.0, stall_s=0.5)
    tally = clean_runs.CleanRun(safety.robot(), stalling, 0).run(60.0)
    assert 3 < tally.stops.total() < 100
    assert {"joint_states", "wrench.left"} <= set(tally.stops)


@pytest.mark.parametrize(
    "name", ["joint_states", "episode_state", "teleop_command", "wrench", "pose", "cameras", "camera base"]
)
def test_a_silent_input_is_stopped_within_its_time_out_and_a_tick(safety, name):
    row = safety.silence(name, 3)
    assert row["timeout_ms"] - 110.0 < row["median_ms"] <= row["worst_ms"] <= row["timeout_ms"] + 100.0


def test_goals_are_missed_by_one_false_stop_or_one_late_hold(safety):
    def rows(rate, worst):
        clean = [{"jitter": {"name": name}, "stops_per_h": rate} for name in ("quiet machine", "loaded machine", "x")]
        return {"clean": clean, "silence": [{"input": "wrench", "timeout_ms": 100.0, "worst_ms": worst}]}

    assert [goal.met for goal in safety.goals(rows(0.0, 120.0))] == [True] * 3
    assert [goal.met for goal in safety.goals(rows(0.1, 210.0))] == [False] * 3
