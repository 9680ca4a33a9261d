"""When an episode may start, and with which actor."""

import pytest

from rlt_teleop.episode_machine import Driver, Purpose
from rlt_teleop.training_gate import Go, Refuse, Training, Wait, decide


def training(**changes) -> Training:
    return Training(**{"ready": True, "busy": False, "last_episode_id": 7, "actor_version": 12, **changes})


def ask(purpose=Purpose.TRAIN, driver=Driver.RL, status=None, lockstep=True, trained=7):
    return decide(purpose, driver, status, lockstep, trained)


def test_lockstep_names_the_version_that_the_last_episode_left():
    assert ask(status=training()) == Go(Driver.RL, 12)


@pytest.mark.parametrize("status", [None, training(last_episode_id=6), training(busy=True)])
@pytest.mark.parametrize("purpose", [Purpose.TRAIN, Purpose.EVALUATE])
def test_lockstep_waits_for_the_learner(status, purpose):
    answer = ask(purpose=purpose, status=status)
    assert isinstance(answer, Wait)
    assert "episode 7" in answer.reason


def test_real_time_never_waits_and_takes_the_newest():
    assert ask(status=training(busy=True, last_episode_id=1), lockstep=False) == Go(Driver.RL, 0)


@pytest.mark.parametrize("lockstep", [True, False])
def test_the_vla_drives_training_until_the_actor_is_ready(lockstep):
    answer = ask(status=training(ready=False), lockstep=lockstep)
    assert answer == Go(Driver.VLA, 12 if lockstep else 0)


@pytest.mark.parametrize("purpose", [Purpose.EVALUATE, Purpose.DEPLOY])
def test_nothing_else_falls_back_to_the_vla_silently(purpose):
    answer = ask(purpose=purpose, status=training(ready=False, message="warm-up 3 of 20"))
    assert isinstance(answer, Refuse)
    assert "warm-up 3 of 20" in answer.reason


def test_evaluating_the_vla_needs_no_learner():
    assert ask(purpose=Purpose.EVALUATE, driver=Driver.VLA, trained=0) == Go(Driver.VLA, 0)


def test_training_in_lockstep_needs_the_learner_from_the_first_episode():
    assert isinstance(ask(driver=Driver.VLA, trained=0), Wait)
