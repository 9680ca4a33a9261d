"""What the camera commands hear: joint states and cameras, as the ingest takes them. It publishes nothing but logs.

Subscribes  the topics in `states` of the robot file (sensor_msgs/JointState), the cameras' topics
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import rclpy
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import JointState

from rlt_common import topics
from rlt_common.codecs import CodecError, stamp_ns
from rlt_common.config import CameraConfig, RobotConfig
from rlt_common.joint_states import JointStateError, JointStateSources
from rlt_vla_node.camera_messages import image_type
from rlt_vla_node.synchroniser import cdr_stamp_ns

SPIN_S = 0.05


class CameraListener(Node):
    """Hands on what comes.

    Args:
        name: of the node.
        robot: whose states to listen to.
        cameras: to listen to.
        on_state: called with (stamp in ns, message).
        on_image: called with (camera, stamp in ns, serialised message, now in ns by the ROS clock).
        namespace: of the robot's nodes.
    """

    def __init__(
        self,
        name: str,
        robot: RobotConfig,
        cameras: Sequence[CameraConfig],
        on_state: Callable[[int, JointState], None],
        on_image: Callable[[CameraConfig, int, bytes, int], None],
        namespace: str = "",
    ) -> None:
        super().__init__(name, namespace=namespace)
        self._on_state, self._on_image = on_state, on_image
        self.refused: dict[str, str] = {}
        """Topic or camera -> why its newest unusable message was refused."""
        self._sources = JointStateSources(robot)
        for topic in self._sources.topics:
            self.create_subscription(JointState, topic, partial(self._state, topic), topics.QOS_STREAM)
        for camera in cameras:
            callback = partial(self._image, camera)
            self.create_subscription(image_type(camera), camera.topic, callback, topics.QOS_SENSOR, raw=True)

    def _state(self, topic: str, part: JointState) -> None:
        try:
            message = self._sources.take(topic, part)
            if message is not None:
                self._on_state(stamp_ns(message.header.stamp), message)
        except (CodecError, JointStateError) as error:
            self.refused[topic] = str(error)

    def _image(self, camera: CameraConfig, data: bytes) -> None:
        try:
            self._on_image(camera, cdr_stamp_ns(data), data, self.get_clock().now().nanoseconds)
        except ValueError as error:
            self.refused[camera.name] = str(error)

    def silence(self, camera: CameraConfig) -> str:
        """Why nothing comes from a camera, as far as the graph tells, and what to do."""
        topic = self.resolve_topic_name(camera.topic)
        kinds = {info.topic_type for info in self.get_publishers_info_by_topic(topic)}
        wanted = f"sensor_msgs/msg/{image_type(camera).__name__}"
        if not kinds:
            started = "is v4l2_camera running?" if camera.device else "start its driver, or correct `topic`"
            return f"nobody publishes on {topic}: {started}"
        if wanted not in kinds:
            other = "compressed" if wanted.endswith("/Image") else "raw"
            hint = f"give transport: {other}, or " if any(k.startswith("sensor_msgs/msg/") for k in kinds) else ""
            return f"{topic} carries {', '.join(sorted(kinds))}, not {wanted}: {hint}name another topic"
        return f"{topic} has a publisher, and no image came: look at the driver's log"


def listen(node: CameraListener, done: Callable[[], bool], seconds: float) -> None:
    """Spin until `done` says so, for `seconds` of wall time at most."""
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=SPIN_S)


def arguments_of(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line and start rclpy with what follows --ros-args. The caller ends rclpy."""
    given = list(sys.argv if arguments is None else [parser.prog, *arguments])
    options = parser.parse_args(remove_ros_args(given)[1:])
    rclpy.init(args=given)
    return options
