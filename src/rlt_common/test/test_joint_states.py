"""Joint states of several topics, in drivers' names and units, to one state of the robot."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from sensor_msgs.msg import JointState

from rlt_common.codecs import CodecError, stamp_ns, to_time
from rlt_common.config import load_robot
from rlt_common.driver_config import GripperUnits, StateConfig
from rlt_common.joint_states import JointStateError, JointStateSources
from rlt_common.parameters import ParameterError

ROBOTS = Path(get_package_share_directory("rlt_bringup")) / "config" / "robots"
SHIPPED = load_robot(ROBOTS / "aloha.yaml")
ALOHA = dataclasses.replace(
    SHIPPED, arms=tuple(dataclasses.replace(arm, gripper_units=GripperUnits()) for arm in SHIPPED.arms)
)
"""In our units: what units do is said below."""
SIM = load_robot(ROBOTS / "sim.yaml")
LEFT, RIGHT = ALOHA.state_topics
NAMES = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
ONE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.03]
MS = 1_000_000


def said(at_ns, values=ONE, **fields):
    """An arm's joint states, in another order than ours and with a joint that is none of ours."""
    values = [9.0, *reversed(values)]
    message = JointState(**{"name": ["wheel", *reversed(NAMES)], "position": values, "velocity": values, **fields})
    message.header.stamp = to_time(at_ns)
    return message


def test_a_state_is_made_once_every_topic_has_spoken_anew_and_carries_the_oldest_stamp():
    sources = JointStateSources(ALOHA)
    assert sources.take(LEFT, said(10 * MS)) is None
    assert sources.take(LEFT, said(20 * MS)) is None
    state = sources.take(RIGHT, said(15 * MS, [value + 0.001 for value in ONE]))
    assert stamp_ns(state.header.stamp) == 15 * MS
    assert list(state.name) == list(ALOHA.joint_names)
    np.testing.assert_allclose(state.position, [*ONE, *(value + 0.001 for value in ONE)])
    np.testing.assert_allclose(state.velocity, state.position)
    assert len(state.effort) == 0
    state = sources.take(RIGHT, said(25 * MS))
    assert stamp_ns(state.header.stamp) == 20 * MS, "the left arm's is the oldest now"
    assert sources.take(RIGHT, said(35 * MS)) is None, "the left arm has said nothing new"
    assert sources.take(RIGHT, said(35 * MS)) is None


def test_a_topic_whose_clock_is_behind_another_s_is_refused_and_only_that_one():
    sources = JointStateSources(ALOHA)
    sources.take(LEFT, said(1000 * MS))
    with pytest.raises(JointStateError, match=r"is stamped 0\.10 s before follower_left/joint_states: synchronise"):
        sources.take(RIGHT, said(899 * MS))
    sources.take(LEFT, said(1020 * MS))
    assert sources.take(RIGHT, said(1020 * MS)) is not None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": NAMES[1:], "position": ONE[1:], "velocity": []}, "no joint 'waist'"),
        ({"name": [*NAMES, "waist"], "position": [*ONE, 0.0]}, "2 times the joint 'waist'"),
        ({"position": ONE}, "7 positions for 8 names"),
        ({"position": [9.0, *ONE[:6], float("nan")]}, "positions of waist is not finite"),
        ({"velocity": ONE}, "7 velocities for 8 names"),
    ],
)
def test_joint_states_that_do_not_fit_are_refused_and_change_nothing(fields, words):
    sources = JointStateSources(ALOHA)
    sources.take(LEFT, said(1 * MS))
    with pytest.raises(JointStateError, match=words):
        sources.take(RIGHT, said(1 * MS, **fields))
    assert sources.take(LEFT, said(2 * MS)) is None, "the right arm has not said anything yet"


def test_a_stamp_that_is_none_is_refused():
    message = said(1)
    message.header.stamp.sec = -5
    with pytest.raises(CodecError):
        JointStateSources(ALOHA).take(LEFT, message)


