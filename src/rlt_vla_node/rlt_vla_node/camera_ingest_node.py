"""Camera ingest: joint states and camera images in, one synchronised observation out.

Subscribes  joint_states (sensor_msgs/JointState), each camera's topic (sensor_msgs/Image or CompressedImage, taken
            serialised: only the frames that are used are decoded)
Publishes   observation (rlt_msgs/Observation) every `stride` control steps, /diagnostics

An observation carries the stamp of its robot state. In lockstep (`camera_tolerance_s: 0`) image and state stamps must
be equal. A stalled or frozen camera is an ERROR in /diagnostics, which has a row per input with its age and time-out,
and stops the observations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState

from rlt_common import topics
from rlt_common.codecs import CodecError, ObservationData, decode_image, decode_raw, observation_to_msg, stamp_ns
from rlt_common.config import load_robot, load_task
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_common.subscriptions import subscribe_to_driver
from rlt_msgs.msg import Observation
from rlt_vla_node.images import fit_image
from rlt_vla_node.proprioception import JointStateError, Proprioception
from rlt_vla_node.synchroniser import (
    CompleteSet,
    ImageRecord,
    Synchroniser,
    cdr_stamp_ns,
    input_watchdog,
    sync_config,
)

RMWError = rclpy_implementation.RMWError
WATCH_S = 0.2


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the camera ingest."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    frozen_images: int = param(
        -1,
        "so many equal images in a row count as a frozen camera; 0: not watched; -1: as the robot file's "
        "camera_timeout_frames says, but not in lockstep (a noiseless simulated camera repeats its image while nothing "
        "moves, a real sensor never does)",
        minimum=-1,
        maximum=10_000,
    )

    def __post_init__(self) -> None:
        validate(self)


class CameraIngestNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("camera_ingest")
        self.parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self.robot = load_robot(self.parameters.robot)
        self.task = load_task(self.parameters.task)
        self._proprioception = Proprioception(self.robot)
        self._synchroniser: Synchroniser[JointState] = Synchroniser(
            [camera.name for camera in self.robot.cameras],
            sync_config(self.robot, self.task, self.parameters.frozen_images),
        )
        self._watchdog = input_watchdog(self.robot)
        self._refused = 0
        self._refusal = ""
        self._health = Health(self)
        self._publisher = self.create_publisher(Observation, topics.OBSERVATION, topics.QOS_OBSERVATION)
        subscribe_to_driver(self, JointState, topics.JOINT_STATES, self._on_joint_states, topics.QOS_STREAM)
        camera_qos = topics.QOS_CAMERA_LOCKSTEP if self.robot.tick == "joint_states" else topics.QOS_SENSOR
        for camera in self.robot.cameras:
            kind = CompressedImage if camera.compressed else Image
            callback = partial(self._on_image, camera.name)
            subscribe_to_driver(self, kind, camera.topic, callback, camera_qos, raw=True)
        self.create_timer(WATCH_S, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_joint_states(self, message: JointState) -> None:
        try:
            now, stamp = time.monotonic(), stamp_ns(message.header.stamp)
        except CodecError as error:
            self._refuse(f"{topics.JOINT_STATES}: {error}")
            return
        self._watchdog.heard(topics.JOINT_STATES, now, stamp)
        self._synchroniser.on_state(stamp, message, now)
        self._publish_complete()

    def _on_image(self, camera: str, data: bytes) -> None:
        try:
            now, stamp = time.monotonic(), cdr_stamp_ns(data)
        except ValueError as error:
            self._refuse(f"camera {camera}: {error}")
            return
        self._watchdog.heard(camera, now, stamp)
        self._synchroniser.on_image(camera, stamp, data, now)
        self._publish_complete()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._refusal = reason
        self.get_logger().error(f"observation refused: {reason}", throttle_duration_sec=1.0)
        self._watch()

    def _publish_complete(self) -> None:
        for complete in self._synchroniser.take():
            try:
                message = self._observation(complete)
            except (CodecError, JointStateError) as error:
                self._refuse(str(error))
                continue
            self._refusal = ""
            self._publisher.publish(message)

    def _observation(self, complete: CompleteSet[JointState]) -> Observation:
        joints = complete.state
        blocks = self._proprioception.blocks(joints.name, joints.position, joints.velocity, joints.effort)
        cameras = self.robot.cameras
        images = [
            fit_image(_decode(record, camera.compressed), camera.height, camera.width)
            for record, camera in zip(complete.images, cameras, strict=True)
        ]
        data = ObservationData(
            observation_id=complete.stamp_ns,
            stamp_ns=complete.stamp_ns,
            camera_names=tuple(camera.name for camera in cameras),
            images=np.stack(images),
            blocks=blocks,
        )
        skew_s = [(record.stamp_ns - complete.stamp_ns) * 1e-9 for record in complete.images]
        return observation_to_msg(data, [camera.encoding for camera in cameras], skew_s, self.robot.frame)

    def _watch(self) -> None:
        now = time.monotonic()
        counters = self._synchroniser.counters
        problems = self._synchroniser.problems(now)
        if problems:
            level, text = ERROR, "; ".join(problems)
        elif self._refusal:
            level, text = ERROR, f"observation refused: {self._refusal}"
        elif fault := self._watchdog.first_fault(now):
            level, text = ERROR, fault
        elif self._watchdog.age_s(topics.JOINT_STATES, now) is None:
            level, text = WARN, "no joint states"
        else:
            level, text = OK, "observing"
        self._health.set(
            level,
            text,
            observations=counters.sets,
            refused=self._refused,
            unmatched_states=counters.unmatched_states,
            repeated_images=counters.repeated_images,
            clock_resets=counters.clock_resets,
            **{f"images_{name}": count for name, count in counters.per_camera.items()},
            **{f"input {row.name}": row for row in self._watchdog.table(now)},
        )


def _decode(record: ImageRecord, compressed: bool) -> np.ndarray:
    kind = CompressedImage if compressed else Image
    try:
        message = deserialize_message(record.data, kind)
    except RMWError as error:
        raise CodecError(f"{len(record.data)} bytes that are no {kind.__name__}: {error}") from error
    return decode_image(message) if compressed else decode_raw(message)


def main() -> None:
    """Entry point of `ros2 run rlt_vla_node camera_ingest`."""
    run_node("camera_ingest", CameraIngestNode, ValueError)
