"""The VLA node: observations and chunk requests in, RL token and reference chunk out.

Subscribes  observation (rlt_msgs/Observation), chunk_request (rlt_msgs/ChunkRequest),
            episode_state (rlt_msgs/EpisodeState, latched), executed_action (rlt_msgs/ExecutedAction) and
            control_state (rlt_msgs/ControlState, latched): which observations belong to the critical phase
Publishes   vla_output (rlt_msgs/VlaOutput), /diagnostics

A request is answered at once when its observation is there, else when it comes. Strided observations are encoded in
batches between callbacks, one batch at a time and only when no message waits, so a request never waits for more than
one. On a robot's timer, while the arms move, none is begun for which a chunk would come late (`latency_budget`).

Where the VLA cannot be reached (a policy server that is gone or slow), nothing is answered and /diagnostics says so.
What was to be done is kept, a request for as long as it is current, and done once the VLA is back.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

import rclpy
import torch
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from rlt_common import topics
from rlt_common.codecs import CodecError, observation_from_msg, stamp_ns, vector
from rlt_common.config import load_robot, load_task
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_common.scheduling import priority_param, schedule_node, scheduling
from rlt_msgs.msg import ChunkRequest, ControlState, EpisodeState, ExecutedAction, Observation, VlaOutput
from rlt_vla_node import encoding
from rlt_vla_node.backend import BackendError
from rlt_vla_node.checkpoint import CheckpointError, load_checkpoint
from rlt_vla_node.encoding import EncodingConfig, Item, OutputEncoder
from rlt_vla_node.handoff import HandoffError, HandoffHead, has_head, load_head
from rlt_vla_node.inference import LayoutError
from rlt_vla_node.latency_budget import LEAST, LatencyWatch
from rlt_vla_node.remote_backend import RemoteBackend
from rlt_vla_node.scheduler import Scheduler, Strided

MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)
ANSWERS_KEPT = 64
IDLE_WAIT_S = 0.5
RETRY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class NodeParameters(EncodingConfig):
    """Parameters of the VLA node."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    checkpoint: str = param(description="folder that `adapt` wrote")
    max_pending: int = param(2000, "strided observations that may wait", minimum=1, maximum=1_000_000)
    threads: int = param(1, "threads of torch; another number gives other last digits", minimum=1, maximum=256)
    priority: int = priority_param()
    require_handoff: bool = param(False, "refuse to start without a hand-off head beside the checkpoint")

    def __post_init__(self) -> None:
        validate(self)


class VlaNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("vla")
        self.parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self.robot = load_robot(self.parameters.robot)
        self.task = load_task(self.parameters.task)
        self.model = load_checkpoint(self.parameters.checkpoint).fitted(self.robot, self.task)
        self.head = self._load_head()
        torch.set_num_threads(self.parameters.threads)
        self.get_logger().info(f"VLA checkpoint {self.parameters.checkpoint}, hash {self.model.hash}")
        self.activity = 0
        self._encoder = OutputEncoder(self.model, self.task, self.parameters, self.robot, self.head)
        self._scheduler: Scheduler[Observation] = Scheduler(
            self.parameters.group_size,
            self.task.stride,
            round(self.robot.period_s * 1e9),
            max_pending=self.parameters.max_pending,
            anchor_steps=self.task.prefetch_steps if self._encoder.anchored else None,
        )
        self._answers: OrderedDict[int, VlaOutput] = OrderedDict()
        self._boundaries = self._strided = self._refused = self._repeated = 0
        self._refusal = ""
        self._boundary_s = 0.0
        self._unscheduled = ""
        self._unreachable = ""
        self._resting = False
        self._latency = LatencyWatch(self.robot, self.task, self.parameters.group_size)
        self._moving = False
        self._health = Health(self)
        self._publisher = self.create_publisher(VlaOutput, topics.VLA_OUTPUT, topics.QOS_OUTPUT)
        self.create_subscription(Observation, topics.OBSERVATION, self._on_observation, topics.QOS_OBSERVATION)
        self.create_subscription(ChunkRequest, topics.CHUNK_REQUEST, self._on_request, topics.QOS_CONTROL)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED_READER)
        self.create_subscription(ExecutedAction, topics.EXECUTED_ACTION, self._on_executed, topics.QOS_STREAM)
        self.create_subscription(ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED_READER)
        self.create_timer(RETRY_S, self._look_for_vla, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._show()

    @property
    def busy(self) -> bool:
        """Whether a group of strided observations is due, and the VLA there and not soon wanted for a chunk."""
        if self._resting or not self._scheduler.group_ready:
            return False
        asked = self.robot.tick == "timer" and self._scheduler.request is not None
        return not self._moving or (not asked and self._latency.may_encode(time.perf_counter()))

    def run_in_real_time(self) -> None:
        """Ask the system for what the parameters say; what it refuses is in the log and in /diagnostics."""
        self._unscheduled = schedule_node(self, self.parameters.priority)
        self._rehearse()
        self._show()

    def _rehearse(self) -> None:
        """Time the VLA on blank observations: what its time means for the task is known before anything moves."""
        try:
            self._encoder.rehearse()
            for _ in range(LEAST):
                started = time.perf_counter()
                self._encoder.rehearse()
                self._latency.on_boundary(time.perf_counter() - started)
        except (BackendError, LayoutError) as error:
            self._lose(str(error))
            return
        verdict = self._latency.verdict()
        if verdict is None:
            return
        log = self.get_logger()
        log.info(
            f"a chunk takes {verdict.boundary_s * 1e3:.1f} ms, so it has to be asked for {verdict.prefetch_steps} "
            f"steps ahead; prefetch_steps of task {self.task.name} is {self.task.prefetch_steps}"
        )
        for words in (*verdict.problems, *verdict.notes):
            log.warning(words)

    # ---- inputs

    def _on_observation(self, message: Observation) -> None:
        self.activity += 1
        try:
            vector(message.proprioception, None, "observation proprioception")
            stamp = stamp_ns(message.header.stamp)
        except CodecError as error:
            self._refuse(str(error))
            return
        self._scheduler.on_observation(stamp, message)
        self._answer()

    def _on_request(self, message: ChunkRequest) -> None:
        self.activity += 1
        if message.request_id in self._answers:
            self._repeated += 1
            self._publisher.publish(self._answers[message.request_id])
            return
        try:
            request = encoding.request(message)
        except CodecError as error:
            self._refuse(f"chunk_request: {error}")
            return
        self._scheduler.on_request(request)
        self._answer()

    def _on_episode(self, message: EpisodeState) -> None:
        self.activity += 1
        self._scheduler.on_episode(
            message.episode_id,
            message.epoch,
            train=message.purpose == EpisodeState.PURPOSE_TRAIN,
            discarded=message.label == EpisodeState.LABEL_DISCARD,
        )

    def _on_executed(self, message: ExecutedAction) -> None:
        self.activity += 1
        try:
            step = encoding.step(message, len(self.robot.joint_names) if self._encoder.anchored else None)
        except CodecError as error:
            self._refuse(f"executed_action: {error}")
            return
        self._scheduler.on_step(step)

    def _on_control(self, message: ControlState) -> None:
        self.activity += 1
        self._moving = message.phase in MOVING and not message.estop
        self._scheduler.on_control(message.episode_id, moving=self._moving, next_step=message.step)

    # ---- work

    def _answer(self) -> None:
        """Answer the request in hand, if its observation is there; one that cannot be used is passed over."""
        while not self._resting and (work := self._scheduler.next_boundary()) is not None:
            started = time.perf_counter()
            self._latency.begin_boundary(started)
            age_s = (self.get_clock().now().nanoseconds - work.stamp_ns) * 1e-9
            try:
                output = self._encoder.boundary(observation_from_msg(work.observation), work.request)
            except (CodecError, LayoutError) as error:
                self._refuse(str(error))
                self._scheduler.drop(work.stamp_ns)
                self._scheduler.on_request(work.request)
                continue
            except BackendError as error:
                self._scheduler.give_back_boundary(work)
                self._lose(str(error))
                return
            self._boundary_s = output.inference_s = time.perf_counter() - started
            self._latency.on_boundary(self._boundary_s)
            self._latency.on_age(age_s)
            self._publisher.publish(output)
            self._answers[work.request.request_id] = output
            while len(self._answers) > ANSWERS_KEPT:
                self._answers.popitem(last=False)
            self._boundaries += 1
            self._refusal = self._unreachable = ""
            self._show()

    def work_once(self) -> None:
        """Encode one group of strided observations, if one is due."""
        started = time.perf_counter()
        group = self._scheduler.next_group()
        usable: list[Item] = []
        kept: list[Strided[Observation]] = []
        for item in group:
            try:
                observation = observation_from_msg(item.observation)
                self._encoder.check(observation)
                usable.append(Item(item.episode_id, item.epoch, observation, item.anchor))
                kept.append(item)
            except (CodecError, LayoutError) as error:
                self._refuse(str(error))
        if usable:
            try:
                outputs = self._encoder.strided(usable)
            except BackendError as error:
                self._scheduler.give_back_group(kept)
                self._lose(str(error))
                return
            group_s = time.perf_counter() - started
            each_s = group_s / len(outputs)
            self._latency.on_group(group_s)
            self._latency.on_strided(each_s)
            for output in outputs:
                output.inference_s = each_s
                self._publisher.publish(output)
            self._strided += len(usable)
            self._unreachable = ""
            self._show()

    def _lose(self, reason: str) -> None:
        """Begin no work until the VLA was looked for again."""
        self._unreachable, self._resting = reason, True
        self.get_logger().error(f"the VLA cannot be reached, nothing is answered: {reason}", throttle_duration_sec=5.0)
        self._show()

    def _look_for_vla(self) -> None:
        backend = self.model.backend
        if isinstance(backend, RemoteBackend) and (reason := backend.lost()):
            self._lose(reason)
            return
        if not self._unreachable:
            return
        self._resting = False
        self._answer()
        if self._scheduler.request is None and not self._scheduler.group_ready:
            self._unreachable = ""
            self._show()

    def _load_head(self) -> HandoffHead | None:
        folder, backend = self.parameters.checkpoint, self.model.backend
        if not self.parameters.require_handoff and not has_head(folder):
            return None
        return load_head(folder, self.model.hash, backend.spec.embed_dim, backend.spec.state_dim, backend.device)

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._refusal = reason
        self.get_logger().error(f"refused: {reason}", throttle_duration_sec=1.0)
        self._show()

    def _show(self) -> None:
        counters, verdict = self._scheduler.counters, self._latency.verdict()
        level, text = OK, "ready"
        if self._unreachable:
            level, text = ERROR, f"the VLA cannot be reached: {self._unreachable}"
        elif self._refusal:
            level, text = ERROR, f"refused: {self._refusal}"
        elif counters.dropped_observations:
            level, text = WARN, "strided observations were dropped: inference is slower than the robot"
        elif verdict is not None and verdict.problems:
            level, text = WARN, "; ".join(verdict.problems)
        elif self._unscheduled:
            level, text = WARN, self._unscheduled
        self._health.set(
            level,
            text,
            vla_hash=self.model.hash,
            device=self.model.backend.device,
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            handoff_head="loaded" if self.head else "none",
            boundary_outputs=self._boundaries,
            strided_outputs=self._strided,
            pending=self._scheduler.pending,
            repeated_requests=self._repeated,
            dropped_requests=counters.dropped_requests,
            dropped_observations=counters.dropped_observations,
            clock_resets=counters.clock_resets,
            refused_observations=self._refused,
            boundary_ms=f"{self._boundary_s * 1e3:.1f}",
            prefetch_steps_needed="not judged" if verdict is None else verdict.prefetch_steps,
            timing_notes="" if verdict is None else "; ".join(verdict.notes),
            scheduling=self._unscheduled or scheduling(),
        )


def spin_some(node: VlaNode, executor: SingleThreadedExecutor) -> None:
    """Take one message; when none waits, encode a group of strided observations."""
    seen = node.activity
    executor.spin_once(timeout_sec=0.0 if node.busy else IDLE_WAIT_S)
    if node.activity == seen and node.busy:
        node.work_once()


def spin(node: VlaNode, executor: SingleThreadedExecutor) -> None:
    """Run the node until the end; on a robot with the priority that its parameters ask for."""
    if node.robot.tick == "timer":
        node.run_in_real_time()
    while rclpy.ok():
        spin_some(node, executor)


def main() -> None:
    """Entry point of `ros2 run rlt_vla_node vla`."""
    run_node("vla", VlaNode, CheckpointError, HandoffError, LayoutError, spin=spin)
