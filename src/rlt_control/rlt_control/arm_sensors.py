"""The ROS side of what arms and their drivers report beside joint states: wrenches, tool poses, whether a driver runs.

Each is an input of the watchdog; what is refused, and why, is said in `inputs` and `measured_pose`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from std_msgs.msg import Bool, Header

from rlt_common import topics
from rlt_common.codecs import CodecError, stamp_ns
from rlt_common.config import ArmConfig, RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_common.kinematics import build_kinematics
from rlt_common.subscriptions import subscribe_to_driver
from rlt_common.watchdog import Watchdog
from rlt_control import inputs
from rlt_control.measured_pose import MeasuredPose


class ArmSensors:
    """Subscribes to what the robot file names.

    Args:
        node: the executor.
        robot: names the topics.
        watchdog: is told what was heard and what was refused.
        now_s: monotonic clock, s.
        measured: gives the newest joints (n,), None before the first: poses are judged by them.

    Raises ValueError for a pose whose frames the kinematics model does not have.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotConfig,
        watchdog: Watchdog,
        now_s: Callable[[], float],
        measured: Callable[[], np.ndarray | None],
    ) -> None:
        self._watchdog, self._now_s, self._measured = watchdog, now_s, measured
        kinematics = build_kinematics(robot)
        for arm in robot.arms:
            if arm.wrench_topic:
                callback = partial(self._on_wrench, arm)
                subscribe_to_driver(node, WrenchStamped, arm.wrench_topic, callback, topics.QOS_SENSOR)
            if arm.pose_topic:
                callback = partial(self._on_pose, arm, MeasuredPose(robot, arm, kinematics))
                subscribe_to_driver(node, PoseStamped, arm.pose_topic, callback, topics.QOS_SENSOR)
        for driver in robot.drivers:
            if driver.ready_topic:
                callback = partial(self._on_ready, driver)
                subscribe_to_driver(node, Bool, driver.ready_topic, callback, topics.QOS_LATCHED)

    def _on_wrench(self, arm: ArmConfig, message: WrenchStamped) -> None:
        force, torque = message.wrench.force, message.wrench.torque
        reason = inputs.wrench_refusal(arm, (force.x, force.y, force.z), (torque.x, torque.y, torque.z))
        self._judge(inputs.wrench(arm), reason, message.header)

    def _on_pose(self, arm: ArmConfig, pose: MeasuredPose, message: PoseStamped) -> None:
        q = self._measured()
        if q is not None:
            self._judge(inputs.pose(arm), pose.refusal(message, q), message.header)

    def _on_ready(self, driver: DriverConfig, message: Bool) -> None:
        if message.data:
            self._watchdog.heard(inputs.ready(driver), self._now_s())
        else:
            self._watchdog.refuse(inputs.ready(driver), inputs.not_ready(driver))

    def _judge(self, name: str, reason: str, header: Header) -> None:
        try:
            said_ns = stamp_ns(header.stamp)
        except CodecError as error:
            reason = reason or str(error)
        if (
            reason
        ):  # sensors speak more often than the arms are commanded: a peak must not be over before it is acted on
            self._watchdog.alarm(name, reason)
        else:
            self._watchdog.heard(name, self._now_s(), said_ns)
