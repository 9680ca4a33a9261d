"""Arm drivers' doubles: they speak the drivers' own types over DDS, move at once where they are sent, and say so.

What a shipped robot's drivers say and take is in `vendors`; a driver that is nobody's speaks what the robot file says.
"""

import importlib
from functools import partial

import mujoco
import numpy as np
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from vendors import Pose, Topic, Values, Vendor, line, same

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


def described(robot):
    """The robot file's own word for what its drivers say and take."""

    def ours(joint, which):
        units = next((arm.gripper_units for arm in robot.arms if arm.gripper == joint), GripperUnits())
        points = getattr(units, which)
        return (units.model, points) if points else None

    def to(pair):
        return line(*pair) if pair else same

    def of(pair):
        return line(*reversed(pair)) if pair else same

    states = {}
    for state in robot.states:
        joints = state.joints or robot.joint_names
        named = zip(state.names or joints, joints, strict=True)
        states[state.topic] = Topic({name: (joint, to(ours(joint, "state"))) for name, joint in named}, {"lift": 9.0})
    commands = {
        driver.topic: Pose(driver.arm, driver.frame)
        if driver.arm
        else Values(tuple((joint, of(ours(joint, "command"))) for joint in robot.joints_of(driver)))
        for driver in robot.drivers
    }
    return Vendor(
        states=states,
        commands=commands,
        poses={arm.pose_topic: (arm.name, arm.pose_frame) for arm in robot.arms if arm.pose_topic},
        wrenches=tuple(arm.wrench_topic for arm in robot.arms if arm.wrench_topic),
        ready=tuple(driver.ready_topic for driver in robot.drivers if driver.ready_topic),
    )


class DriverDouble(Node):
    """All drivers of one robot file. `q`: the joints in the robot's order; `heard`: topic -> messages."""

    def __init__(self, robot, q, context, vendor=None):
        super().__init__("driver_double", context=context)
        self.robot, self.q = robot, np.array(q, dtype=float)
        self.vendor = vendor or described(robot)
        self.heard = {topic: [] for topic in self.vendor.commands}
        self._kinematics = build_kinematics(robot)
        for driver in robot.drivers:
            assert driver.topic in self.heard, f"{driver.topic}: the maker's driver takes {list(self.heard)}"
            callback = partial(self._on_command, driver)
            self.create_subscription(type_of(driver), driver.topic, callback, topics.QOS_CONTROL)
        self.states = {t: self.create_publisher(JointState, t, topics.QOS_CONTROL) for t in self.vendor.states}
        self.wrenches = [self.create_publisher(WrenchStamped, t, topics.QOS_SENSOR) for t in self.vendor.wrenches]
        self.poses = {t: self.create_publisher(PoseStamped, t, topics.QOS_SENSOR) for t in self.vendor.poses}
        self.pose_error, self.pose_frame = np.zeros(3), None
        self.ready = {t: self.create_publisher(Bool, t, topics.QOS_LATCHED) for t in self.vendor.ready}
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
        names = [arm.name for arm in self.robot.arms]
        for topic, (arm, frame) in self.vendor.poses.items():
            position, rotation = self._kinematics.forward(self.q)[names.index(arm)]
            base, axes = self._kinematics.body_pose(frame)
            message = PoseStamped()
            message.header.stamp = to_time(stamp_ns)
            message.header.frame_id = self.pose_frame or frame
            at, turn = message.pose.position, message.pose.orientation
            at.x, at.y, at.z = map(float, axes.T @ (position - base) + self.pose_error)
            quaternion = np.zeros(4)
            mujoco.mju_mat2Quat(quaternion, (axes.T @ rotation).ravel())
            turn.w, turn.x, turn.y, turn.z = map(float, quaternion)
            self.poses[topic].publish(message)

    def _on_command(self, driver, message):
        self.heard[driver.topic].append(message)
        if self.obeys:
            getattr(self, f"_{driver.type}")(driver, message)

    def _columns(self, driver):
        return [self.robot.joint_names.index(joint) for joint in self.robot.joints_of(driver)]

    def _set(self, driver, values):
        for (joint, ours), value in zip(self.vendor.commands[driver.topic].joints, values, strict=True):
            self.q[self.robot.joint_names.index(joint)] = ours(value)

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
        frame = self.vendor.commands[driver.topic].frame
        return self._kinematics.body_pose(frame) if frame else (np.zeros(3), np.eye(3))

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
        """One driver's joint states, in its own names, units and order, with joints that are none of ours."""
        spoken = self.vendor.states[topic]
        rows = [(name, there(self.q[self.robot.joint_names.index(j)])) for name, (j, there) in spoken.joints.items()]
        rows = [*reversed(rows), *spoken.others.items()]
        message = JointState(name=[name for name, _ in rows], position=[float(value) for _, value in rows])
        zero = {"all": [0.0] * len(rows), "none": [], "nan": [float("nan")] * len(rows)}
        message.velocity, message.effort = zero[spoken.velocity], zero[spoken.effort]
        message.header.stamp = to_time(stamp_ns)
        self.states[topic].publish(message)
