"""Where motion comes from: axes with triggers, tool frame, a twist that goes silent or mad."""

import numpy as np
import pytest
from teleop_doubles import ROBOT

from rlt_common.config import load_robot
from rlt_common.parameters import from_mapping
from rlt_msgs.msg import OperatorEvent, TeleopCommand
from rlt_teleop.joy_mapping import JoyMapping
from rlt_teleop.joy_operator import JoyOperator
from rlt_teleop.motion import MotionError

ENABLE, OPEN, RIGHT = 0, 1, 2
TWIST = {
    "device": "mouse",
    "absent_buttons_released": True,
    "buttons": {"enable": ENABLE, "gripper_open": OPEN, "select": {"right": RIGHT}},
    "motion": "twist",
    "frame": "tool",
    "twist": {"linear_full": 2.0, "angular_full": 4.0, "timeout_s": 0.2},
    "dead_zone": 0.0,
    "linear_speed": 0.1,
    "angular_speed": 0.5,
    "gripper_speed": 0.05,
}
PAD = {
    "device": "pad",
    "buttons": {"enable": ENABLE},
    "axes": {"x": {"index": 0}},
    "triggers": {"gripper_open": 1, "gripper_close": 2},
    "frame": "tool",
    "gripper_speed": 0.05,
}


def make(values) -> JoyOperator:
    operator = JoyOperator(from_mapping(JoyMapping, values, "test"), load_robot(ROBOT), silence_s=0.5)
    operator.accept((0.0, 1.0, 1.0), [0, 0, 0], 0.0)
    return operator


@pytest.fixture
def mouse():
    """A SpaceMouse in control at 0.1 s, on which nothing was pushed yet."""
    operator = make(TWIST)
    operator.motion.accept([0.0] * 6, 0.1)
    assert operator.accept((), [1], 0.1) == [OperatorEvent.EVENT_INTERVENE_START]
    return operator


def test_a_twist_moves_the_selected_tool_in_its_own_frame(mouse):
    mouse.motion.accept([2.0, 0.0, -1.0, 0.0, 0.0, 4.0], 0.12)
    command = mouse.command(0.12)
    expected = np.zeros(14)
    expected[:6] = [0.1 / 50, 0, -0.05 / 50, 0, 0, 0.5 / 50]
    np.testing.assert_allclose(command.action, expected)
    assert (command.enabled, command.frame, command.repositioning) == (True, TeleopCommand.FRAME_TOOL, False)
    mouse.accept((), [1, 1, 1], 0.14)
    action = mouse.command(0.14).action
    assert action[7] == pytest.approx(0.1 / 50), "the right arm now"
    assert action[13] == pytest.approx(0.05 / 50), "and its gripper opens"


def test_more_than_full_deflection_is_full_speed(mouse):
    mouse.motion.accept([1e30, 0, 0, 0, 0, 0], 0.12)
    assert mouse.command(0.12).action[0] == pytest.approx(0.1 / 50)


def test_a_twist_that_goes_silent_holds_until_the_button_was_let_go(mouse):
    mouse.motion.accept([2.0, 0, 0, 0, 0, 0], 0.12)
    mouse.accept((), [1], 0.4)
    silent = mouse.command(0.4)
    assert not silent.enabled
    assert not silent.action.any()
    assert "no spacenav/twist" in silent.reason
    mouse.motion.accept([2.0, 0, 0, 0, 0, 0], 0.41)
    assert not mouse.command(0.41).enabled, "it is back, but the button was not let go"
    assert mouse.accept((), [], 0.42) == [OperatorEvent.EVENT_INTERVENE_STOP]
    mouse.accept((), [1], 0.43)
    assert mouse.command(0.43).enabled


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_twist_that_is_not_finite_holds(mouse, value):
    mouse.motion.accept([2.0, 0, 0, 0, 0, 0], 0.12)
    with pytest.raises(MotionError, match="not finite"):
        mouse.motion.accept([0, 0, 0, value, 0, 0], 0.13)
    assert not mouse.command(0.13).enabled


def test_a_twist_that_never_changes_again_holds(mouse):
    now_s = 0.12
    while now_s < 1.0:
        mouse.motion.accept([2.0, 0, 0, 0, 0, 0], now_s)
        mouse.accept((), [1], now_s)
        assert mouse.command(now_s).enabled
        now_s += 0.02
    mouse.motion.accept([2.0, 0, 0, 0, 0, 0], 1.2)
    mouse.accept((), [1], 1.2)
    assert "the very same" in mouse.command(1.2).reason


def test_a_twist_at_rest_holds_after_a_while_but_for_the_gripper(mouse):
    for now_s in np.arange(0.2, 3.0, 0.1):
        mouse.motion.accept([0.0] * 6, now_s)
        mouse.accept((), [1, int(now_s > 1.5)], now_s)
        command = mouse.command(now_s)
        assert command.enabled == (now_s < 1.05 or now_s > 1.5)
        assert command.action.any() == (now_s > 1.5), "a hand is on the gripper's button"


def test_without_the_enable_button_a_twist_moves_nothing():
    operator = make(TWIST)
    operator.motion.accept([2.0] * 6, 0.1)
    command = operator.command(0.1)
    assert not command.enabled
    assert not command.action.any()


def test_triggers_open_and_close_as_far_as_they_are_pressed():
    operator = make(PAD)
    for axes, direction in (((0.0, -1.0, 1.0), 1.0), ((0.0, 1.0, -1.0), -1.0), ((0.0, -0.05, 1.0), 0.5)):
        operator.accept(axes, [1, 0, 0], 0.1)
        assert operator.command(0.1).action[6] == pytest.approx(direction * 0.05 / 50)
    operator.accept((0.0, 1.0, 1.0), [1, 0, 0], 0.2)
    assert not operator.command(0.2).action.any()


def test_a_trigger_that_was_never_seen_at_rest_does_nothing():
    operator = JoyOperator(from_mapping(JoyMapping, PAD, "test"), load_robot(ROBOT), silence_s=0.5)
    operator.accept((0.0, 0.0, 0.0), [0, 0, 0], 0.0)
    operator.accept((0.0, 0.0, 0.0), [1, 0, 0], 0.1)
    assert not operator.command(0.1).action.any()


def test_axes_move_in_the_frame_of_the_mapping():
    operator = make(PAD)
    operator.accept((1.0, 1.0, 1.0), [1, 0, 0], 0.1)
    assert operator.command(0.1).frame == TeleopCommand.FRAME_TOOL
