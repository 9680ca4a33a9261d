"""Camera ingest: joint states and camera images in, one synchronised observation out.

Subscribes  joint_states (sensor_msgs/JointState), each camera's topic (sensor_msgs/Image or CompressedImage, taken
            serialised: only the frames that are used are decoded)
Publishes   observation (rlt_msgs/Observation) every `stride` control steps, /diagnostics

An observation carries the stamp of its robot state. In lockstep (`camera_tolerance_s: 0`) image and state stamps must
be equal. A camera's `delay_s` is taken off its stamps before they are matched.
A stalled or frozen camera is an ERROR in /diagnostics, which has a row per input with its age and time-out, and stops
the observations. A late, irregular, or badly exposed one is a WARN; its measured rate, age, skew and exposure are in a
row `camera <name>`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState

from rlt_common import topics
from rlt_common.codecs import CodecError, ObservationData, observation_to_msg, stamp_ns
from rlt_common.config import CameraConfig, load_robot, load_task
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.joint_states import JointStateError, JointStateSources
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_common.subscriptions import subscribe_to_driver
from rlt_msgs.msg import Observation
from rlt_vla_node.camera_messages import image_type, read_image
from rlt_vla_node.camera_timing import CameraTiming, TimingReport, timing_problems
from rlt_vla_node.exposure import ExposureWatch
from rlt_vla_node.proprioception import Proprioception
from rlt_vla_node.synchroniser import (
    CompleteSet,
    Synchroniser,
    cdr_stamp_ns,
    input_watchdog,
    sync_config,
)

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
        self._timing = {camera.name: CameraTiming(camera.rate_hz) for camera in self.robot.cameras}
        self._exposure = {camera.name: ExposureWatch() for camera in self.robot.cameras}
        self._unseen: dict[str, np.ndarray] = {}
        self._refused = 0
        self._refusal = ""
        self._health = Health(self)
        self._publisher = self.create_publisher(Observation, topics.OBSERVATION, topics.QOS_OBSERVATION)
        self._sources = JointStateSources(self.robot)
        for topic in self._sources.topics:
            subscribe_to_driver(self, JointState, topic, partial(self._on_joint_states, topic), topics.QOS_STREAM)
        camera_qos = topics.QOS_CAMERA_LOCKSTEP if self.robot.tick == "joint_states" else topics.QOS_SENSOR
        for camera in self.robot.cameras:
            callback = partial(self._on_image, camera)
            subscribe_to_driver(self, image_type(camera), camera.topic, callback, camera_qos, raw=True)
        self.create_timer(WATCH_S, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_joint_states(self, topic: str, part: JointState) -> None:
        now, told = time.monotonic(), self._sources.inputs_of(topic, part.name)
        if not told:
            return
        try:
            said_ns = stamp_ns(part.header.stamp)
            message = self._sources.take(topic, part)
        except (CodecError, JointStateError) as error:
            self._refuse(f"{topic}: {error}")
            return
        for name in told:
            self._watchdog.heard(name, now, said_ns)
        if message is not None:
            self._synchroniser.on_state(stamp_ns(message.header.stamp), message, now)
            self._publish_complete()

    def _on_image(self, camera: CameraConfig, data: bytes) -> None:
        try:
            now, stamp = time.monotonic(), cdr_stamp_ns(data)
        except ValueError as error:
            self._refuse(f"camera {camera.name}: {error}")
            return
        self._timing[camera.name].on_image(stamp, self.get_clock().now().nanoseconds)
        self._watchdog.heard(camera.name, now, stamp)
        self._synchroniser.on_image(camera.name, stamp - round(camera.delay_s * 1e9), data, now)
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
        images = []
        for record, camera in zip(complete.images, cameras, strict=True):
            images.append(read_image(record.data, camera))
            self._timing[camera.name].on_match(record.stamp_ns - complete.stamp_ns)
        self._unseen = {camera.name: rgb for camera, rgb in zip(cameras, images, strict=True)}
        data = ObservationData(
            observation_id=complete.stamp_ns,
            stamp_ns=complete.stamp_ns,
            camera_names=tuple(camera.name for camera in cameras),
            images=np.stack(images),
            blocks=blocks,
        )
        skew_s = [(record.stamp_ns - complete.stamp_ns) * 1e-9 for record in complete.images]
        return observation_to_msg(data, [camera.encoding for camera in cameras], skew_s, self.robot.frame)

    def _camera_warnings(self, timing: Mapping[str, TimingReport]) -> str:
        """What to do about pictures and clocks. Pictures are looked at here, not where observations are made."""
        for name, rgb in self._unseen.items():
            self._exposure[name].look(rgb)
        self._unseen = {}
        found = []
        for camera in self.robot.cameras:
            problems = self._exposure[camera.name].problems()
            if self.robot.tick == "timer":
                problems = timing_problems(camera, timing[camera.name]) + problems
            found += [f"camera {camera.name}: {problem}" for problem in problems]
        return "; ".join(found)

    def _watch(self) -> None:
        now = time.monotonic()
        timing = {name: own.report() for name, own in self._timing.items()}
        warnings = self._camera_warnings(timing)
        counters = self._synchroniser.counters
        problems = self._synchroniser.problems(now)
        if problems:
            level, text = ERROR, "; ".join(problems)
        elif self._refusal:
            level, text = ERROR, f"observation refused: {self._refusal}"
        elif fault := self._watchdog.first_fault(now):
            level, text = ERROR, fault
        elif silent := [name for name in self.robot.state_inputs if self._watchdog.age_s(name, now) is None]:
            level, text = WARN, f"no joint states on {', '.join(silent)}"
        elif warnings:
            level, text = WARN, warnings
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
            **{
                f"camera {name}": f"{report}, {self._exposure[name].now or 'no exposure yet'}"
                for name, report in timing.items()
            },
        )


def main() -> None:
    """Entry point of `ros2 run rlt_vla_node camera_ingest`."""
    run_node("camera_ingest", CameraIngestNode, ValueError)
