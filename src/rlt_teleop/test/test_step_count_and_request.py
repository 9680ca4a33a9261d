"""Counting executed steps, and checking a request against the task."""

from dataclasses import replace

import pytest

from rlt_common.config import CurriculumStage, TaskConfig
from rlt_msgs.msg import EpisodeState
from rlt_msgs.srv import StartEpisode
from rlt_teleop.episode_machine import Driver, Purpose
from rlt_teleop.episode_request import RequestError, spec_from_request
from rlt_teleop.step_count import StepCount

TASK = TaskConfig(
    name="screw",
    instruction="drive the screw",
    vla_state=("ee_pose",),
    rl_state=("ee_pose",),
    max_base_steps=200,
    max_critical_steps=500,
    execute_steps=20,
    start_in="critical",
)


def request(**changes) -> StartEpisode.Request:
    values = {"purpose": EpisodeState.PURPOSE_TRAIN, "driver": EpisodeState.DRIVER_RL}
    return StartEpisode.Request(**{**values, **changes})


def test_critical_steps_reach_from_the_first_to_the_last():
    count = StepCount(3)
    assert not count.add(3, 0, False)
    assert count.add(3, 12, True)
    assert not count.add(3, 13, True)
    assert not count.add(2, 99, True), "another episode's step"
    assert count.add(3, 11, True), "an earlier one that came late"
    assert (count.first_critical, count.critical_steps, count.next_step) == (11, 3, 14)


def test_no_critical_phase_counts_nothing():
    assert StepCount(1).critical_steps == 0


def test_the_task_fills_what_is_left_open():
    spec = spec_from_request(request(seed=4), TASK, 0)
    assert (spec.purpose, spec.driver) == (Purpose.TRAIN, Driver.RL)
    assert (spec.start_in, spec.execute_steps, spec.seed) == ("critical", 20, 4)
    assert (spec.max_base_steps, spec.max_critical_steps) == (200, 500)


def test_the_request_overrides():
    spec = spec_from_request(request(start_in="full", execute_steps=10), TASK, 0)
    assert (spec.start_in, spec.execute_steps) == ("full", 10)


STAGED = replace(
    TASK, start_in="full", curriculum=(CurriculumStage(start_in="critical", episodes=2), CurriculumStage("full"))
)


@pytest.mark.parametrize(("done", "start_in"), [(0, "critical"), (1, "critical"), (2, "full"), (90, "full")])
def test_a_training_episode_starts_where_the_curriculum_says(done, start_in):
    assert spec_from_request(request(), STAGED, done).start_in == start_in


def test_the_curriculum_is_of_training_alone_and_a_request_overrides_it():
    evaluate = request(purpose=EpisodeState.PURPOSE_EVALUATE)
    assert spec_from_request(evaluate, STAGED, 0).start_in == "full"
    assert spec_from_request(request(start_in="full"), STAGED, 0).start_in == "full"


def test_demonstrations_alone_may_take_longer():
    for purpose, times in ((EpisodeState.PURPOSE_COLLECT, 3), (EpisodeState.PURPOSE_EVALUATE, 1)):
        spec = spec_from_request(request(purpose=purpose), TASK, 0, demonstration_limits=3)
        assert spec.max_base_steps == times * TASK.max_base_steps
        assert spec.max_critical_steps == times * TASK.max_critical_steps


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"purpose": 9}, "no purpose 9"),
        ({"driver": 0}, "no driver 0"),
        ({"start_in": "middle"}, "full, critical"),
        ({"execute_steps": 11}, "multiple of the stride 2"),
        ({"execute_steps": 60}, "horizon 50"),
    ],
)
def test_nonsense_is_refused(changes, why):
    with pytest.raises(RequestError, match=why):
        spec_from_request(request(**changes), TASK, 0)
