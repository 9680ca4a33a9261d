"""When the simulation goes on, and what the scripted operator presses."""

import pytest

from rlt_sim.lockstep import Awaiting, LockstepGate, Pace, episode_stamp_ns
from rlt_sim.operator import OperatorConfig, Press, decide


def test_nothing_moves_before_the_executor_moves_this_episode():
    gate = LockstepGate(gate_steps=4)
    gate.reset(7)
    assert not gate.on_control(6, moving=True)
    assert not gate.on_control(7, moving=False)
    assert not gate.on_command(0, 0)
    assert gate.on_control(7, moving=True)


def test_the_operator_answers_every_fourth_step_and_commands_carry_the_rest():
    gate = LockstepGate(gate_steps=4)
    gate.reset(1)
    gate.on_control(1, moving=True)
    waits = []
    for step in range(9):
        waits.append(gate.awaiting)
        stamp = episode_stamp_ns(1, step, 20_000_000)
        if gate.awaiting is Awaiting.OPERATOR:
            assert not gate.on_command(stamp, stamp)
            assert not gate.on_operator(stamp - 1, stamp)
            assert gate.on_operator(stamp, stamp)
        assert gate.on_command(stamp, stamp)
        gate.advance()
    asked = [step for step, wait in enumerate(waits) if wait is Awaiting.OPERATOR]
    assert asked == [0, 4, 8]


def test_a_step_that_was_said_again_and_answered_twice_advances_once():
    gate = LockstepGate(gate_steps=0)
    gate.reset(1)
    gate.on_control(1, moving=True)
    first, second = (episode_stamp_ns(1, step, 20_000_000) for step in (0, 1))
    assert gate.on_command(first, first)
    gate.advance()
    assert not gate.on_command(first, second)
    assert gate.step == 1
    assert gate.on_command(second, second)


def test_the_end_of_the_episode_stops_it():
    gate = LockstepGate(gate_steps=0)
    gate.reset(1)
    gate.on_control(1, moving=True)
    gate.on_control(1, moving=False)
    assert not gate.on_command(0, 0)


def test_a_hand_off_does_not_publish_the_step_twice():
    gate = LockstepGate(gate_steps=4)
    gate.reset(1)
    assert gate.on_control(1, moving=True)
    assert not gate.on_control(1, moving=True)


def test_stamps_of_different_episodes_never_meet():
    assert episode_stamp_ns(1, 49_999, 20_000_000) < episode_stamp_ns(2, 0, 20_000_000)


@pytest.mark.parametrize(
    ("step", "critical", "ready", "success", "press"),
    [
        (0, False, False, False, None),
        (40, False, True, False, Press.HANDOFF),
        (120, False, False, False, Press.HANDOFF),
        (60, True, True, False, None),
        (60, True, True, True, Press.SUCCESS),
        (540, True, True, False, Press.FAILURE),
        (540, True, True, True, Press.SUCCESS),
    ],
)
def test_the_operator_presses_what_a_person_would(step, critical, ready, success, press):
    config = OperatorConfig(patience_steps=500, base_patience_steps=120)
    assert decide(config, step, critical, 40, ready, success) is press


def test_with_automatic_hand_off_the_operator_only_labels():
    config = OperatorConfig(hand_off=False)
    assert decide(config, 10_000, False, 0, True, False) is None
    assert decide(config, 60, True, 40, True, True) is Press.SUCCESS


def test_who_demonstrates_does_not_give_up():
    config = OperatorConfig(demonstrate=True)
    assert decide(config, 10_000, True, 40, True, False) is None
    assert decide(config, 10_000, True, 40, True, True) is Press.SUCCESS


def test_steps_keep_to_the_pace_and_a_late_one_is_not_made_up_for():
    pace = Pace(0.02)
    assert pace.next_step(10.0) == 0.0
    assert pace.next_step(10.005) == pytest.approx(0.015)
    assert pace.next_step(10.025) == pytest.approx(0.015)
    assert pace.next_step(11.0) == 0.0, "late"
    assert pace.next_step(11.001) == pytest.approx(0.019), "and the next one has its full time"


def test_without_a_pace_nothing_waits():
    pace = Pace(0.0)
    assert [pace.next_step(now_s) for now_s in (1.0, 1.0, 1.001)] == [0.0, 0.0, 0.0]
