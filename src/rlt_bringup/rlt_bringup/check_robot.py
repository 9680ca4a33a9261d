"""Command `check_robot`: reads a robot file, listens to the live graph, and says what is wrong before anything moves.

    check_robot --robot my_robot.yaml [--seconds 5] [--namespace ns] [--ros-args ...]

Start the drivers first. Checked are joint states (rate, age, gaps, names, limits, clocks), force sensors, measured
poses (against the model), whether drivers obey, command topics (a driver that listens, its type, nobody else who
commands) and where the tools are; the cameras have a check of their own, `camera_check`. It publishes nothing. Ends
with status 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from rlt_bringup.graph import config_file
from rlt_bringup.robot_check import Endpoints, RobotCheck
from rlt_common import topics
from rlt_common.config import RobotConfig, load_robot
from rlt_common.parameters import ParameterError
from rlt_control.drivers import build_encoders


class Listener(Node):
    """Feeds a RobotCheck with what the drivers say."""

    def __init__(self, robot: RobotConfig, check: RobotCheck, namespace: str = "") -> None:
        super().__init__("check_robot", namespace=namespace)
        self._check = check
        for topic in check.states:
            # Best effort hears both kinds of publisher.
            self.create_subscription(JointState, topic, partial(self._on_state, topic), topics.QOS_SENSOR)
        for arm in robot.arms:
            if arm.wrench_topic:
                callback = partial(self._on_wrench, arm.name)
                self.create_subscription(WrenchStamped, arm.wrench_topic, callback, topics.QOS_SENSOR)
            if arm.pose_topic:
                callback = partial(self._on_pose, arm.name)
                self.create_subscription(PoseStamped, arm.pose_topic, callback, topics.QOS_SENSOR)
        for topic in {driver.ready_topic for driver in robot.drivers if driver.ready_topic}:
            self.create_subscription(Bool, topic, partial(check.on_ready, topic), topics.QOS_LATCHED)

    def _on_state(self, topic: str, message: JointState) -> None:
        self._check.on_state(topic, message, self.get_clock().now().nanoseconds)

    def _on_wrench(self, arm: str, message: WrenchStamped) -> None:
        self._check.on_wrench(arm, message, self.get_clock().now().nanoseconds)

    def _on_pose(self, arm: str, message: PoseStamped) -> None:
        self._check.on_pose(arm, message, self.get_clock().now().nanoseconds)

    def endpoints(self, topic: str) -> Endpoints:
        """Who is on a topic, as the ROS graph tells."""

        def names(infos: list) -> list[str]:
            return [f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos]

        publishers, subscribers = self.get_publishers_info_by_topic(topic), self.get_subscriptions_info_by_topic(topic)
        return Endpoints(
            publishers=names(publishers),
            publisher_types=[info.topic_type for info in publishers],
            subscribers=names(subscribers),
            subscriber_types=[info.topic_type for info in subscribers],
        )


def check(robot: RobotConfig, seconds: float, namespace: str = "") -> int:
    """Listen and print. Returns the number of problems. rclpy must be running.

    Raises ParameterError or ValueError when the robot file cannot work at all: a driver's messages are not installed, a
    joint or tip is not in the model.
    """
    judged = RobotCheck(robot)
    types = {encoder.topic: _type_name(encoder.message_type) for encoder in build_encoders(robot)}
    node = Listener(robot, judged, namespace)
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.05)
        graph = {topic: node.endpoints(topic) for topic in types}
        executor = f"{namespace.rstrip('/') or ''}/chunk_executor"
    finally:
        node.destroy_node()
    print(_table(robot, judged))
    problems = judged.problems(graph, types, executor if executor.startswith("/") else f"/{executor}")
    for problem in problems:
        print(f"- {problem}")
    if not problems:
        print("the arms are in order; camera_check looks at the cameras")
    return len(problems)


def _type_name(kind: type) -> str:
    package, _, folder = kind.__module__.partition(".")
    return f"{package}/{folder.partition('.')[0]}/{kind.__name__}"


def _table(robot: RobotConfig, judged: RobotCheck) -> str:
    lines = [f"{'topic':44} {'Hz':>7} {'age ms':>8} {'longest gap ms':>15}"]
    rows = {**judged.states, **{a.wrench_topic: judged.wrenches[a.name] for a in robot.arms if a.wrench_topic}}
    rows |= {a.pose_topic: judged.poses[a.name] for a in robot.arms if a.pose_topic}
    for topic, heard in rows.items():
        rate, age = heard.rate_hz, heard.age_s
        shown = (f"{rate:.1f}" if rate else "-", f"{age * 1e3:.1f}" if age is not None else "-")
        lines.append(f"{topic:44} {shown[0]:>7} {shown[1]:>8} {heard.longest_gap_s * 1e3:>15.1f}")
    if judged.q is not None:
        for arm, (position, _) in zip(robot.arms, judged.kinematics.forward(judged.q), strict=True):
            away = np.linalg.norm(position - np.array(arm.home_position))
            lines.append(f"arm {arm.name}: tool at {np.round(position, 3).tolist()} m, {away:.3f} m from home")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup check_robot`."""
    parser = argparse.ArgumentParser(prog="check_robot", description="check a robot before anything moves")
    parser.add_argument("--robot", required=True, help="robot name, or path of a robot file")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to listen, 1 to 600")
    parser.add_argument("--namespace", default="", help="namespace of the robot's nodes")
    given = list(sys.argv if arguments is None else [parser.prog, *arguments])
    options = parser.parse_args(remove_ros_args(given)[1:])
    if not 1.0 <= options.seconds <= 600.0:
        sys.exit(f"check_robot: --seconds {options.seconds:g}: give 1 to 600")
    rclpy.init(args=given)
    try:
        problems = check(load_robot(config_file("robots", options.robot)), options.seconds, options.namespace)
    except (ParameterError, ValueError, OSError) as error:
        sys.exit(f"check_robot: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit("check_robot: interrupted")
    finally:
        rclpy.try_shutdown()
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
