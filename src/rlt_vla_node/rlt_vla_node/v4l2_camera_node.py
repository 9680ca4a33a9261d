"""Publishes the cameras of a robot file that have a `device`: video devices without a driver node.

Publishes   each such camera's topic (sensor_msgs/CompressedImage or Image bgr8, as its `transport` says), /diagnostics

A device that gives MJPG is published as it is, undecoded, when the transport is compressed. Stamps are the time of
capture. An unplugged device is an ERROR in /diagnostics and is opened again once it is back; one that does not give
what was asked for (size, rate, format, a fixed exposure) is a WARN that says so. One thread per device.
"""

from __future__ import annotations

import array
import threading
import time
from dataclasses import dataclass

from rclpy.clock import Clock, ClockType
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CompressedImage, Image

from rlt_common import topics
from rlt_common.camera_config import CameraConfig
from rlt_common.codecs import to_time
from rlt_common.config import load_robot
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import ParameterError, declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_vla_node.camera_messages import image_type
from rlt_vla_node.v4l2_capture import DeviceReader, Frame

RCLError = rclpy_implementation.RCLError
WATCH_S = 0.5
JOIN_S = 5.0


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the V4L2 camera node."""

    robot: str = param(description="path of the robot file; its cameras with a `device` are opened")

    def __post_init__(self) -> None:
        validate(self)


class V4l2CameraNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("v4l2_camera")
        parameters = declare(self, NodeParameters)
        reject_unknown(self)
        robot = load_robot(parameters.robot)
        cameras = [camera for camera in robot.cameras if camera.device]
        if not cameras:
            raise ParameterError(f"{parameters.robot}: no camera has a `device`: there is nothing to open")
        if robot.tick != "timer":
            raise ParameterError(f"{parameters.robot}: `device` needs tick: timer; a lockstep simulator waits for none")
        self._health = Health(self)
        self._ended = threading.Event()
        self._readers = {camera.name: self._reader(camera) for camera in cameras}
        self._threads = [
            threading.Thread(target=self._run, args=(reader,), name=name, daemon=True)
            for name, reader in self._readers.items()
        ]
        self.create_timer(WATCH_S, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))
        for thread in self._threads:
            thread.start()

    def _reader(self, camera: CameraConfig) -> DeviceReader:
        publisher = self.create_publisher(image_type(camera), camera.topic, topics.QOS_SENSOR)
        return DeviceReader(
            camera,
            lambda frame, stamp_ns: _publish(publisher, camera.name, frame, stamp_ns),
            lambda: (time.monotonic_ns(), self.get_clock().now().nanoseconds),
        )

    def _run(self, reader: DeviceReader) -> None:
        try:
            while not self._ended.is_set():
                self._ended.wait(reader.step())
        except RCLError:
            if self.context.ok():
                raise
        finally:
            reader.close()

    def _watch(self) -> None:
        states = {name: reader.status for name, reader in self._readers.items()}
        errors = [f"camera {name}: {status.error}" for name, status in states.items() if status.error]
        odd = [f"camera {name}: {what}" for name, status in states.items() for what in status.differences]
        level = ERROR if errors else WARN if odd else OK
        text = "; ".join(errors or odd) or "publishing"
        self._health.set(level, text, **{f"camera {name}": status for name, status in states.items()})

    def destroy_node(self) -> None:
        """End the threads, release the devices, then leave."""
        self._ended.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        super().destroy_node()


def _publish(publisher: Publisher, name: str, frame: Frame, stamp_ns: int) -> None:
    if frame.bgr is None:
        message = CompressedImage(format="jpeg", data=array.array("B", frame.jpeg))
    else:
        rows, columns = frame.bgr.shape[:2]
        data = array.array("B", frame.bgr.tobytes())
        message = Image(height=rows, width=columns, encoding="bgr8", step=3 * columns, data=data)
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = name
    publisher.publish(message)


def main() -> None:
    """Entry point of `ros2 run rlt_vla_node v4l2_camera`."""
    run_node("v4l2_camera", V4l2CameraNode)


if __name__ == "__main__":
    main()
