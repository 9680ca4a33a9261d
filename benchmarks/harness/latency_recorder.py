"""Processes of the graph with a record of when each observation, output, chunk and command came and went.

`--role` ingest, vla, policy and executor are the graph's own nodes, with a clock read beside what they do; `arms` is
the simulated robot without its small images, and `cameras` publishes 640x480 images instead of them, in a process of
its own as camera drivers do. The record is written at the end, one JSON object a line. All times: monotonic s, which
all processes share.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from rlt_common import topics
from rlt_common.config import load_robot
from rlt_common.parameters import declare, param
from rlt_common.process import run_node

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30.0
FRAMES = 8
"""Different images per camera, in turn."""


class Record:
    """What one process saw."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []

    def add(self, **values: Any) -> None:
        """One line, with the time of now as `at_s`."""
        self._lines.append({"at_s": time.monotonic(), **values})

    def write(self, path: Path) -> None:
        """Write the record."""
        path.write_text("".join(json.dumps(line) + "\n" for line in self._lines), encoding="utf-8")


class NotedPublisher:
    """A publisher that notes each message in the moment in which it is published."""

    def __init__(self, publisher: Any, note: Callable[[Any], None]) -> None:
        self._publisher, self._note = publisher, note

    def publish(self, message: Any) -> None:
        """Note and publish."""
        self._note(message)
        self._publisher.publish(message)


def ingest(record: Record) -> Node:
    """The camera ingest: observations, with the time to decode, resize and encode the images."""
    from rlt_vla_node.camera_ingest_node import CameraIngestNode

    class Ingest(CameraIngestNode):
        def __init__(self) -> None:
            super().__init__()
            self._codec_s = 0.0
            self._publisher = NotedPublisher(
                self._publisher,
                lambda m: record.add(kind="observation", observation=m.observation_id, codec_s=self._codec_s),
            )

        def _observation(self, complete: Any) -> Any:
            begin = time.perf_counter()
            message = super()._observation(complete)
            self._codec_s = time.perf_counter() - begin
            return message

    return Ingest()


def vla(record: Record) -> Node:
    """The VLA node: outputs, with the time of the model and that of decoding the images, and strided groups."""
    from rlt_vla_node import vla_node

    decode, decode_s = vla_node.observation_from_msg, [0.0]

    def timed(message: Any) -> Any:
        begin = time.perf_counter()
        data = decode(message)
        decode_s[0] = time.perf_counter() - begin
        return data

    def note(message: Any) -> None:
        if message.is_boundary:
            model_s = message.inference_s - decode_s[0]
            record.add(kind="output", chunk=message.request_id, model_s=model_s, codec_s=decode_s[0])

    class Vla(vla_node.VlaNode):
        def work_once(self) -> None:
            begin_s = time.monotonic()
            super().work_once()
            record.add(kind="group", begin_s=begin_s)

    vla_node.observation_from_msg = timed
    node = Vla()
    node._publisher = NotedPublisher(node._publisher, note)
    return node


def spin_vla(node: Any, executor: SingleThreadedExecutor) -> None:
    """As the VLA node's own process does."""
    from rlt_vla_node import vla_node

    vla_node.spin(node, executor)


def policy(record: Record) -> Node:
    """The policy node: outputs as they come, and chunks."""
    import torch

    from rlt_rl_node.policy_node import PolicyNode

    class Policy(PolicyNode):
        def __init__(self) -> None:
            super().__init__()
            self._publisher = NotedPublisher(self._publisher, lambda m: record.add(kind="made", chunk=m.chunk_id))

        def _on_output(self, message: Any) -> None:
            if message.is_boundary:
                record.add(kind="taken", chunk=message.request_id)
            super()._on_output(message)

    torch.set_num_threads(1)
    return Policy()


def spin_policy(node: Any, executor: SingleThreadedExecutor) -> None:
    """As the policy node's own process does."""
    from rlt_rl_node import policy_node

    policy_node.spin(node, executor)


def executor(record: Record) -> Node:
    """The chunk executor: requests, chunks as they come, and commands with the deadline of their tick."""
    from rlt_control.chunk_executor_node import ChunkExecutorNode

    class Executor(ChunkExecutorNode):
        def __init__(self) -> None:
            super().__init__()
            self._requests = NotedPublisher(self._requests, lambda m: record.add(kind="request", chunk=m.request_id))
            self._due_s = self._sent_s = 0.0

        def _on_chunk(self, message: Any) -> None:
            record.add(kind="chunk", chunk=message.chunk_id, observation=message.observation_id)
            super()._on_chunk(message)

        def timer_tick(self, late_s: float) -> None:
            self._due_s = time.monotonic() - late_s
            super().timer_tick(late_s)

        def _send(self, *arguments: Any) -> None:
            super()._send(*arguments)
            self._sent_s = time.monotonic()

        def _publish(self, tick: Any) -> None:
            super()._publish(tick)
            if tick.executed is not None and tick.executed.chunk_id:
                record.add(kind="command", chunk=tick.executed.chunk_id, due_s=self._due_s, sent_s=self._sent_s)

    return Executor()


def spin_executor(node: Any, executor: SingleThreadedExecutor) -> None:
    """As the executor's own process does."""
    from rlt_control import chunk_executor_node

    chunk_executor_node.spin(node, executor)


def arms(record: Record) -> Node:
    """The simulated robot without its images."""
    from rlt_sim.sim_robot_node import SimRobotNode

    class Arms(SimRobotNode):
        def _publish_images(self, stamp: Time) -> None:
            """The process of the cameras does."""

    return Arms()


@dataclass(frozen=True)
class CameraParameters:
    """Parameters of the cameras."""

    robot: str = param(description="path of the robot file")


class Cameras(Node):
    """Publishes an image of every camera of the robot file, RATE_HZ times a second."""

    def __init__(self, record: Record) -> None:
        super().__init__("cameras")
        robot = load_robot(declare(self, CameraParameters).robot)
        rng = np.random.default_rng(0)
        self._record, self._count = record, 0
        self._cameras = [
            (self.create_publisher(Image, camera.topic, topics.QOS_SENSOR), _frames(rng, camera.name))
            for camera in robot.cameras
        ]
        self.create_timer(1 / RATE_HZ, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        stamp = self.get_clock().now().to_msg()
        for publisher, frames in self._cameras:
            image = frames[self._count % FRAMES]
            image.header.stamp = stamp
            publisher.publish(image)
        self._count += 1
        self._record.add(kind="images")


def _frames(rng: np.random.Generator, name: str) -> list[Image]:
    """A scene with edges and texture, so that JPEG has as much to do as on a camera's image, and a sensor's noise."""
    from rlt_sim.sim_robot_node import image_message

    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    scene = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noisy = (np.clip(scene + rng.normal(0.0, 4.0, scene.shape), 0, 255).astype(np.uint8) for _ in range(FRAMES))
    return [image_message(rgb, Time(), name) for rgb in noisy]


ROLES: dict[str, tuple[Callable[[Record], Node], Any]] = {
    "ingest": (ingest, None),
    "vla": (vla, spin_vla),
    "policy": (policy, spin_policy),
    "executor": (executor, spin_executor),
    "arms": (arms, None),
    "cameras": (Cameras, None),
}


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=sorted(ROLES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    options = parser.parse_args(remove_ros_args()[1:])
    if options.role == "executor":
        from rlt_control.real_time import publish_from_another_thread

        publish_from_another_thread()
    record = Record()
    make, spin = ROLES[options.role]
    run_node(options.role, partial(make, record), ValueError, spin=spin, at_exit=lambda _: record.write(options.out))


if __name__ == "__main__":
    main()
