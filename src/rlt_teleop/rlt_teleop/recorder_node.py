"""Episode recorder: one durable MCAP file per episode. A process of its own; it stores bytes as they came.

Subscribes  observation, vla_output, action_chunk, executed_action, episode_state, operator_event, training_status
            (serialised, stored without the robot's namespace), control_state (rlt_msgs/ControlState),
            /diagnostics (diagnostic_msgs/DiagnosticArray), of which this robot's nodes are stored
Publishes   recorder_status (rlt_msgs/RecorderStatus, latched), /diagnostics
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message

from rlt_common import topics
from rlt_common.config import MAX_FILE_BYTES, config_hash, kinematics_hash, load_robot, load_task
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, reject_unknown
from rlt_common.process import run_node
from rlt_common.reading import read_limited
from rlt_common.relabels import EPISODES
from rlt_common.run_files import inside
from rlt_msgs.msg import (
    ActionChunk,
    ControlState,
    EpisodeState,
    ExecutedAction,
    Observation,
    OperatorEvent,
    RecorderStatus,
    TrainingStatus,
    VlaOutput,
)
from rlt_teleop.cdr import CdrError
from rlt_teleop.episode_machine import Episode
from rlt_teleop.episode_recorder import EpisodeRecorder, Report
from rlt_teleop.recorded_health import own
from rlt_teleop.recorder_parameters import RecorderParameters
from rlt_teleop.retention import Retention

RMWError = rclpy_implementation.RMWError
POLL_S = 0.05
SENT = "source_timestamp"
"""What rclpy calls the time at which a message was published, ns, by the clock of its machine."""
GIB = 2**30


class RecorderNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.parameters = declare(self, RecorderParameters)
        reject_unknown(self)
        robot, task = load_robot(self.parameters.robot), load_task(self.parameters.task)
        self._folder = inside(self.parameters.run_directory, EPISODES)
        self._frame = robot.frame
        self._last = Report(0)
        self._foreign = ""
        self._refused = 0
        self._health = Health(self)
        self._status = self.create_publisher(RecorderStatus, topics.RECORDER_STATUS, topics.QOS_LATCHED)
        self._retention = Retention(self.parameters.run_directory, self.parameters.retention, self.get_logger().warning)
        self.recorder = EpisodeRecorder(
            self._folder,
            {
                "robot": robot.name,
                "config_hash": config_hash(robot, task),
                "kinematics_hash": kinematics_hash(robot),
            },
            self.parameters.settle_s,
            self._report,
            _vla_facts,
            {"robot": _text(self.parameters.robot), "task": _text(self.parameters.task)},
            self._retention.make_room,
            round(1e9 * robot.period_s),
            self.parameters.encode_wait_s,
        )
        for path in self.recorder.leftovers():
            self.get_logger().warning(f"{path}: left by an interrupted recording; it is kept and is no episode")
        self.create_subscription(
            EpisodeState, topics.EPISODE_STATE, self._on_state, topics.QOS_LATCHED_READER, raw=True
        )
        for kind, topic, qos in (
            (Observation, topics.OBSERVATION, topics.QOS_OBSERVATION),
            (VlaOutput, topics.VLA_OUTPUT, topics.QOS_OUTPUT),
            (ActionChunk, topics.ACTION_CHUNK, topics.QOS_CHUNK),
            (ExecutedAction, topics.EXECUTED_ACTION, topics.QOS_EXECUTED),
            (OperatorEvent, topics.OPERATOR_EVENT, topics.QOS_EVENT),
            (TrainingStatus, topics.TRAINING_STATUS, topics.QOS_LATCHED),
        ):
            self.create_subscription(kind, topic, partial(self._on_message, topic), qos, raw=True)
        self.create_subscription(ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.QOS_STREAM)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(POLL_S, lambda: self.recorder.poll(time.monotonic()), clock=steady)
        self.create_timer(1.0, self._show_health, clock=steady)

    def _on_state(self, cdr: bytes, info: Mapping[str, int]) -> None:
        try:
            episode = Episode.from_msg(deserialize_message(cdr, EpisodeState))
            self.recorder.on_state(episode, cdr, time.monotonic(), info[SENT])
        except (RMWError, ValueError) as error:
            self._refuse(topics.EPISODE_STATE, error)

    def _on_message(self, topic: str, cdr: bytes, info: Mapping[str, int]) -> None:
        try:
            self.recorder.on_message(topic, cdr, time.monotonic(), info[SENT])
        except CdrError as error:
            self._refuse(topic, error)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        ours = own(message, self.get_namespace())
        if ours is None:
            return
        try:
            self.recorder.on_message(topics.RECORDED_DIAGNOSTICS, serialize_message(ours), time.monotonic())
        except CdrError as error:
            self._refuse(topics.DIAGNOSTICS, error)

    def _refuse(self, topic: str, error: Exception) -> None:
        self._refused += 1
        self._foreign = f"{topic}: {error}"

    def _on_control(self, message: ControlState) -> None:
        self.recorder.on_control(message.episode_id, message.epoch, message.step, time.monotonic())

    def _report(self, report: Report) -> None:
        self._last = report
        message = RecorderStatus(
            episode_id=report.episode_id,
            durable=report.durable,
            label=report.label,
            path=report.path,
            messages=report.messages,
            bytes=report.bytes,
            error=report.error,
        )
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self._frame
        # While shutting down, what is left to say goes to the log alone.
        if self.context.ok():
            self._status.publish(message)
        if report.error:
            self.get_logger().error(f"episode {report.episode_id}: {report.error}")
        elif report.warning:
            self.get_logger().warning(f"episode {report.episode_id} is durable, but: {report.warning}")
        elif report.durable:
            self.get_logger().info(f"episode {report.episode_id} is durable: {report.path} ({report.bytes} bytes)")
        self._show_health()

    def _show_health(self) -> None:
        if not self.context.ok():
            return
        last, leftovers = self._last, self.recorder.leftovers()
        free_gib = _free_bytes(self._folder) / GIB
        if last.error:
            level, text = ERROR, f"episode {last.episode_id}: {last.error}"
        elif self._foreign:
            level, text = ERROR, f"refused a message: {self._foreign}"
        elif free_gib < self.parameters.low_space_gib:
            level, text = WARN, f"{free_gib:.2f} GiB left on the disk of {self._folder}"
        elif leftovers:
            level, text = WARN, f"{len(leftovers)} unfinished files of interrupted recordings, e.g. {leftovers[-1]}"
        elif self.recorder.recording:
            level, text = OK, f"recording episode {self.recorder.recording}"
        else:
            level, text = OK, "waiting for an episode"
        self._health.set(
            level,
            text,
            messages=self.recorder.messages,
            refused_messages=self._refused,
            last_durable=last.path if last.durable else "",
            warning=last.warning,
            free_gib=f"{free_gib:.1f}",
            **({"episodes_gib": f"{self._retention.bytes / GIB:.2f}"} if self.parameters.retention.keep_gib else {}),
        )


def _text(path: str) -> str:
    return read_limited(path, MAX_FILE_BYTES).decode()


def _vla_facts(cdr: bytes) -> dict[str, str]:
    """Which VLA a serialised VlaOutput is of, and what it was computed with. Raises CdrError."""
    try:
        message = deserialize_message(cdr, VlaOutput)
    except RMWError as error:
        raise CdrError(f"no VlaOutput: {error}") from error
    return {"vla_hash": message.vla_hash, "runtime": message.runtime}


def _free_bytes(folder: Path) -> int:
    """Free bytes of the file system that the folder is, or will be, on."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _work(node: RecorderNode, executor: SingleThreadedExecutor, stopped: Callable[[], bool]) -> None:
    """Every callback as it comes, until its end; the timer's come always."""
    while not stopped():
        executor.spin_once()


def main() -> None:
    """Entry point of `ros2 run rlt_teleop recorder`."""
    run_node("recorder", RecorderNode, OSError, work=_work, at_exit=lambda node: node.recorder.close())
