"""What a pad's states mean: the rules of every button, one by one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from teleop_doubles import ROBOT

from rlt_common.config import load_robot
from rlt_common.parameters import ParameterError, from_mapping
from rlt_msgs.msg import OperatorEvent
from rlt_teleop.joy_mapping import JoyMapping
from rlt_teleop.joy_operator import JoyError, JoyOperator

MAPPING = from_mapping(
    JoyMapping,
    {
        "device": "test",
        "buttons": {
            "handoff": 0,
            "success": 1,
            "failure": 2,
            "discard": 3,
            "estop": 4,
            "next_episode": 5,
            "enable": 6,
            "gripper_open": 7,
            "gripper_close": 8,
            "select": {"left": 9, "right": 10},
            "undo": 11,
            "reposition": 12,
        },
        "axes": {"x": {"index": 1}, "y": {"index": 0, "sign": -1}, "rz": {"index": 2}},
        "dead_zone": 0.2,
        "linear_speed": 0.1,
        "angular_speed": 0.5,
        "gripper_speed": 0.05,
    },
    "test",
)
REST = (0.0, 0.0, 0.0)
DECISIONS = {
    0: OperatorEvent.EVENT_HANDOFF,
    1: OperatorEvent.EVENT_SUCCESS,
    2: OperatorEvent.EVENT_FAILURE,
    3: OperatorEvent.EVENT_DISCARD,
    4: OperatorEvent.EVENT_ESTOP,
    5: OperatorEvent.EVENT_NEXT_EPISODE,
    11: OperatorEvent.EVENT_UNDO,
}
START, STOP = OperatorEvent.EVENT_INTERVENE_START, OperatorEvent.EVENT_INTERVENE_STOP


class Pad:
    """A pad on a clock: every state comes 50 ms after the one before."""

    def __init__(self, *held: int) -> None:
        self.operator = JoyOperator(MAPPING, load_robot(ROBOT), silence_s=0.5)
        self.now_s = 0.0
        self.first = self.hold(*held)

    def hold(self, *buttons: int, axes=REST, after_s: float = 0.05) -> list[int]:
        self.now_s += after_s
        return self.operator.accept(axes, [int(i in buttons) for i in range(13)], self.now_s)

    def command(self, after_s: float = 0.0):
        return self.operator.command(self.now_s + after_s)


@pytest.mark.parametrize(("button", "event"), DECISIONS.items())
def test_a_press_fires_once_however_often_it_is_repeated(button, event):
    pad = Pad()
    assert pad.hold(button) == [event]
    assert pad.hold(button) == []
    assert pad.hold(button, after_s=10.0) == []
    assert pad.hold() == []
    assert pad.hold(button) == [event]


@pytest.mark.parametrize("button", [*(DECISIONS.keys() - {4}), 6])
def test_what_is_held_at_the_start_does_not_fire_before_it_was_released(button):
    pad = Pad(button)
    assert pad.first == []
    assert pad.hold(button) == []
    assert not pad.command().enabled
    pad.hold()
    assert len(pad.hold(button)) == 1


def test_an_emergency_stop_that_is_held_when_the_pad_is_first_heard_is_one():
    pad = Pad(4)
    assert pad.first == [OperatorEvent.EVENT_ESTOP]
    assert pad.hold(4) == []


def test_the_emergency_stop_comes_first():
    assert Pad().hold(0, 4, 6) == [OperatorEvent.EVENT_ESTOP, OperatorEvent.EVENT_HANDOFF, START]


def test_two_labels_at_once_count_as_none():
    pad = Pad()
    assert pad.hold(1, 2) == []
    assert "success, failure" in pad.operator.refused


def test_holding_the_enable_button_takes_over_and_letting_go_gives_back():
    pad = Pad()
    assert pad.hold(6) == [START]
    assert pad.command().enabled
    assert pad.hold(6) == []
    assert pad.hold() == [STOP]
    assert not pad.command().enabled


def test_sticks_do_nothing_without_the_enable_button():
    pad = Pad()
    pad.hold(axes=(1.0, 1.0, 1.0))
    command = pad.command()
    assert not command.enabled
    assert not command.action.any()


def test_full_deflection_is_the_speed_per_control_step():
    pad = Pad()
    pad.hold(6, axes=(1.0, 1.0, -1.0))
    expected = np.zeros(14)
    expected[:7] = [0.1 / 50, -0.1 / 50, 0, 0, 0, -0.5 / 50, 0]
    np.testing.assert_allclose(pad.command().action, expected)


def test_the_dead_zone_is_rest_and_its_edge_is_continuous():
    pad = Pad()
    pad.hold(6, axes=(0.0, 0.2, 0.0))
    assert not pad.command().action.any()
    pad.hold(6, axes=(0.0, 0.6, 0.0))
    assert pad.command().action[0] == pytest.approx(0.5 * 0.1 / 50)


def test_selecting_an_arm_moves_that_arm():
    pad = Pad()
    pad.hold(10)
    pad.hold(6, 7, axes=(0.0, 1.0, 0.0))
    action = pad.command().action
    assert not action[:7].any()
    assert action[7] == pytest.approx(0.1 / 50)
    assert action[13] == pytest.approx(0.05 / 50), "gripper opens"
    pad.hold(6, 8, 9)
    assert pad.command().action[6] == pytest.approx(-0.05 / 50), "the left gripper closes"


def test_a_pad_that_goes_silent_in_control_holds_and_does_not_give_back():
    pad = Pad()
    pad.hold(6, axes=(0.0, 1.0, 0.0))
    assert pad.command(after_s=0.4).enabled
    silent = pad.command(after_s=0.6)
    assert not silent.enabled
    assert not silent.action.any()
    assert pad.operator.intervening


def test_a_pad_that_comes_back_must_be_let_go_before_it_moves_again():
    pad = Pad()
    pad.hold(6)
    assert pad.hold(6, 1, axes=(0.0, 1.0, 0.0), after_s=3.0) == [], "nothing fires on coming back"
    assert not pad.command().enabled
    assert pad.hold() == [STOP]
    assert pad.hold(6) == [START]
    assert pad.command().enabled


def test_a_pad_that_comes_back_released_gives_back():
    pad = Pad()
    pad.hold(6)
    assert pad.hold(after_s=3.0) == [STOP]


def test_the_emergency_stop_fires_even_on_coming_back():
    pad = Pad()
    pad.hold(6)
    assert pad.hold(6, 4, after_s=3.0) == [OperatorEvent.EVENT_ESTOP]


@pytest.mark.parametrize(
    ("axes", "buttons", "why"),
    [
        (REST, [0] * 12, "12 buttons and 3 axes"),
        ((0.0, 0.0), [0] * 13, "13 buttons and 2 axes"),
        ((0.0, math.nan, 0.0), [0] * 13, "not finite"),
    ],
)
def test_a_message_that_does_not_fit_is_refused_without_effect(axes, buttons, why):
    pad = Pad()
    pad.hold(6, axes=(0.0, 1.0, 0.0))
    before = pad.command().action
    with pytest.raises(JoyError, match=why):
        pad.operator.accept(axes, buttons, pad.now_s)
    np.testing.assert_array_equal(pad.command().action, before)


def test_a_mapping_for_arms_the_robot_has_not_is_an_error():
    mapping = replace(MAPPING, buttons=replace(MAPPING.buttons, select={"third": 9}))
    with pytest.raises(ParameterError, match="no arm 'third'"):
        JoyOperator(mapping, load_robot(ROBOT), 0.5)


def test_steps_are_marked_while_the_reposition_button_is_held():
    pad = Pad()
    pad.hold(6, 12, axes=(0.0, 1.0, 0.0))
    assert pad.command().repositioning
    pad.hold(6, axes=(0.0, 1.0, 0.0))
    assert not pad.command().repositioning


def test_the_last_state_of_a_pad_that_is_gone_moves_nothing_however_often_it_is_repeated():
    pad = Pad()
    for _ in range(19):
        pad.hold(6, axes=(0.0, 1.0, 0.0))
        assert pad.command().enabled
    for _ in range(20):
        pad.hold(6, axes=(0.0, 1.0, 0.0))
    frozen = pad.command()
    assert not frozen.enabled
    assert "the very same" in frozen.reason
    pad.hold(6, axes=(0.0, 0.99, 0.0))
    assert pad.command().enabled, "it is there after all"


def test_a_pad_that_repeats_its_rest_demonstrates_standing_still_for_a_moment_and_holds_then():
    pad = Pad()
    for _ in range(19):
        pad.hold(6)
        assert pad.command().enabled
    for _ in range(20):
        pad.hold(6)
    assert not pad.command().enabled
    assert "the very same for more than 1 s" in pad.command().reason
    pad.hold(6, axes=(0.0, 0.01, 0.0))
    assert pad.command().enabled, "a hand is on it after all"


def test_a_pad_that_was_there_and_is_silent_is_gone_in_control_or_not():
    pad = Pad()
    assert not pad.operator.gone(pad.now_s + 0.9)
    assert pad.operator.gone(pad.now_s + 1.1)
    pad.hold(after_s=3.0)
    assert not pad.operator.gone(pad.now_s)
    assert not JoyOperator(MAPPING, load_robot(ROBOT), silence_s=0.5).gone(1e9), "it was never there"


def test_no_step_is_larger_than_the_robots_limit():
    fast = replace(MAPPING, linear_speed=0.25, angular_speed=2.5)
    robot = replace(load_robot(ROBOT), control_hz=10.0)
    operator = JoyOperator(fast, robot, silence_s=0.5)
    operator.accept(REST, [0] * 13, 0.0)
    operator.accept((1.0, 1.0, 1.0), [int(i == 6) for i in range(13)], 0.1)
    action = operator.command(0.1).action
    assert np.abs(action).max() > 0
    assert (np.abs(action) <= robot.step_limit).all()
