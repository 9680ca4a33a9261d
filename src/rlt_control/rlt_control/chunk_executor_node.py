"""The executor's ROS shell: a process of its own, 50 Hz, no torch, nothing that blocks a tick.

Subscribes  the topics in `states` of the robot file, joint_states by default (sensor_msgs/JointState),
            action_chunk (rlt_msgs/ActionChunk),
            episode_state (rlt_msgs/EpisodeState, latched), teleop_command (rlt_msgs/TeleopCommand),
            operator_event (rlt_msgs/OperatorEvent: only the emergency stop), estop (std_msgs/Bool: true stops, false
            does nothing; heard from reliable and from best-effort publishers), camera_health
            (diagnostic_msgs/DiagnosticStatus; not in lockstep), and what arms and drivers report (see `arm_sensors`):
            `wrench_topic` (geometry_msgs/WrenchStamped), `pose_topic` (geometry_msgs/PoseStamped), `ready_topic`
            (std_msgs/Bool)
Publishes   the command topics in `drivers` of the robot file (each in its driver's own type, see `drivers`; not with
            `dry_run`), executed_action (rlt_msgs/ExecutedAction), chunk_request (rlt_msgs/ChunkRequest),
            control_state (rlt_msgs/ControlState, latched), /diagnostics
Services    estop (rlt_msgs/Estop), reset_estop (rlt_msgs/ResetEstop)

Who else publishes on a command topic is looked up at the start and twice a second: another node is an
emergency stop that names it. /diagnostics has one row per input (`inputs`), with its age and time-out.

`tick: timer` runs on absolute monotonic deadlines; callbacks are drained between two ticks. `tick: joint_states`
(lockstep with a simulator) ticks once per joint state and sends nothing until the chunk has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from rlt_common import topics
from rlt_common.codecs import CodecError, stamp_ns
from rlt_common.config import load_robot, load_task
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.joint_states import JointOrder, JointStateError, JointStateSources
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_common.scheduling import priority_param, schedule_node, scheduling
from rlt_common.subscriptions import subscribe_to_driver
from rlt_control import inputs, messages
from rlt_control.arm_sensors import ArmSensors
from rlt_control.arms import build_integrator
from rlt_control.drivers import build_encoders
from rlt_control.drivers.encoder import Command, Encoder
from rlt_control.executor import ChunkExecutor, ExecutorConfig
from rlt_control.joint_jumps import JumpLimit
from rlt_control.real_time import (
    RUNAWAY_S,
    TickLateness,
    keep_garbage_collection_short,
    publish_from_another_thread,
    run_on_deadlines,
)
from rlt_control.records import Phase, RobotState, Source, Tick
from rlt_msgs.msg import (
    ActionChunk,
    ChunkRequest,
    ControlState,
    EpisodeState,
    ExecutedAction,
    OperatorEvent,
    TeleopCommand,
)
from rlt_msgs.srv import Estop, ResetEstop


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the chunk executor."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    human_timeout_s: float = param(
        inputs.HUMAN_TIMEOUT_S, "s, a human command older than this holds the arms", minimum=0.02, maximum=2.0
    )
    manager_timeout_s: float = param(
        inputs.MANAGER_TIMEOUT_S,
        "s without episode_state before the arms hold; the manager repeats it every 0.1 s",
        minimum=0.2,
        maximum=60.0,
    )
    wrench_timeout_s: float = param(
        inputs.WRENCH_TIMEOUT_S,
        "s without a wrench, where an arm has a force sensor, before the arms hold",
        minimum=0.02,
        maximum=2.0,
    )
    cameras_timeout_s: float = param(
        inputs.CAMERAS_TIMEOUT_S,
        "s without a word of camera_ingest, which speaks every 0.02 s, before the arms hold; not in lockstep",
        minimum=0.05,
        maximum=2.0,
    )
    dry_run: bool = param(
        False, "send nothing to the arms; everything else runs as if it were sent and the arms had followed"
    )
    lacks: str = param("", "what this graph goes without, said in the log and in /diagnostics; given by the launch")
    request_retry_s: float = param(
        1.0, "s, an unanswered chunk request is sent again after this time", minimum=0.05, maximum=60.0
    )
    priority: int = priority_param()
    cpus: tuple[int, ...] = param((), "cores that the process may run on; none: as the system has it", minimum=0)

    def __post_init__(self) -> None:
        validate(self)


class ChunkExecutorNode(Node):
    """See the module docstring. `now_s` is the monotonic clock, s, by which inputs are judged."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic, **node_arguments: Any) -> None:
        super().__init__("chunk_executor", **node_arguments)
        self.parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self.robot = load_robot(self.parameters.robot)
        self.task = load_task(self.parameters.task)
        self.lockstep = self.robot.tick == "joint_states"
        parameters = self.parameters
        self.watchdog = inputs.make_watchdog(
            self.robot,
            parameters.human_timeout_s,
            parameters.manager_timeout_s,
            parameters.wrench_timeout_s,
            parameters.cameras_timeout_s,
        )
        self.core = ChunkExecutor(
            build_integrator(self.robot),
            ExecutorConfig(
                stride=self.task.stride,
                prefetch_steps=self.task.prefetch_steps,
                wait_for_chunk=self.lockstep,
                request_retry_s=parameters.request_retry_s,
                dry_run=parameters.dry_run,
            ),
            joints=len(self.robot.joint_names),
            arm_names=tuple(arm.name for arm in self.robot.arms),
            watchdog=self.watchdog,
            state_inputs=self.robot.state_inputs,
            ready_inputs=inputs.readiness(self.robot),
        )
        self._joints = JointOrder(self.robot.joint_names)
        self._sources = JointStateSources(self.robot)
        self._jumps = JumpLimit(self.robot)
        self._state: RobotState | None = None
        self._answered_ns = -1
        self._last_target: np.ndarray | None = None
        self._holding = True
        self._now_s = now_s
        self._lateness = TickLateness()
        self._unscheduled = ""
        self._missed = 0
        self._health = Health(self)

        # A dry run encodes too, so that what is not installed is found before anything moves; it has no publishers.
        self._drivers = [
            (encoder, None if parameters.dry_run else self._commands(encoder)) for encoder in build_encoders(self.robot)
        ]
        self._executed = self.create_publisher(ExecutedAction, topics.EXECUTED_ACTION, topics.QOS_EXECUTED)
        self._requests = self.create_publisher(ChunkRequest, topics.CHUNK_REQUEST, topics.QOS_CONTROL)
        self._control_state = self.create_publisher(ControlState, topics.CONTROL_STATE, topics.QOS_LATCHED)
        for topic in self._sources.topics:
            callback = partial(self._on_joint_states, topic)
            subscribe_to_driver(self, JointState, topic, callback, topics.QOS_CONTROL)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, topics.QOS_CONTROL)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED)
        self.create_subscription(TeleopCommand, topics.TELEOP_COMMAND, self._on_teleop, topics.QOS_CONTROL)
        self.create_subscription(OperatorEvent, topics.OPERATOR_EVENT, self._on_event, topics.QOS_EVENT)
        # A reliable reader hears no best-effort publisher, a best-effort one may miss a message: an emergency stop must
        # be heard from whoever says it.
        for qos in (topics.QOS_EVENT, topics.QOS_SENSOR):
            self.create_subscription(Bool, topics.ESTOP, self._on_estop_topic, qos)
        if not self.lockstep:
            self.create_subscription(DiagnosticStatus, topics.CAMERA_HEALTH, self._on_cameras, topics.QOS_CONTROL)
        self._sensors = ArmSensors(
            self, self.robot, self.watchdog, now_s, lambda: None if self._state is None else self._state.q
        )
        self.create_service(Estop, topics.SERVICE_ESTOP, self._on_estop)
        self.create_service(ResetEstop, topics.SERVICE_RESET_ESTOP, self._on_reset_estop)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.5, self._heartbeat, clock=steady)
        if self.lockstep:
            self.create_timer(self.parameters.request_retry_s / 2, self._lockstep_tick, clock=steady)
        self._watch_command_topics()
        if parameters.lacks:
            self.get_logger().warning(parameters.lacks)

    def _commands(self, encoder: Encoder) -> Publisher:
        return self.create_publisher(encoder.message_type, encoder.topic, topics.QOS_CONTROL)

    # ---- inputs

    def _on_joint_states(self, topic: str, part: JointState) -> None:
        told = self._sources.inputs_of(topic, part.name)
        if not told:  # another publisher's joints, on a topic that it shares with ours
            if self._state is None:
                self.get_logger().warn(
                    f"{topic}: a message names none of the robot's joints, only {list(part.name)}",
                    throttle_duration_sec=10.0,
                )
            return
        try:
            said_ns = stamp_ns(part.header.stamp)
            message = self._sources.take(topic, part)
            state = None if message is None else self._robot_state(message)
        except (JointStateError, CodecError) as error:
            for name in told:
                self.watchdog.refuse(name, str(error))
            return
        # In lockstep a refused state would be said again for ever, and a simulator knows where its arms are.
        if state is not None and not self.lockstep:
            reason = self.core.implausible(state) or self._jumps.refusal(self._state, state)
            if reason:
                for name in told:
                    self.watchdog.refuse(name, reason)
                return
        now = self._now_s()
        if not all([self.watchdog.heard(name, now, said_ns) for name in told]) or state is None:
            return
        self._state = state
        if self.lockstep:
            if self._state.stamp_ns == self._answered_ns and self._last_target is not None:
                self._send(self._last_target, self._answered_ns, holding=self._holding)
            else:
                self._lockstep_tick()

    def _robot_state(self, message: JointState) -> RobotState:
        return RobotState(stamp_ns(message.header.stamp), self._joints.positions(message.name, message.position))

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            chunk = messages.chunk(message)
        except (CodecError, ValueError) as error:
            self.core.refuse_chunk(str(error))
            self.get_logger().error(f"chunk refused: {error}")
            return
        reason = self.core.offer_chunk(chunk, self._now_s())
        if reason:
            self.get_logger().warning(f"chunk refused: {reason}")
        elif self.lockstep:
            self._lockstep_tick()

    def _on_episode(self, message: EpisodeState) -> None:
        try:
            episode = messages.episode(message, self.task)
        except ValueError as error:
            self.core.last_refusal = f"episode_state: {error}"
            self.get_logger().error(f"{self.core.last_refusal}: ignored", throttle_duration_sec=1.0)
            return
        before = self.core.episode
        taken = episode == before or self.core.set_episode(episode)
        if taken:  # a manager that knows less than we do is not the one that can tell us to move
            self.watchdog.heard(inputs.MANAGER, self._now_s())
        if not taken or episode == before:
            return
        resets = episode.phase == Phase.RESETTING and (before is None or before.phase != Phase.RESETTING)
        if self.lockstep and (resets or (before is not None and before.episode_id < episode.episode_id)):
            self._state = None  # a state that was left without an answer is of the scene before
        self._show_state()
        if self.lockstep:
            self._lockstep_tick()

    def _on_teleop(self, message: TeleopCommand) -> None:
        try:
            reason = self.core.offer_human(messages.human(message, self._now_s()))
        except (CodecError, ValueError) as error:
            reason = str(error)
            self.core.refuse_human(reason)
        if reason:
            self.get_logger().error(f"teleop_command refused: {reason}", throttle_duration_sec=1.0)
        elif self.lockstep and message.enabled:
            self._lockstep_tick()

    def _on_cameras(self, message: DiagnosticStatus) -> None:
        if message.level in (OK, WARN):
            self.watchdog.heard(inputs.CAMERAS, self._now_s())
        else:
            self.watchdog.refuse(inputs.CAMERAS, message.message or "camera_ingest does not say why")

    def _on_event(self, message: OperatorEvent) -> None:
        if message.event == OperatorEvent.EVENT_ESTOP:
            self._stop(f"operator ({message.source or 'unnamed'})")

    def _on_estop_topic(self, message: Bool) -> None:
        if message.data and not self.core.estop_reason:  # what is reliable comes twice
            self._stop(f"{topics.ESTOP} topic")

    def _on_estop(self, request: Estop.Request, response: Estop.Response) -> Estop.Response:
        self._stop(request.reason or "estop service")
        response.stopped = True
        response.message = self.core.estop_reason
        return response

    def _stop(self, reason: str) -> None:
        self.core.estop(reason, self._state)
        self._publish(self.core.tick(self._state, self._now_s()))
        self.get_logger().error(f"EMERGENCY STOP: {self.core.estop_reason}")
        self._show_state()

    def _on_reset_estop(self, _: ResetEstop.Request, response: ResetEstop.Response) -> ResetEstop.Response:
        if not self.core.estop_reason:
            response.message = "there is no emergency stop to reset"
            return response
        if others := self._watch_command_topics():
            response.message = f"not reset: {'; '.join(others)}: end it first"
            return response
        self.core.reset_estop()
        self.get_logger().warning("emergency stop reset by the operator")
        self._show_state()
        response.reset = True
        response.message = "start a new episode to move again"
        return response

    def _watch_command_topics(self) -> list[str]:
        """Only this node may command the arms: other nodes on a command topic, returned, are an emergency stop."""
        if self.parameters.dry_run:  # whoever commands the arms, this node does not
            self.watchdog.heard(inputs.COMMAND_TOPIC, self._now_s())
            return []
        own = self.get_fully_qualified_name()
        others: list[str] = []
        doubts: list[str] = []
        for topic in self.robot.command_topics:
            found = self.get_publishers_info_by_topic(topic)
            names = [f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found]
            strangers, doubtful = inputs.foreign_commanders(own, names)
            where = self.resolve_topic_name(topic)
            others += [f"{', '.join(strangers)} publishes on {where} too"] if strangers else []
            doubts += [f"{where}: {doubtful}"] if doubtful else []
        if others:
            reason = f"{'; '.join(others)}: only {own} may command the arms"
            self.watchdog.refuse(inputs.COMMAND_TOPIC, reason)
            if not self.core.estop_reason:
                self._stop(reason)
        elif doubts:
            self.watchdog.refuse(inputs.COMMAND_TOPIC, "; ".join(doubts))
        else:
            self.watchdog.heard(inputs.COMMAND_TOPIC, self._now_s())
        return others

    # ---- ticks

    def run_in_real_time(self) -> None:
        """Ask the system for what the parameters say; what it refuses is in the log and in /diagnostics."""
        self._unscheduled = schedule_node(self, self.parameters.priority, self.parameters.cpus, RUNAWAY_S)
        # Said in any case: the first line that rclpy logs takes up to 80 ms, which no tick has to spare.
        self.get_logger().info(f"{self.robot.control_hz:g} Hz: {scheduling()}")
        keep_garbage_collection_short()

    def _lockstep_tick(self) -> None:
        """Tick for the newest state unless it was answered already; waits (sends nothing) without a chunk."""
        if self._state is None or self._state.stamp_ns == self._answered_ns:
            return
        limit_before = self.core.step_limit_reached
        self._publish(self.core.tick(self._state, self._now_s()))
        if self.core.step_limit_reached != limit_before:
            self._show_state()

    def timer_tick(self, late_s: float) -> None:
        """Tick on a robot: `late_s` is how late it starts."""
        self._lateness.add(late_s)
        self._missed += late_s > self.robot.period_s / 2
        limit_before, hold_before = self.core.step_limit_reached, self.core.hold_reason
        self._publish(self.core.tick(self._state, self._now_s()))
        if (limit_before, hold_before) != (self.core.step_limit_reached, self.core.hold_reason):
            self._show_state()

    def _publish(self, tick: Tick) -> None:
        if tick.joint_target is not None:
            self._last_target = tick.joint_target
            self._answered_ns = self._state.stamp_ns if self._state else -1
            self._holding = tick.executed is None or tick.executed.source == Source.HOLD
            self._send(self._last_target, self._answered_ns, self._holding)
        elif not self._holding and self._last_target is not None and not self.lockstep:
            self._holding = True
            self._send_stop()
        if tick.request is not None:
            self._requests.publish(messages.request_message(tick.request, self.robot.frame))
        if tick.executed is not None:
            robot, dry_run = self.robot, self.parameters.dry_run
            self._executed.publish(messages.executed_message(tick.executed, robot.frame, robot.joint_names, dry_run))

    def _send(self, target: np.ndarray, answers_ns: int, holding: bool) -> None:
        """Command the arms. Nothing is sent in a dry run."""
        measured = self._state.q if self._state is not None else target
        command = Command(target, measured, holding, answers_ns)
        for encoder, publisher in self._drivers:
            message = encoder.encode(command)
            if publisher is not None:
                publisher.publish(message)

    def _send_stop(self) -> None:
        """Nothing new can be commanded: drivers of positions keep their last one, those of speeds are told 0."""
        command = Command(self._last_target, self._last_target, True, self._answered_ns)
        for encoder, publisher in self._drivers:
            if encoder.speed and publisher is not None:
                publisher.publish(encoder.encode(command))

    # ---- state

    def _show_state(self) -> None:
        message = messages.control_state_message(self.core, self._missed)
        message.header.stamp = self.get_clock().now().to_msg()
        self._control_state.publish(message)

    def _heartbeat(self) -> None:
        self._watch_command_topics()
        self._show_state()
        core, now = self.core, self._now_s()
        fault = self.watchdog.first_fault(now, apart_from=core.not_needed())
        level, text = OK, "moving" if core.source != Source.HOLD else f"holding: {core.hold_reason}"
        if core.estop_reason:
            level, text = ERROR, f"emergency stop: {core.estop_reason}"
        elif fault:
            level, text = ERROR, fault
        elif self._missed or self._unscheduled or self.parameters.dry_run or self.parameters.lacks:
            level = WARN
        said = ("DRY RUN, nothing is sent to the arms" if self.parameters.dry_run else "", self.parameters.lacks, text)
        text = "; ".join(filter(None, said))
        self._health.set(
            level,
            text,
            ticks=core.counters.ticks,
            missed_ticks=self._missed,
            **self._lateness.values(),
            scheduling=self._unscheduled or scheduling(),
            held_ticks=core.counters.held,
            clamped_ticks=core.counters.clamped,
            dropped_chunks=core.counters.dropped_chunks,
            last_refusal=core.last_refusal,
            **{f"input {row.name}": row for row in self.watchdog.table(now)},
        )


def spin(node: ChunkExecutorNode, executor: SingleThreadedExecutor) -> None:
    """Run the node until the end, by `tick` of its robot file."""
    if node.lockstep:
        executor.spin()
    else:
        node.run_in_real_time()
        run_on_deadlines(node.robot.period_s, node.timer_tick, executor.spin_once, rclpy.ok)


def main() -> None:
    """Entry point of `ros2 run rlt_control chunk_executor`."""
    publish_from_another_thread()
    run_node("chunk_executor", ChunkExecutorNode, ValueError, spin=spin)
