"""A measured tool pose against the model's, in numbers."""

import re
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from geometry_msgs.msg import PoseStamped

from rlt_common.config import load_robot
from rlt_common.kinematics import build_kinematics
from rlt_common.parameters import ParameterError
from rlt_common.rotations import rotation_matrix
from rlt_control.measured_pose import MeasuredPose

ROBOT = load_robot(get_package_share_directory("rlt_bringup") + "/config/robots/dual_franka.yaml")
MODEL = build_kinematics(ROBOT)
Q = np.array([0.1, -0.7854, 0.2, -2.3562, 0.0, 1.5708, 0.7854, 0.02] * 2)
RIGHT = ROBOT.arms[1]


def said(of="right_fr3_tip", frame="right_base", off=(0.0, 0.0, 0.0), turned=(0.0, 0.0, 0.0)):
    """What a driver without an error would say of a frame, and then `off` m and turned by `turned` rad."""
    (at, facing), (base, axes) = MODEL.pose_of(of, Q), MODEL.pose_of(frame, Q)
    message = PoseStamped()
    message.header.frame_id = frame
    position, turn = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = (axes.T @ (at - base) + off).tolist()
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, (axes.T @ rotation_matrix(np.array(turned)) @ facing).ravel())
    turn.w, turn.x, turn.y, turn.z = (-quaternion).tolist()  # the same rotation
    return message


def judged(message, **changes):
    return MeasuredPose(ROBOT, replace(RIGHT, **changes), MODEL).refusal(message, Q)


def test_the_tool_s_pose_in_its_base_s_frame_is_taken():
    assert judged(said()) == ""
    assert judged(said(off=(0.0, 0.0, 0.0199), turned=(0.0, 0.099, 0.0))) == ""


def test_another_part_of_the_arm_may_be_what_is_measured():
    flange = said(of="right_fr3_flange")
    assert judged(flange, pose_of="right_fr3_flange") == ""
    assert "mm from where the model has it" in judged(flange)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (said(off=(0.012, 0.0, 0.016 + 1e-4)), "is 20.1 mm from where the model has it, tolerance 20 mm"),
        (said(turned=(0.0, 0.0, -0.11)), r"is turned by 0\.110 rad against the model, tolerance 0\.1 rad"),
        (said(frame="left_base"), "is in frame 'left_base', the robot file says 'right_base'"),
        (said(off=(np.nan, 0.0, 0.0)), "not finite"),
    ],
)
def test_what_is_refused_is_said(message, words):
    assert re.search(words, judged(message))


def test_a_quaternion_that_is_none_is_refused():
    message = said()
    message.pose.orientation.w = message.pose.orientation.x = 0.0
    message.pose.orientation.y = message.pose.orientation.z = 0.0
    assert "no rotation" in judged(message)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pose_frame": "table"}, "arm right: pose_topic: the kinematics model has no body named 'table'"),
        ({"pose_frame": "right_fr3_flange"}, "'right_fr3_flange' of the kinematics model moves"),
        ({"pose_of": "hand"}, "no site or body named 'hand'"),
    ],
)
def test_frames_that_the_model_lacks_are_refused_at_the_start(changes, words):
    with pytest.raises(ValueError, match=words):
        judged(said(), **changes)


def test_frames_without_a_topic_are_refused():
    with pytest.raises(ParameterError, match="mean nothing without pose_topic"):
        replace(RIGHT, pose_topic="")
