"""What a VLA's inference time means for a task: how far ahead to ask, and what cannot be."""

from dataclasses import replace

import pytest

from rlt_vla_node.latency_budget import LEAST, LatencyWatch, judge


@pytest.fixture
def robot(cell):
    return replace(cell.robot, tick="timer")


@pytest.fixture
def task(cell):
    return replace(cell.task, horizon=50, prefetch_steps=4)


@pytest.mark.parametrize(("seconds", "steps"), [(0.004, 2), (0.024, 2), (0.057, 4), (0.170, 10)])
def test_a_chunk_is_asked_for_as_far_ahead_as_it_takes(robot, task, seconds, steps):
    assert judge(robot, task, seconds).prefetch_steps == steps, "whole strides, transport included"


def test_what_the_observation_s_age_costs_is_asked_for_ahead_too(robot, task):
    verdict = judge(robot, task, 0.057, age_s=0.035)
    assert verdict.prefetch_steps == 6
    assert "takes 57 ms and observations are 35 ms old before" in verdict.problems[0]


def test_a_watch_takes_the_age_of_observations_of_its_own_clock(robot, task):
    watch = LatencyWatch(robot, task)
    for age_s in (-0.5, 1e9, 0.03):
        watch.on_age(age_s)
    for _ in range(LEAST):
        watch.on_boundary(0.01)
    assert watch.verdict().age_s == pytest.approx(0.03)


def test_what_fits_has_no_problem(robot, task):
    assert judge(robot, task, 0.06).problems == ()


def test_asking_too_late_names_the_number_to_set(robot, task):
    (problem,) = judge(robot, task, 0.17).problems
    assert "170 ms" in problem
    assert "prefetch_steps: 10" in problem


def test_a_horizon_that_is_too_short_for_it_is_said(robot, task):
    verdict = judge(robot, replace(task, horizon=14), 0.17)
    assert "leave no 10 rows of horizon 14" in verdict.problems[0]


def test_a_vla_that_cannot_keep_up_names_the_least_chunk(robot, task):
    problems = judge(robot, replace(task, prefetch_steps=20), 0.3).problems
    assert [problem for problem in problems if "the least chunk that keeps up has 15 rows" in problem]


def test_strided_observations_that_pile_up_and_a_needless_lead_are_notes(robot, task):
    verdict = judge(robot, replace(task, prefetch_steps=10), 0.06, 0.05)
    assert verdict.problems == ()
    assert "prefetch_steps: 4 would be enough" in verdict.notes[0]
    assert "go on for 30% of its critical phase" in verdict.notes[1]


def test_a_group_longer_than_the_pause_between_two_chunks_names_the_size_that_fits(robot, task):
    verdict = judge(robot, replace(task, prefetch_steps=4), 0.057, 0.025, group_size=16)
    assert verdict.problems == ()
    (note,) = verdict.notes
    assert "16 strided observations takes 400 ms, and between two chunks there are 151 ms" in note
    assert "group_size: 6 of" in note
    assert judge(robot, replace(task, prefetch_steps=4), 0.057, 0.025, group_size=6).notes == ()


@pytest.mark.parametrize(
    ("group_s", "since_s", "allowed"),
    [
        (0.14, 0.06, True),
        (0.14, 0.08, False),  # begun right after a chunk it would have been done in time
        (0.40, 0.06, False),
        (0.40, 0.45, True),  # no chunk was asked for since: a person drives
        (None, 0.06, False),
    ],
)
def test_while_the_arms_move_no_group_is_begun_for_which_a_chunk_would_come_late(
    robot, task, group_s, since_s, allowed
):
    watch = LatencyWatch(robot, task, group_size=16)
    assert watch.may_encode(0.0), "nothing is known yet"
    for _ in range(LEAST):
        watch.on_boundary(0.057)
    if group_s is not None:
        watch.on_group(group_s)
    watch.begin_boundary(10.0)
    assert watch.may_encode(10.0 + since_s) == allowed


def test_a_watch_judges_the_slow_end_of_what_it_saw(robot, task):
    watch = LatencyWatch(robot, task)
    for _ in range(LEAST - 1):
        watch.on_boundary(0.01)
    assert watch.verdict() is None
    for seconds in (0.01,) * 90 + (0.2,) * 10:
        watch.on_boundary(seconds)
    assert watch.verdict().boundary_s == pytest.approx(0.2)


def test_a_simulator_that_waits_needs_no_budget(cell):
    watch = LatencyWatch(cell.robot, cell.task)
    for _ in range(LEAST):
        watch.on_boundary(1.0)
    watch.begin_boundary(0.0)
    assert watch.verdict() is None
    assert watch.may_encode(0.5)
