"""The policy node: the only producer of action chunks.

Subscribes  vla_output (rlt_msgs/VlaOutput, boundary outputs only), chunk_request (rlt_msgs/ChunkRequest),
            episode_state (rlt_msgs/EpisodeState, latched), actor (rlt_msgs/ActorParameters, latched)
Publishes   action_chunk (rlt_msgs/ActionChunk), /diagnostics
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from rlt_common import topics
from rlt_common.codecs import CodecError
from rlt_common.config import load_robot, load_task
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_common.scheduling import priority_param, schedule_node, scheduling
from rlt_msgs.msg import ActionChunk, ActorParameters, ChunkRequest, EpisodeState, VlaOutput
from rlt_rl_node import actor_codec, messages
from rlt_rl_node.frozen_models import FrozenModelsError, read_frozen_models
from rlt_rl_node.policy import ChunkPolicy
from rlt_rl_node.tensor_file import TensorFileError

RUNAWAY_S = 1.0
"""With a real-time priority: a thread that runs so long without waiting for anything ends the process."""


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of the policy node. What the actor needs comes with the actor."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    vla_checkpoint: str = param(description="folder of the frozen VLA and RL token")
    run_seed: int = param(0, "seeds the exploration noise, with episode and step", minimum=0, maximum=2**31 - 1)
    priority: int = priority_param()

    def __post_init__(self) -> None:
        validate(self)


class PolicyNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("rl_policy")
        self.parameters = declare(self, PolicyParameters)
        reject_unknown(self)
        self.robot, self.task = load_robot(self.parameters.robot), load_task(self.parameters.task)
        self.frozen = read_frozen_models(self.parameters.vla_checkpoint, self.robot.action_dim)
        self.core = ChunkPolicy(self.parameters.run_seed)
        self._error = self._unscheduled = ""
        self._chunks = 0
        self._distance = 0.0
        self._health = Health(self)
        self._arm_names = tuple(arm.name for arm in self.robot.arms)
        self._publisher = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, topics.QOS_CHUNK)
        self.create_subscription(VlaOutput, topics.VLA_OUTPUT, self._on_output, topics.QOS_STREAM)
        self.create_subscription(ChunkRequest, topics.CHUNK_REQUEST, self._on_request, topics.QOS_CONTROL)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED_READER)
        self.create_subscription(ActorParameters, topics.ACTOR, self._on_actor, topics.QOS_LATCHED)
        self.create_timer(0.5, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def run_in_real_time(self) -> None:
        """Ask the system for what the parameters say; what it refuses is in the log and in /diagnostics."""
        self._unscheduled = schedule_node(self, self.parameters.priority, runaway_s=RUNAWAY_S)

    def _on_output(self, message: VlaOutput) -> None:
        if not message.is_boundary:
            return
        try:
            if message.vla_hash != self.frozen.hash:
                raise CodecError(f"vla_output of VLA {message.vla_hash}, this node's checkpoint is {self.frozen.hash}")
            if message.action_dim != self.robot.action_dim:
                raise CodecError(
                    f"vla_output has {message.action_dim} action columns, the robot {self.robot.action_dim}"
                )
            self.core.on_output(messages.output(message))
        except CodecError as error:
            self._refuse(error)
            return
        self._answer()

    def _on_request(self, message: ChunkRequest) -> None:
        self.core.on_request(messages.request(message))
        self._answer()

    def _on_episode(self, message: EpisodeState) -> None:
        self.core.on_episode(messages.episode(message))
        self._answer()

    def _on_actor(self, message: ActorParameters) -> None:
        try:
            weights = actor_codec.unpack(bytes(message.data), message.sha256)
            if weights.version != message.version or weights.actor.layout.chunk_length != self.task.chunk_length:
                raise TensorFileError(
                    f"actor says version {weights.version}, C = {weights.actor.layout.chunk_length}; expected version "
                    f"{message.version}, C = {self.task.chunk_length}"
                )
        except TensorFileError as error:
            self._refuse(error)
            return
        self.core.on_actor(weights)
        self._answer()

    def _answer(self) -> None:
        try:
            chunk = self.core.answer()
        except ValueError as error:
            self._refuse(error)
            return
        if chunk is None:
            return
        self._publisher.publish(messages.chunk_message(chunk, self._arm_names))
        self._error = ""
        self._chunks += 1
        self._distance = chunk.reference_distance

    def _refuse(self, error: Exception) -> None:
        self._error = str(error)
        self.get_logger().error(f"refused: {error}", throttle_duration_sec=1.0)
        self._report()

    def _report(self) -> None:
        waiting = self.core.waiting_for
        level = ERROR if self._error else WARN if waiting.startswith("actor") or self._unscheduled else OK
        self._health.set(
            level,
            self._error or self._unscheduled or f"waiting for {waiting}",
            chunks=self._chunks,
            actor_version=self.core.newest_version,
            dropped_requests=self.core.dropped,
            reference_distance=f"{self._distance:.3f}",
            scheduling=self._unscheduled or scheduling(),
        )


def spin(node: PolicyNode, executor: SingleThreadedExecutor) -> None:
    """Run the node until the end; on a robot with the priority that its parameters ask for."""
    if node.robot.tick == "timer":
        node.run_in_real_time()
    executor.spin()


def main() -> None:
    """Entry point of `ros2 run rlt_rl_node rl_policy`."""
    torch.set_num_threads(1)
    run_node("rl_policy", PolicyNode, FrozenModelsError, spin=spin)
