"""What the operator is waited for, phase by phase."""

from dataclasses import replace

import pytest
import teleop_episodes as eps

from rlt_teleop.episode_machine import Phase
from rlt_teleop.episode_manager_parameters import ManagerParameters
from rlt_teleop.operator_wanted import wanted

PARAMETERS = ManagerParameters("", "", "", reset_wait_s=600.0, label_wait_s=20.0, pick_wait_s=60.0)
NOTHING_SPECIAL = {"operator_resets": True, "executor_gone": False, "limit_reached": False, "run_active": False}


@pytest.mark.parametrize(
    ("phase", "relabelling", "facts", "words", "limit_s"),
    [
        (Phase.IDLE, 0, {}, "press next episode", 0.0),
        (Phase.IDLE, 0, {"run_active": True}, "", 0.0),
        (Phase.IDLE, 3, {}, "give episode 3 its label", 60.0),
        (Phase.RESETTING, 0, {}, "reset the scene of episode 4", 600.0),
        (Phase.RESETTING, 0, {"operator_resets": False}, "", 0.0),
        (Phase.RESETTING, 3, {}, "give episode 3 its label", 60.0),
        (Phase.BASE, 0, {}, "", 0.0),
        (Phase.CRITICAL, 0, {"limit_reached": True}, "label episode 4", 20.0),
        (Phase.LABELLED, 0, {}, "", 0.0),
        (Phase.ESTOP, 0, {}, "release the emergency stop", 0.0),
        (Phase.IDLE, 0, {"executor_gone": True}, "the chunk executor is gone", 0.0),
    ],
)
def test_what_is_waited_for_and_for_how_long(phase, relabelling, facts, words, limit_s):
    episode = replace(eps.running(4, phase), relabelling=relabelling)
    found = wanted(episode, PARAMETERS, **{**NOTHING_SPECIAL, **facts})
    assert words in found.text
    assert bool(found.text) == bool(words)
    assert found.limit_s == limit_s


def test_only_the_next_episode_can_wait_as_long_as_the_person_likes():
    episodes = [(phase, wanted(eps.running(4, phase), PARAMETERS, **NOTHING_SPECIAL)) for phase in Phase]
    assert [phase for phase, found in episodes if found.text and not found.remind] == [Phase.IDLE]
