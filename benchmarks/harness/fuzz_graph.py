"""Hostile messages over DDS into the running graph: real processes, a robot that is being driven meanwhile."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray

from harness.fuzzing import BYTES_SHARE, Findings, Judge
from harness.hostile import Hostile
from harness.valid_messages import ValidMessages
from rlt_bringup.graph import NodeSpec
from rlt_bringup.runner import GraphRunner
from rlt_common import topics
from rlt_msgs.srv import Handoff, LabelEpisode, ResetEstop, ResetScene, SaveCheckpoint, StartEpisode

RCLError = rclpy_implementation.RCLError
BATCH, PAUSE_S = 20, 0.02
"""A pause after so many messages, so that readers with short queues see them rather than lose them."""
START_TIMEOUT_S = 120.0
SETTLE_S = 5.0
SERVICES = {
    topics.SERVICE_START_EPISODE: StartEpisode,
    topics.SERVICE_HANDOFF: Handoff,
    topics.SERVICE_LABEL_EPISODE: LabelEpisode,
    topics.SERVICE_RESET_ESTOP: ResetEstop,
    topics.SERVICE_RESET_SCENE: ResetScene,
    topics.SERVICE_SAVE_CHECKPOINT: SaveCheckpoint,
}


@dataclass
class GraphFindings:
    """What came of it."""

    sent: Counter[str] = field(default_factory=Counter)
    deaths: list[str] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)
    commands: int = 0


class Attacker(Node):
    """Publishes on every topic of the graph but the arms' own, calls every service, and watches what the arms get."""

    def __init__(self, valid: ValidMessages, seed: int) -> None:
        super().__init__("attacker")
        self._valid, self._rng, self._hostile = valid, random.Random(seed), Hostile(seed + 1)
        self.found = GraphFindings()
        self._judge = Judge(valid.robot, Findings())
        good = valid.of_episode(1)
        command = valid.robot.command_topics[0]
        qos = QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.topics = {n: m for n, m in good.items() if not type(m).__name__.endswith("_Request") and n != command}
        self._talk = {name: self.create_publisher(type(m), name, qos) for name, m in self.topics.items()}
        self._clients_by_name = {n: self.create_client(kind, n) for n, kind in SERVICES.items()}
        self.create_subscription(Float64MultiArray, command, self._on_command, topics.QOS_STREAM)

    @property
    def names(self) -> list[str]:
        """Topics and services that it knows."""
        return [*self._talk, *self._clients_by_name]

    def attack(self, name: str, episode_id: int) -> None:
        """One hostile message or request."""
        self.found.sent[name] += 1
        good = self._valid.of_episode(episode_id).get(name)
        if name in self._clients_by_name:
            client = self._clients_by_name[name]
            request = self._hostile.message(SERVICES[name].Request() if good is None else good)
            future = client.call_async(request)
            future.add_done_callback(lambda _: None)
            client.remove_pending_request(future)
            return
        while not self._sent(name, self._bad_bytes(good)):
            continue

    def reset_estop(self) -> None:
        """What a person does after an emergency stop; without it the first one would be the end of all motion."""
        client = self._clients_by_name[topics.SERVICE_RESET_ESTOP]
        client.remove_pending_request(client.call_async(ResetEstop.Request()))

    def _bad_bytes(self, good: Any) -> bytes:
        if self._rng.random() < BYTES_SHARE:
            return self._hostile.cdr(serialize_message(good))
        return serialize_message(self._hostile.message(good))

    def _sent(self, name: str, cdr: bytes) -> bool:
        """Publish; False for bytes that the middleware does not even send, such as none at all."""
        try:
            self._talk[name].publish(cdr)
        except RCLError:
            return False
        return True

    def _on_command(self, message: Float64MultiArray) -> None:
        self.found.commands += 1
        if fault := self._judge.fault(self._valid.robot.command_topics[0], message):
            self.found.violations[fault] += 1


def attack_graph(
    nodes: list[NodeSpec],
    valid: ValidMessages,
    logs: Path,
    count: int,
    seed: int,
    say: Callable[[str], None],
) -> GraphFindings:
    """`count` hostile messages on every topic and service of a graph that runs, in random order.

    A node that ended is noted and the graph started anew: what commands motion stays down until then, as it must.
    """
    rclpy.init()
    attacker = Attacker(valid, seed)
    executor = SingleThreadedExecutor()
    executor.add_node(attacker)
    remaining = Counter({name: count for name in attacker.names})
    rng = random.Random(seed)
    life = 0
    try:
        while remaining.total():
            life += 1
            with GraphRunner(nodes, logs / str(life)) as runner:
                _until_moving(attacker, executor, runner)
                _one_life(attacker, executor, runner, nodes, remaining, rng)
            deaths = attacker.found.deaths
            say(f"over DDS: {attacker.found.sent.total()} sent, {len(deaths)} processes ended {deaths[-1:]}")
    finally:
        executor.shutdown()
        attacker.destroy_node()
        rclpy.shutdown()
    return attacker.found


def _one_life(
    attacker: Attacker,
    executor: SingleThreadedExecutor,
    runner: GraphRunner,
    nodes: list[NodeSpec],
    remaining: Counter[str],
    rng: random.Random,
) -> None:
    """Until all is sent, or a process ended."""
    pids = {spec.name: runner.pid(spec.name) for spec in nodes}
    batches = 0
    while remaining.total():
        for _ in range(min(BATCH, remaining.total())):
            name = rng.choice([name for name, left in remaining.items() if left])
            remaining[name] -= 1
            attacker.attack(name, rng.randint(1, 9))
        _spin(executor, PAUSE_S)
        batches += 1
        if batches % 20 == 0:
            attacker.reset_estop()
            if _dead(attacker, runner, pids):
                return
    _spin(executor, SETTLE_S)
    _dead(attacker, runner, pids)


def _dead(attacker: Attacker, runner: GraphRunner, pids: dict[str, int]) -> bool:
    ended = [name for name, pid in pids.items() if not Path(f"/proc/{pid}/stat").exists() or _zombie(pid)]
    attacker.found.deaths += [f"{name}: {runner.log_end(name, 6)}" for name in ended]
    return bool(ended)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z"


def _until_moving(attacker: Attacker, executor: SingleThreadedExecutor, runner: GraphRunner) -> None:
    """The arms are commanded. Raises RuntimeError when they are not within two minutes."""
    before, end = attacker.found.commands, time.monotonic() + START_TIMEOUT_S
    while attacker.found.commands == before:
        if time.monotonic() > end:
            raise RuntimeError(f"the graph did not begin to move:\n{runner.log_end('episode_manager')}")
        runner.poll()
        executor.spin_once(timeout_sec=0.1)


def _spin(executor: SingleThreadedExecutor, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)


def reports(found: GraphFindings) -> dict[str, Any]:
    """For the result file."""
    return {
        "sent": dict(found.sent),
        "deaths": found.deaths,
        "violations": dict(found.violations),
        "commands": found.commands,
    }
