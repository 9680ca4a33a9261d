"""Drivers that take the tool's pose or speed and solve for the joints themselves: crisp, MoveIt Servo.

They are given the pose that the executor's limits left, never the policy's action: targets are joints, in the robot's
ranges and at speeds it allows, and the tool's pose follows from them by the robot's own kinematics model.
"""

from __future__ import annotations

import mujoco
import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped

from rlt_common.codecs import to_time
from rlt_common.config import RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_common.kinematics import ArmKinematics, Pose
from rlt_common.rotations import rotation_vector
from rlt_control.drivers.encoder import Command

FOLLOW_PER_S = 2.0
"""Share of the distance between commanded and measured pose that a second makes up for, while moving: without it what a
driver of speeds loses would add up."""


class ToolFrame:
    """One arm's tool in the driver's frame."""

    def __init__(self, robot: RobotConfig, driver: DriverConfig, kinematics: ArmKinematics) -> None:
        self.frame_id = driver.frame or robot.frame
        self._arm = [arm.name for arm in robot.arms].index(driver.arm)
        self._kinematics = kinematics
        self._origin, self._axes = kinematics.body_pose(driver.frame) if driver.frame else (np.zeros(3), np.eye(3))

    def pose(self, q: np.ndarray) -> Pose:
        """The tool's position (3,) m and rotation (3, 3), in the driver's frame, at the robot's joints q (n,)."""
        position, rotation = self._kinematics.forward(q)[self._arm]
        return self._axes.T @ (position - self._origin), self._axes.T @ rotation


class ToolPose:
    """geometry_msgs/PoseStamped: crisp_controllers' `target_pose`."""

    message_type = PoseStamped
    speed = False

    def __init__(self, _: RobotConfig, driver: DriverConfig, frame: ToolFrame) -> None:
        self.topic = driver.topic
        self._frame = frame

    def encode(self, command: Command) -> PoseStamped:
        """See Encoder."""
        position, rotation = self._frame.pose(command.target)
        message = PoseStamped()
        message.header.stamp = to_time(command.stamp_ns)
        message.header.frame_id = self._frame.frame_id
        at, facing = message.pose.position, message.pose.orientation
        at.x, at.y, at.z = map(float, position)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, rotation.ravel())
        facing.w, facing.x, facing.y, facing.z = map(float, quaternion)
        return message


class ToolTwist:
    """geometry_msgs/TwistStamped: MoveIt Servo's `delta_twist_cmds`, in speeds (m/s, rad/s). Holding is speed 0."""

    message_type = TwistStamped
    speed = True

    def __init__(self, robot: RobotConfig, driver: DriverConfig, frame: ToolFrame) -> None:
        self.topic = driver.topic
        self._frame = frame
        self._period_s = robot.period_s
        limits = robot.limits
        self._fastest = limits.step_translation / self._period_s, limits.step_rotation / self._period_s
        self._before: np.ndarray | None = None

    def encode(self, command: Command) -> TwistStamped:
        """See Encoder."""
        message = TwistStamped()
        message.header.stamp = to_time(command.stamp_ns)
        message.header.frame_id = self._frame.frame_id
        before, self._before = self._before, None if command.holding else command.target
        if command.holding:
            return message
        start = command.measured if before is None else before
        (p, r), (p_start, r_start) = self._frame.pose(command.target), self._frame.pose(start)
        p_now, r_now = self._frame.pose(command.measured)
        linear = (p - p_start) / self._period_s + FOLLOW_PER_S * (p_start - p_now)
        angular = rotation_vector(r @ r_start.T) / self._period_s + FOLLOW_PER_S * rotation_vector(r_start @ r_now.T)
        twist = message.twist
        twist.linear.x, twist.linear.y, twist.linear.z = map(float, _at_most(linear, self._fastest[0]))
        twist.angular.x, twist.angular.y, twist.angular.z = map(float, _at_most(angular, self._fastest[1]))
        return message


def _at_most(values: np.ndarray, most: float) -> np.ndarray:
    return np.clip(values, -most, most)
