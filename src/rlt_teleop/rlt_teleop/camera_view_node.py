"""Shows a person what the VLA sees: the images of the newest observation, as a web page on this machine.

Subscribes  observation (rlt_msgs/Observation)
Publishes   /diagnostics
Serves      http://127.0.0.1:<port>/ (through ssh: `ssh -L 8091:127.0.0.1:8091 <host>`)
"""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node

from rlt_common import topics
from rlt_common.config import load_robot
from rlt_common.health import OK, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import Observation
from rlt_teleop.camera_page import Frames, PageServer


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the camera view."""

    robot: str = param(description="path of the robot file, whose cameras are shown")
    port: int = param(8091, "TCP port on 127.0.0.1; 0: any that is free", minimum=0, maximum=65535)

    def __post_init__(self) -> None:
        validate(self)


class CameraViewNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("camera_view")
        parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self._frames = Frames(tuple(camera.name for camera in load_robot(parameters.robot).cameras))
        self.server = PageServer(self._frames, parameters.port)
        self._health = Health(self)
        self._health.set(OK, f"at {self.server.url}")
        self.create_subscription(Observation, topics.OBSERVATION, self._on_observation, topics.QOS_SENSOR)
        self.get_logger().info(f"cameras at {self.server.url}")

    def _on_observation(self, message: Observation) -> None:
        images = zip(message.camera_names, message.images, strict=False)
        self._frames.show({name: (image.format, bytes(image.data)) for name, image in images})

    def destroy_node(self) -> None:
        """Stop serving, then leave."""
        self.server.close()
        super().destroy_node()


def main() -> None:
    """Entry point of `ros2 run rlt_teleop camera_view`."""
    run_node("camera_view", CameraViewNode, OSError)