def test_positions_speeds_and_efforts_come_in_our_units():
    states = tuple(
        dataclasses.replace(state, scale=(2.0,) * 7, offset=(1.0,) * 7) if state.topic == RIGHT else state
        for state in ALOHA.states
    )
    sources = JointStateSources(dataclasses.replace(ALOHA, states=states))
    sources.take(LEFT, said(1, effort=[9.0, *reversed(ONE)]))
    state = sources.take(RIGHT, said(1, effort=[9.0, *reversed(ONE)]))
    np.testing.assert_allclose(state.position[7:], (np.array(ONE) - 1.0) / 2.0)
    np.testing.assert_allclose(state.velocity[7:], np.array(ONE) / 2.0)
    np.testing.assert_allclose(state.effort[7:], np.array(ONE) * 2.0)


def with_units(**units):
    arms = tuple(dataclasses.replace(arm, gripper_units=GripperUnits(**units)) for arm in ALOHA.arms)
    return dataclasses.replace(ALOHA, arms=arms)


def test_a_gripper_s_position_and_speed_are_the_model_s_by_its_units():
    sources = JointStateSources(with_units(model=(0.02, 0.06), state=(1.0, 0.0)))
    sources.take(LEFT, said(1))
    state = sources.take(RIGHT, said(1, [*ONE[:6], 0.25]))
    assert state.position[13] == pytest.approx(0.05)
    assert state.velocity[13] == pytest.approx(0.25 * -0.04)
    np.testing.assert_allclose(state.position[7:13], ONE[:6])


def test_units_that_only_the_commands_have_leave_the_states_as_they_are():
    sources = JointStateSources(with_units(model=(0.02, 0.06), command=(1.0, 0.0)))
    sources.take(LEFT, said(1))
    assert sources.take(RIGHT, said(1)).position[13] == ONE[6]


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({"model": (0.0, 1.0)}, "give model, and command or state"),
        ({"command": (0.0, 1.0)}, "give model, and command or state"),
        ({"model": (0.5, 0.5), "state": (0.0, 1.0)}, "model needs two different values"),
        ({"model": (0.0, 1.0), "state": (0.0, 1.0, 2.0)}, "state needs two different values"),
        ({"model": (0.0, 1.0), "state": (0.0, float("inf"))}, "must be finite"),
    ],
)
def test_units_that_are_no_line_are_refused(units, words):
    with pytest.raises(ParameterError, match=words):
        GripperUnits(**units)


def test_units_in_two_places_are_refused():
    robot = with_units(model=(0.02, 0.06), state=(1.0, 0.0))
    states = tuple(dataclasses.replace(state, scale=(1.0,) * 6 + (2.0,)) for state in robot.states)
    with pytest.raises(ParameterError, match="left_gripper has units in gripper_units of arm left and in scale"):
        dataclasses.replace(robot, states=states)


def test_what_a_driver_is_said_not_to_measure_is_read_as_zero():
    states = tuple(dataclasses.replace(state, missing=("effort",)) for state in ALOHA.states)
    sources = JointStateSources(dataclasses.replace(ALOHA, states=states))
    for topic in (LEFT, RIGHT):
        state = sources.take(topic, said(1, effort=[float("nan")]))
    np.testing.assert_array_equal(state.effort, np.zeros(14))
    np.testing.assert_allclose(state.velocity[:7], ONE)


@pytest.mark.parametrize("entry", ["position", "velocity.", "effort.elbow", "Effort"])
def test_only_velocity_and_effort_can_be_missing_of_all_or_one_of_its_joints(entry):
    with pytest.raises(
        ParameterError, match="choose one of velocity, effort, alone or with a dot and one of its joints"
    ):
        StateConfig("joint_states", joints=("waist",), missing=(entry,))


def test_a_joint_that_no_entry_tells_of_cannot_be_missing():
    with pytest.raises(ParameterError, match=r"missing: 'effort\.nose': no such joint; it has: left_waist"):
        dataclasses.replace(SIM, states=(StateConfig("joint_states", missing=("effort.nose",)),))


