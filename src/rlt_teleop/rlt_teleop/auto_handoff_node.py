"""Automatic hand-off: begins the critical phase when the VLA's hand-off head calls for it, in an operator's place.

Subscribes  vla_output (rlt_msgs/VlaOutput, boundary outputs only), episode_state (rlt_msgs/EpisodeState, latched)
Publishes   /diagnostics
Calls       handoff (rlt_msgs/Handoff) for exactly the episode and epoch it judged: a later one refuses it

The operator's own hand-off goes on working. While a person is in control, and in every phase but BASE, nothing happens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

from rlt_common import topics
from rlt_common.config import load_task
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import EpisodeState, VlaOutput
from rlt_msgs.srv import Handoff
from rlt_teleop.auto_handoff import AutoHandoff, Call, Judgement

CHECK_S = 0.5


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the automatic hand-off. How many outputs in a row are needed, the task file says."""

    task: str = param(description="path of the task file")
    threshold: float = param(
        0.0,
        "probability from which on an output calls for the hand-off; 0: the one chosen when the head was trained",
        minimum=0.0,
        maximum=1.0,
    )
    answer_timeout_s: float = param(
        1.0, "s to wait for the episode manager's answer before the call may be made again", minimum=0.05, maximum=60.0
    )

    def __post_init__(self) -> None:
        validate(self)


class AutoHandoffNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("auto_handoff")
        self.parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self._core = AutoHandoff(load_task(self.parameters.task).handoff_outputs, self.parameters.threshold)
        self._pending: tuple[Call, Future, float] | None = None
        self._calls = self._accepted = 0
        self._refused = ""
        self._health = Health(self)
        self._client = self.create_client(Handoff, topics.SERVICE_HANDOFF)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED_READER)
        self.create_subscription(VlaOutput, topics.VLA_OUTPUT, self._on_output, topics.QOS_STREAM)
        self.create_timer(CHECK_S, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_episode(self, message: EpisodeState) -> None:
        base = message.phase == EpisodeState.PHASE_BASE
        self._core.on_episode(message.episode_id, message.epoch, base, message.human_in_control)

    def _on_output(self, message: VlaOutput) -> None:
        if not message.is_boundary:
            return
        call = self._core.on_output(
            Judgement(
                episode_id=message.episode_id,
                epoch=message.epoch,
                observation_id=message.observation_id,
                probability=message.handoff_probability,
                threshold=message.handoff_threshold,
            )
        )
        if call is not None:
            self._hand_off(call)

    def _hand_off(self, call: Call) -> None:
        if not self._client.service_is_ready():
            self._refused = f"no {topics.SERVICE_HANDOFF} service: is the episode manager running?"
            self._core.on_answer(call, False)
            return
        self._calls += 1
        request = Handoff.Request(episode_id=call.episode_id, epoch=call.epoch, source=self.get_name())
        future = self._client.call_async(request)
        self._pending = (call, future, time.monotonic() + self.parameters.answer_timeout_s)
        future.add_done_callback(lambda done: self._on_answer(call, done))

    def _on_answer(self, call: Call, future: Future) -> None:
        answer = future.result()
        self._core.on_answer(call, answer.accepted)
        self._accepted += answer.accepted
        self._refused = answer.message
        self.get_logger().info(f"episode {call.episode_id}: {answer.message or 'handed off'}")
        if self._pending is not None and self._pending[0] == call:
            self._pending = None

    def _check(self) -> None:
        """Give up an answer that did not come, and show how things stand."""
        if self._pending is not None and time.monotonic() > self._pending[2]:
            call, future, _ = self._pending
            self._pending = None
            self._client.remove_pending_request(future)
            self._core.on_answer(call, False)
            self._refused = f"{topics.SERVICE_HANDOFF} did not answer within {self.parameters.answer_timeout_s:g} s"
        core = self._core
        level, text = OK, "watching" if core.watching else "nothing to decide"
        if core.blind:
            level, text = ERROR, "the VLA has no hand-off head: train one with `handoff`; the operator must hand off"
        elif self._refused:
            level, text = WARN, self._refused
        self._health.set(
            level,
            text,
            probability=f"{core.probability:.3f}",
            in_a_row=core.in_a_row,
            calls=self._calls,
            accepted=self._accepted,
            stale_outputs=core.stale,
        )


def main() -> None:
    """Entry point of `ros2 run rlt_teleop auto_handoff`."""
    run_node("auto_handoff", AutoHandoffNode)
