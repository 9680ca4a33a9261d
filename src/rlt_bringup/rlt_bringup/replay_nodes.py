"""The VLA node and the policy node as processes of their own, and recorded episodes played to them over DDS.

They run in a namespace of their own, so a robot on the same network hears nothing of it.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from rlt_bringup.process_environment import set_defaults
from rlt_bringup.replay_plan import Await, Publish, ReplayError, plan
from rlt_bringup.replay_source import Replay
from rlt_bringup.runner import GraphRunner
from rlt_bringup.security import REPLAY, REPLAY_NAMESPACE, secured, with_identity
from rlt_common import topics
from rlt_msgs.msg import (
    ActionChunk,
    ActorParameters,
    ChunkRequest,
    ControlState,
    EpisodeState,
    ExecutedAction,
    Observation,
    VlaOutput,
)
from rlt_rl_node.messages import actor_message

READY_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0
REPEAT_S = 1.0
POLL_S = 0.02


@dataclass(frozen=True)
class Pace:
    """How fast an episode is played.

    Attributes:
        factor: times real time, at most: an answer is waited for; 0: as fast as the answers come.
        after_answer: called with each answered request, to show it and to wait for a person.
    """

    factor: float = 0.0
    after_answer: Callable[[Replay, VlaOutput, ActionChunk | None], None] | None = None


@dataclass(frozen=True)
class Played:
    """What came back: outputs and chunks by request, strided outputs by observation; and how long it took, s."""

    outputs: Mapping[int, VlaOutput]
    strided: Mapping[int, VlaOutput]
    chunks: Mapping[int, ActionChunk]
    seconds: float


class Player(Node):
    """Publishes what camera ingest, executor, episode manager and learner would, and collects the answers."""

    def __init__(self, poll: Callable[[], None], namespace: str) -> None:
        super().__init__("replay", namespace=namespace)
        self._poll = poll
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._publishers_of = {
            topic: self.create_publisher(kind, topic, qos)
            for topic, kind, qos in (
                (topics.OBSERVATION, Observation, topics.QOS_OBSERVATION),
                (topics.CHUNK_REQUEST, ChunkRequest, topics.QOS_CONTROL),
                (topics.EPISODE_STATE, EpisodeState, topics.QOS_LATCHED),
                (topics.EXECUTED_ACTION, ExecutedAction, topics.QOS_STREAM),
                (topics.CONTROL_STATE, ControlState, topics.QOS_LATCHED),
                (topics.ACTOR, ActorParameters, topics.QOS_LATCHED),
            )
        }
        self.outputs: dict[int, VlaOutput] = {}
        self.strided: dict[int, VlaOutput] = {}
        self.chunks: dict[int, ActionChunk] = {}
        self.create_subscription(VlaOutput, topics.VLA_OUTPUT, self._on_output, topics.QOS_STREAM)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, topics.QOS_CONTROL)

    def wait_until_ready(self) -> None:
        """Wait until both nodes listen and speak. Raises ReplayError after READY_TIMEOUT_S."""
        both = (topics.CHUNK_REQUEST, topics.EPISODE_STATE)

        def ready() -> bool:
            heard = all(
                publisher.get_subscription_count() >= (2 if topic in both else 1)
                for topic, publisher in self._publishers_of.items()
            )
            return heard and all(self.count_publishers(topic) for topic in (topics.VLA_OUTPUT, topics.ACTION_CHUNK))

        if not self._spin_until(ready, READY_TIMEOUT_S):
            raise ReplayError(f"the VLA node and the policy node did not come up within {READY_TIMEOUT_S:.0f} s")

    def play(self, replay: Replay, pace: Pace) -> Played:
        """Publish an episode, each request after the answer to the one before. Raises ReplayError without an answer."""
        self.outputs, self.strided, self.chunks = {}, {}, {}
        if replay.actor is not None:
            self._publishers_of[topics.ACTOR].publish(actor_message(replay.actor, 0))
        begun_s = time.monotonic()
        recording = replay.recording
        for step in plan(recording, replay.judgement):
            if isinstance(step, Publish):
                if pace.factor and step.at_ns:
                    due_s = begun_s + (step.at_ns - recording.begin_ns) * 1e-9 / pace.factor
                    self._spin_until(lambda: time.monotonic() >= due_s, math.inf)  # noqa: B023
                self._publishers_of[step.topic].publish(step.message)
            else:
                self._await(step)
                if pace.after_answer:
                    request_id = step.request.request_id
                    pace.after_answer(replay, self.outputs[request_id], self.chunks.get(request_id))
        # Those that do not come back are told by the comparison.
        self._spin_until(lambda: recording.strided.keys() <= self.strided.keys(), ANSWER_TIMEOUT_S)
        return Played(self.outputs, self.strided, self.chunks, time.monotonic() - begun_s)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.destroy_node()

    def _await(self, awaited: Await) -> None:
        request_id = awaited.request.request_id
        repeat_s = time.monotonic() + REPEAT_S

        def answered() -> bool:
            nonlocal repeat_s
            if request_id in self.outputs and (request_id in self.chunks or not awaited.chunk):
                return True
            if time.monotonic() > repeat_s:
                repeat_s = time.monotonic() + REPEAT_S
                self._publishers_of[topics.CHUNK_REQUEST].publish(awaited.request)
            return False

        if not self._spin_until(answered, ANSWER_TIMEOUT_S):
            who = "the policy node" if request_id in self.outputs else "the VLA node"
            raise ReplayError(f"{who} did not answer request {request_id} within {ANSWER_TIMEOUT_S:.0f} s")

    def _spin_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Take messages until `done`; False when it is not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=POLL_S)
            self._poll()
        return True

    def _on_output(self, message: VlaOutput) -> None:
        if message.is_boundary:
            self.outputs[message.request_id] = message
        else:
            self.strided[message.observation_id] = message

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunks[message.chunk_id] = message


def play_all(replays: Sequence[Replay], pace: Pace) -> Iterator[Played]:
    """Play episodes one after the other; those with the same nodes share them, as long as their numbers rise.

    Raises ReplayError or RunnerError with the end of the nodes' logs.
    """
    waiting = list(replays)
    while waiting:
        first = waiting[0]
        count = 1
        while (
            count < len(waiting)
            and waiting[count].nodes == first.nodes
            and waiting[count].recording.episode_id > waiting[count - 1].recording.episode_id
        ):
            count += 1
        yield from _play_with(waiting[:count], pace)
        waiting = waiting[count:]


def _play_with(replays: Sequence[Replay], pace: Pace) -> Iterator[Played]:
    """Start both nodes, play the episodes, stop them."""
    set_defaults()
    # With SROS2 the nodes' identities have the namespace in them, so it is always the same: one replay at a time.
    namespace = REPLAY_NAMESPACE if secured() else f"replay_{os.getpid()}"
    nodes = replays[0].nodes
    rclpy.init(args=with_identity(sys.argv, REPLAY, namespace), signal_handler_options=SignalHandlerOptions.NO)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="rlt_replay_") as folder,
            GraphRunner(nodes, Path(folder), namespace) as runner,
        ):
            player = Player(runner.poll, namespace)
            try:
                player.wait_until_ready()
                for replay in replays:
                    yield player.play(replay, pace)
            except ReplayError as error:
                logs = "\n".join(runner.log_end(node.name) for node in nodes)
                raise ReplayError(f"{error}\n{logs}") from error
            finally:
                player.close()
    finally:
        rclpy.try_shutdown()