def test_a_broadcaster_s_nan_of_an_interface_that_does_not_exist_costs_that_joint_alone():
    names = list(SIM.joint_names)
    effort = [1.0] * 13 + [float("nan")]
    message = JointState(name=names, position=[0.0] * 14, velocity=[0.0] * 14, effort=effort)
    state = JointStateSources(
        dataclasses.replace(SIM, states=(StateConfig("joint_states", missing=(f"effort.{names[-1]}",)),))
    ).take("joint_states", message)
    np.testing.assert_array_equal(state.effort, [*[1.0] * 13, 0.0])
    other = dataclasses.replace(SIM, states=(StateConfig("joint_states", missing=(f"velocity.{names[-1]}",)),))
    with pytest.raises(JointStateError, match=r"efforts of right_gripper is not finite.*say so in `missing` of states"):
        JointStateSources(other).take("joint_states", message)


def shared(**gripper):
    """The arms' broadcaster and a driver of the grippers, both on joint_states."""
    arms, grippers = SIM.joint_names[:6] + SIM.joint_names[7:13], ("left_gripper", "right_gripper")
    states = (StateConfig("joint_states", joints=arms), StateConfig("joint_states", joints=grippers, **gripper))
    robot = dataclasses.replace(SIM, states=states)
    message = {
        "arms": JointState(name=["lift", *arms], position=[9.0, *np.arange(12.0)]),
        "grippers": JointState(name=list(grippers), position=[0.5, 0.6]),
    }
    return robot, message


def stamped(message, at_ns):
    message.header.stamp = to_time(at_ns)
    return message


def test_two_publishers_of_one_topic_each_with_its_joints_make_one_state():
    robot, message = shared(missing=("velocity", "effort"))
    assert robot.state_topics == ("joint_states",)
    assert robot.state_inputs == ("joint_states:left_waist", "joint_states:left_gripper")
    sources = JointStateSources(robot)
    assert sources.take("joint_states", stamped(message["arms"], 10 * MS)) is None
    state = sources.take("joint_states", stamped(message["grippers"], 12 * MS))
    assert stamp_ns(state.header.stamp) == 10 * MS
    np.testing.assert_allclose(state.position, [*range(6), 0.5, *range(6, 12), 0.6])
    assert sources.inputs_of("joint_states", message["grippers"].name) == ("joint_states:left_gripper",)


def test_a_message_with_none_of_the_robot_s_joints_is_another_s_and_changes_nothing():
    robot, message = shared()
    for wheel in (JointState(name=["wheel"], position=[float("nan")]), JointState()):
        sources = JointStateSources(robot)
        sources.take("joint_states", stamped(message["arms"], 10 * MS))
        assert sources.inputs_of("joint_states", wheel.name) == ()
        assert sources.take("joint_states", stamped(wheel, 11 * MS)) is None
        assert sources.take("joint_states", stamped(message["grippers"], 12 * MS)) is not None
        assert JointStateSources(SIM).take("joint_states", wheel) is None


def test_a_message_with_some_of_an_entry_s_joints_must_have_all():
    robot, message = shared()
    with pytest.raises(JointStateError, match="no joint 'right_gripper'"):
        JointStateSources(robot).take("joint_states", JointState(name=["left_gripper"], position=[0.0]))
    both = JointState(name=[*message["arms"].name, "left_gripper"], position=[0.0] * 14)
    sources = JointStateSources(robot)
    with pytest.raises(JointStateError, match="no joint 'right_gripper'"):
        sources.take("joint_states", both)
    assert sources.take("joint_states", stamped(message["grippers"], 1)) is None, "the arms have not been told either"


def test_one_topic_in_the_robot_s_names_and_units_is_passed_on_as_it_is():
    robot = load_robot(ROBOTS / "sim.yaml")
    message = JointState(name=["wheel", *robot.joint_names], position=[9.0] * 15)
    assert JointStateSources(robot).take("joint_states", message) is message
