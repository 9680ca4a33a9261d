"""Shows programs for looking what they cannot take out of our messages: start it beside foxglove_bridge.

Subscribes  observation (rlt_msgs/Observation), action_chunk (rlt_msgs/ActionChunk), best effort
Publishes   view/camera/<name> (sensor_msgs/CompressedImage), view/chunk/policy, view/chunk/reference
            (trajectory_msgs/JointTrajectory: row k of the chunk is point k), best effort
            /diagnostics
"""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory

from rlt_common import topics
from rlt_common.config import load_robot
from rlt_common.health import OK, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import ActionChunk, Observation
from rlt_teleop import views


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the views."""

    robot: str = param(description="path of the robot file, whose cameras and actions are shown")

    def __post_init__(self) -> None:
        validate(self)


class ViewsNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("views")
        parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self._robot = load_robot(parameters.robot)
        cameras = [views.camera_topic(camera.name) for camera in self._robot.cameras]
        kinds = {
            **dict.fromkeys(cameras, CompressedImage),
            views.POLICY: JointTrajectory,
            views.REFERENCE: JointTrajectory,
        }
        self._views = {topic: self.create_publisher(kind, topic, topics.QOS_SENSOR) for topic, kind in kinds.items()}
        self._shown = 0
        self._health = Health(self)
        self.create_subscription(Observation, topics.OBSERVATION, self._on_observation, topics.QOS_SENSOR)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, topics.QOS_SENSOR)
        self._show()

    def _on_observation(self, message: Observation) -> None:
        for topic, image in views.images(message):
            self._publish(topic, image)

    def _on_chunk(self, message: ActionChunk) -> None:
        for topic, trajectory in views.trajectories(message, self._robot.action_names, self._robot.period_s):
            self._publish(topic, trajectory)

    def _publish(self, topic: str, message: CompressedImage | JointTrajectory) -> None:
        if topic in self._views:
            self._views[topic].publish(message)
            self._shown += 1
            self._show()

    def _show(self) -> None:
        self._health.set(OK, "shows cameras and chunks under view/", shown=self._shown)


def main() -> None:
    """Entry point of `ros2 run rlt_teleop views`."""
    run_node("views", ViewsNode)


if __name__ == "__main__":
    main()
