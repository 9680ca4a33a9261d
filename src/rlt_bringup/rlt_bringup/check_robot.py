"""Command `check_robot`: reads a robot file, listens to the live graph, and says what is wrong before anything moves.

    check_robot --robot my_robot.yaml [--seconds 5] [--namespace ns] [--arms-only] [--ros-args ...]

Start the drivers first. Checked are joint states (rate, age, gaps, names, limits, clocks), force sensors, measured
poses (against the model), whether drivers obey, command topics (a driver that listens, its type, the order of its
controller's joints, nobody else who commands), where the tools are, and the cameras as `camera_check` does. It
publishes nothing. Ends with status 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rcl_interfaces.srv import GetParameters
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from rlt_bringup.robot_check import Endpoints, RobotCheck
from rlt_common import topics
from rlt_common.config import RobotConfig, config_file, load_robot
from rlt_common.parameters import ParameterError
from rlt_control.drivers import build_encoders
from rlt_vla_node.camera_check import CameraLook
from rlt_vla_node.camera_listener import listen


class Listener(Node):
    """Feeds a RobotCheck with what the drivers say."""

    def __init__(self, robot: RobotConfig, check: RobotCheck, namespace: str = "") -> None:
        super().__init__("check_robot", namespace=namespace)
        self._check = check
        for topic in check.topics:
            # Best effort hears both kinds of publisher.
            self.create_subscription(JointState, topic, partial(self._on_state, topic), topics.QOS_SENSOR)
        for arm in robot.arms:
            if arm.wrench_topic:
                callback = partial(self._on_wrench, arm.name)
                self.create_subscription(WrenchStamped, arm.wrench_topic, callback, topics.QOS_SENSOR)
            if arm.pose_topic:
                callback = partial(self._on_pose, arm.name)
                self.create_subscription(PoseStamped, arm.pose_topic, callback, topics.QOS_SENSOR)
        for topic in ready_topics(robot):
            # The first hears what was said before, of a publisher that latches; the other one hears any publisher.
            for profile in (topics.QOS_LATCHED, topics.QOS_CONTROL):
                self.create_subscription(Bool, topic, partial(check.on_ready, topic), profile)

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
            publishers_latch=[info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in publishers],
        )


def ready_topics(robot: RobotConfig) -> tuple[str, ...]:
    """Every `ready_topic` of the robot file, once."""
    return tuple(dict.fromkeys(driver.ready_topic for driver in robot.drivers if driver.ready_topic))


def controller_joints(node: Node, topic: str, seconds: float = 2.0) -> tuple[str, ...]:
    """The parameter `joints` of the controller whose `<controller>/commands` this is; empty where it cannot be read."""
    controller = topic.rpartition("/")[0]
    client = node.create_client(GetParameters, f"{controller}/get_parameters")
    try:
        if not controller or not client.wait_for_service(timeout_sec=seconds):
            return ()
        future = client.call_async(GetParameters.Request(names=["joints"]))
        rclpy.spin_until_future_complete(node, future, timeout_sec=seconds)
        answer = future.result() if future.done() else None
        return tuple(answer.values[0].string_array_value) if answer and answer.values else ()
    finally:
        node.destroy_client(client)


def check(robot: RobotConfig, seconds: float, namespace: str = "", cameras: bool = True) -> int:
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
        graph = {topic: node.endpoints(topic) for topic in (*types, *ready_topics(robot))}
        read = {topic: controller_joints(node, topic) for topic in judged.ordered_by_number()}
        executor = f"{namespace.rstrip('/') or ''}/chunk_executor"
    finally:
        node.destroy_node()
    print(_table(robot, judged))
    seen = _look_at_cameras(robot, seconds, namespace) if cameras else []
    orders = {topic: joints for topic, joints in read.items() if joints}
    problems = judged.problems(graph, types, executor if executor.startswith("/") else f"/{executor}", orders) + seen
    for problem in problems:
        print(f"- {problem}")
    for topic in read.keys() - orders.keys():
        print(f"not checked: {topic}: the order of its controller's joints could not be read: compare it by hand")
    if not problems:
        print(f"the arms {'and cameras ' if cameras else ''}are in order")
    return len(problems)


def _look_at_cameras(robot: RobotConfig, seconds: float, namespace: str) -> list[str]:
    """Print the table of camera_check. One sentence per problem."""
    looking = CameraLook(robot, namespace, "check_robot")
    try:
        listen(looking.node, lambda: False, seconds)
        lines, problems = looking.report()
    finally:
        looking.node.destroy_node()
    print("\n".join(lines))
    return problems


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
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="how long to listen to the arms, then to the cameras, 1 to 600"
    )
    parser.add_argument("--namespace", default="", help="namespace of the robot's nodes")
    parser.add_argument("--arms-only", action="store_true", help="leave the cameras out")
    given = list(sys.argv if arguments is None else [parser.prog, *arguments])
    options = parser.parse_args(remove_ros_args(given)[1:])
    if not 1.0 <= options.seconds <= 600.0:
        sys.exit(f"check_robot: --seconds {options.seconds:g}: give 1 to 600")
    rclpy.init(args=given)
    try:
        robot = load_robot(config_file("robots", options.robot))
        problems = check(robot, options.seconds, options.namespace, cameras=not options.arms_only)
    except (ParameterError, ValueError, OSError) as error:
        sys.exit(f"check_robot: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit("check_robot: interrupted")
    finally:
        rclpy.try_shutdown()
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
