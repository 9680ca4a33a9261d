"""Arm drivers' doubles: they speak the drivers' own types over DDS, move at once where they are sent, and say so."""

import importlib
from functools import partial

import mujoco
import numpy as np
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from rlt_common import topics
from rlt_common.codecs import to_time
from rlt_common.driver_config import GripperUnits
from rlt_common.kinematics import build_kinematics
from rlt_common.rotations import rotation_matrix

TYPES = {
    "joint_positions": ("std_msgs", "Float64MultiArray"),
    "joint_trajectory": ("trajectory_msgs", "JointTrajectory"),
    "joint_state": ("sensor_msgs", "JointState"),
    "interbotix_group": ("interbotix_xs_msgs", "JointGroupCommand"),
    "interbotix_single": ("interbotix_xs_msgs", "JointSingleCommand"),
    "tool_pose": ("geometry_msgs", "PoseStamped"),
    "tool_twist": ("geometry_msgs", "TwistStamped"),
}


def type_of(driver):
    """The message that the driver takes."""
    package, name = TYPES[driver.type]
    return getattr(importlib.import_module(f"{package}.msg"), name)


class DriverDouble(Node):
    """All drivers of one robot file. `q`: the joints in the robot's order; `heard`: topic -> messages."""

    def __init__(self, robot, q, context):
        super().__init__("driver_double", context=context)
        self.robot, self.q = robot, np.array(q, dtype=float)
        self.heard = {driver.topic: [] for driver in robot.drivers}
        self._kinematics = build_kinematics(robot)
        for driver in robot.drivers:
            callback = partial(self._on_command, driver)
            self.create_subscription(type_of(driver), driver.topic, callback, topics.QOS_CONTROL)
        self.states = {s.topic: self.create_publisher(JointState, s.topic, topics.QOS_CONTROL) for s in robot.states}

        arms = [arm for arm in robot.arms if arm.wrench_topic]
        self.wrenches = [self.create_publisher(WrenchStamped, arm.wrench_topic, topics.QOS_SENSOR) for arm in arms]
        arms = [arm for arm in robot.arms if arm.pose_topic]
        self.poses = {a.name: self.create_publisher(PoseStamped, a.pose_topic, topics.QOS_SENSOR) for a in arms}
        self.pose_error, self.pose_frame = np.zeros(3), None
        ready = [driver.ready_topic for driver in robot.drivers if driver.ready_topic]
        self.ready = {topic: self.create_publisher(Bool, topic, topics.QOS_LATCHED) for topic in ready}
        self.obeys = True

    def say_ready(self, obeys):
        self.obeys = obeys
        for publisher in self.ready.values():
            publisher.publish(Bool(data=obeys))

    def feel(self, stamp_ns):
        """Every force sensor says: nothing touches. Every arm says where its tool is, in its base's frame."""
        message = WrenchStamped()
        message.header.stamp = to_time(stamp_ns)
        for publisher in self.wrenches:
            publisher.publish(message)
        for arm, (position, rotation) in zip(self.robot.arms, self._kinematics.forward(self.q), strict=True):
            if arm.name not in self.poses:
                continue
            base, axes = self._kinematics.body_pose(arm.pose_frame)
            message = PoseStamped()
            message.header.stamp = to_time(stamp_ns)
            message.header.frame_id = self.pose_frame or arm.pose_frame
            at, turn = message.pose.position, message.pose.orientation
            at.x, at.y, at.z = map(float, axes.T @ (position - base) + self.pose_error)
            quaternion = np.zeros(4)
            mujoco.mju_mat2Quat(quaternion, (axes.T @ rotation).ravel())
            turn.w, turn.x, turn.y, turn.z = map(float, quaternion)
            self.poses[arm.name].publish(message)

    def _on_command(self, driver, message):
        self.heard[driver.topic].append(message)
        if self.obeys:
            getattr(self, f"_{driver.type}")(driver, message)

    def _columns(self, driver):
        return [self.robot.joint_names.index(joint) for joint in self.robot.joints_of(driver)]

    def _set(self, driver, values):
        columns = self._columns(driver)
        for column, joint, value in zip(columns, self.robot.joints_of(driver), values, strict=True):
            units = self._gripper_units(joint)
            if units.command:
                value = np.interp(value, *zip(*sorted(zip(units.command, units.model, strict=True)), strict=True))
            self.q[column] = value

    def _gripper_units(self, joint):
        return next((arm.gripper_units for arm in self.robot.arms if arm.gripper == joint), GripperUnits())

    def _joint_positions(self, driver, message):
        self._set(driver, message.data)

    def _joint_trajectory(self, driver, message):
        assert message.joint_names == list(driver.names or driver.joints)
        assert message.header.stamp.sec == message.header.stamp.nanosec == 0
        (point,) = message.points
        assert point.time_from_start.nanosec == 40_000_000
        self._set(driver, point.positions)

    def _interbotix_group(self, driver, message):
        assert message.name == "arm"
        self._set(driver, message.cmd)

    def _interbotix_single(self, driver, message):
        assert message.name == "gripper"
        self._set(driver, [message.cmd])

    def _joint_state(self, driver, message):
        assert message.name == list(driver.names or driver.joints)
        self._set(driver, message.position)

    def _frame(self, driver):
        return self._kinematics.body_pose(driver.frame) if driver.frame else (np.zeros(3), np.eye(3))

    def _reach(self, driver, position, rotation):
        """The driver's own inverse kinematics, in its own frame."""
        origin, axes = self._frame(driver)
        targets = self._kinematics.forward(self.q)
        arm = [arm.name for arm in self.robot.arms].index(driver.arm)
        targets[arm] = (origin + axes @ position, axes @ rotation)
        columns = self._columns(driver)
        self.q[columns] = self._kinematics.inverse(self.q, targets, 50)[columns]

    def _tool_pose(self, driver, message):
        assert message.header.frame_id == driver.frame
        p, o = message.pose.position, message.pose.orientation
        angle = 2.0 * np.arctan2(np.linalg.norm([o.x, o.y, o.z]), o.w)
        axis = np.array([o.x, o.y, o.z]) / max(np.linalg.norm([o.x, o.y, o.z]), 1e-12)
        self._reach(driver, np.array([p.x, p.y, p.z]), rotation_matrix(angle * axis))

    def _tool_twist(self, driver, message):
        linear, angular = message.twist.linear, message.twist.angular
        arm = [arm.name for arm in self.robot.arms].index(driver.arm)
        origin, axes = self._frame(driver)
        position, rotation = self._kinematics.forward(self.q)[arm]
        position, rotation = axes.T @ (position - origin), axes.T @ rotation
        dt = self.robot.period_s
        turn = rotation_matrix(dt * np.array([angular.x, angular.y, angular.z]))
        self._reach(driver, position + dt * np.array([linear.x, linear.y, linear.z]), turn @ rotation)

    def say(self, topic, stamp_ns):
        """One driver's joint states, in its own names, units and order, with a joint that is none of ours."""
        state = next(state for state in self.robot.states if state.topic == topic)
        joints = state.joints or self.robot.joint_names
        values = self.q[[self.robot.joint_names.index(joint) for joint in joints]]
        for i, joint in enumerate(joints):
            units = self._gripper_units(joint)
            if units.state:
                values[i] = np.interp(values[i], units.model, units.state)
        names = list(state.names or joints)
        message = JointState(name=[*reversed(names), "lift"], position=[*values[::-1], 9.0])
        message.velocity = message.effort = [0.0] * len(message.name)
        message.header.stamp = to_time(stamp_ns)
        self.states[topic].publish(message)
