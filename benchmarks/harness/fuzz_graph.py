"""Hostile messages over DDS into the running graph: real processes, a robot that is being driven meanwhile."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from harness.driven_arms import answer_to
from harness.fuzzing import BESIDE, BYTES_SHARE, MAPPINGS, Findings, Judge, equipped, page_of
from harness.hostile import Hostile
from harness.untrained_run import prepare
from harness.valid_messages import ValidMessages
from rlt_bringup.graph import GraphOptions, NodeSpec, config_file, describe, resolve
from rlt_bringup.runner import GraphRunner
from rlt_common import topics
from rlt_common.codecs import to_time
from rlt_common.joint_states import JointOrder, JointStateError
from rlt_control.records import Source
from rlt_msgs.action import RunEpisodes
from rlt_msgs.msg import ChunkRequest, ExecutedAction
from rlt_msgs.srv import Estop, Handoff, LabelEpisode, ResetEstop, ResetScene, SaveCheckpoint, StartEpisode
from rlt_teleop.joy_mapping import load_mapping

RCLError = rclpy_implementation.RCLError
BATCH, PAUSE_S = 20, 0.02
"""A pause after so many messages, so that readers with short queues see them rather than lose them."""
START_TIMEOUT_S = 120.0
SETTLE_S = 5.0
JUDGED_AFTER_S = 1.0
"""A command is judged so long after it came: by then the joint states that it follows from have come as well."""
EXAMPLES = 10
GLANCES = 40
SENSORS_S = 0.01
SERVICE, GOAL = " service", " goal"
"""Behind the name of a service and of an action, which may be that of a topic too."""
SERVICES = {
    topics.SERVICE_START_EPISODE: StartEpisode,
    topics.SERVICE_HANDOFF: Handoff,
    topics.SERVICE_ESTOP: Estop,
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
    examples: list[str] = field(default_factory=list)
    """The first violations, with the numbers."""
    commands: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    """Control steps by who drove, where executed_action is the executor's alone."""


class Attacker(Node):
    """Publishes on topics of the graph but the arms' own, calls every service and action, watches what the arms get.

    Args:
        valid: makes the valid messages.
        seed: decides everything.
        beside: topic -> valid message of what `valid` does not know.
        only: the topics to attack; none: every one, and every service and the action.
        well: topics on which it says, besides and all the time, what is right: sensors that nothing else speaks for.
    """

    def __init__(
        self,
        valid: ValidMessages,
        seed: int,
        beside: Mapping[str, Any] | None = None,
        only: Sequence[str] = (),
        well: Sequence[str] = (),
    ) -> None:
        super().__init__("attacker")
        self._valid, self._rng, self._hostile = valid, random.Random(seed), Hostile(seed + 1)
        self.found = GraphFindings()
        self._judge = Judge(valid.robot, Findings())
        self._beside = dict(beside or {})
        self._good_by_episode: dict[int, dict[str, Any]] = {}
        self._command_topic = valid.robot.command_topics[0]
        good = valid.of_episode(1) | self._beside
        qos = QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        attacked = {
            n: m
            for n, m in good.items()
            if not type(m).__name__.endswith("_Request") and n != self._command_topic and (not only or n in only)
        }
        self._talk = {name: self.create_publisher(type(m), name, qos) for name, m in attacked.items()}
        self._clients_by_name = {n + SERVICE: self.create_client(kind, n) for n, kind in SERVICES.items()}
        self._run_episodes = ActionClient(self, RunEpisodes, topics.ACTION_RUN_EPISODES)
        self.names = list(self._talk)
        if not only:
            self.names += [*self._clients_by_name, topics.ACTION_RUN_EPISODES + GOAL]
        self._well = {name: self.create_publisher(type(good[name]), name, qos) for name in well}
        self._requests: dict[int, ChunkRequest] = {}
        self._order = JointOrder(valid.robot.joint_names)
        self._q = valid.home
        self._unjudged: deque[tuple[float, np.ndarray]] = deque()
        self.heard = 0
        """Commands and joint states so far."""
        deep = QoSProfile(depth=1000)  # the same for both: none may be judged before what it follows from is here
        self.create_subscription(Float64MultiArray, self._command_topic, self._on_command, deep)
        self.create_subscription(ChunkRequest, topics.CHUNK_REQUEST, self._on_request, topics.QOS_STREAM)
        if topics.EXECUTED_ACTION not in self._talk:
            self.create_subscription(ExecutedAction, topics.EXECUTED_ACTION, self._on_executed, topics.QOS_STREAM)
        for topic in valid.robot.state_topics:
            self.create_subscription(JointState, topic, self._on_joint_states, deep)
        if self._well:
            self.create_timer(SENSORS_S, self._be_well)

    @property
    def motion(self) -> int:
        """Steps of chunks so far; where executed_action is attacked, commands (none without motion in lockstep)."""
        if topics.EXECUTED_ACTION in self._talk:
            return self.found.commands
        return self.found.steps["VLA"] + self.found.steps["RL"]

    def attack(self, name: str, episode_id: int) -> None:
        """One hostile message, request or goal."""
        self.found.sent[name] += 1
        if name.endswith(GOAL):
            goal = RunEpisodes.Goal(purpose=1, driver=1, start_in="critical", count=1)
            self._run_episodes.send_goal_async(self._hostile.message(goal))
            return
        if name in self._clients_by_name:
            topic = name.removesuffix(SERVICE)
            client = self._clients_by_name[name]
            request = self._of_episode(episode_id).get(topic)
            kind = SERVICES[topic].Request
            request = self._hostile.message(request if isinstance(request, kind) else kind())
            client.remove_pending_request(client.call_async(request))
            return
        while not self._sent(name, self._bad_bytes(self._good(name, episode_id))):
            continue

    def reset_estop(self) -> None:
        """What a person does after an emergency stop; without it the first one would be the end of all motion."""
        client = self._clients_by_name[topics.SERVICE_RESET_ESTOP + SERVICE]
        client.remove_pending_request(client.call_async(ResetEstop.Request()))

    def judge(self, after_s: float = JUDGED_AFTER_S) -> None:
        """Judge the commands that came at least `after_s` ago."""
        while self._unjudged and self._unjudged[0][0] <= time.monotonic() - after_s:
            _, target = self._unjudged.popleft()
            fault = self._judge.motion.fault(target)
            if not fault:
                continue
            self.found.violations[fault] += 1
            if len(self.found.examples) < EXAMPLES:
                self.found.examples.append(f"{fault}: {self._judge.motion.nearest(target)}")

    def begin_life(self) -> None:
        """The graph starts anew, with arms at their first joints."""
        self._judge.motion.forget()
        self._unjudged.clear()
        self._requests, self._q = {}, self._valid.home

    def _good(self, name: str, episode_id: int) -> Any:
        if name == topics.ACTION_CHUNK and self._requests:
            return answer_to(self._rng.choice(list(self._requests.values())), self._valid, self._rng)
        good = self._beside.get(name)
        return self._of_episode(episode_id)[name] if good is None else good

    def _of_episode(self, episode_id: int) -> dict[str, Any]:
        if episode_id not in self._good_by_episode:
            self._good_by_episode[episode_id] = self._valid.of_episode(episode_id)
        return self._good_by_episode[episode_id]

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

    def _be_well(self) -> None:
        good = self._valid.at(self._q, to_time(time.time_ns()))
        for name, publisher in self._well.items():
            publisher.publish(good[name])

    def _on_request(self, message: ChunkRequest) -> None:
        """Of the newest requests some are the executor's own and some hostile."""
        self._requests[message.request_id] = message
        while len(self._requests) > 4:
            del self._requests[next(iter(self._requests))]

    def _on_executed(self, message: ExecutedAction) -> None:
        self.found.steps[Source(message.source).name] += 1
        if fault := self._judge.fault(topics.EXECUTED_ACTION, message):
            self.found.violations[fault] += 1

    def _on_joint_states(self, message: JointState) -> None:
        self.heard += 1
        try:
            q = self._order.positions(message.name, message.position)
        except JointStateError:
            return
        self._q = q
        self._judge.motion.measured(q)

    def _on_command(self, message: Float64MultiArray) -> None:
        self.heard += 1
        self.found.commands += 1
        self._unjudged.append((time.monotonic(), np.array(message.data, dtype=np.float64)))


def attack_graph(
    nodes: list[NodeSpec],
    valid: ValidMessages,
    logs: Path,
    count: int,
    seed: int,
    say: Callable[[str], None],
    found: GraphFindings | None = None,
    **attacker_arguments: Any,
) -> GraphFindings:
    """`count` hostile messages on every topic, service and action of a graph that runs, in random order.

    A node that ended is noted and the graph started anew: what commands motion stays down until then, as it must.
    `found`: of an earlier attack, to be added to; `attacker_arguments` are Attacker's.
    """
    rclpy.init()
    attacker = Attacker(valid, seed, **attacker_arguments)
    attacker.found = found or attacker.found
    executor = SingleThreadedExecutor()
    executor.add_node(attacker)
    remaining = Counter({name: count for name in attacker.names})
    rng = random.Random(seed)
    life = 0
    try:
        while remaining.total():
            life += 1
            attacker.begin_life()
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


def attack_equipped_graph(run: Path, count: int, seed: int, say: Callable[[str], None], found: GraphFindings) -> None:
    """The topics that the simulated cell does not have, on a robot's timer: of sensors, ready drivers, cameras' health,
    a compressed camera, a SpaceMouse, leader arms, diagnostics. Added to `found`.

    A second joy_operator per device and a second camera_ingest take them; what those say reaches the executor as if
    it were said by the first, but for the second ingest's observations, which have topics of their own.
    """
    task, raw = prepare(run), equipped(run / "raw", transport="raw")
    resolved = resolve(GraphOptions(task=str(task), robot=str(raw), run=str(run), mode="train"))
    nodes = describe(resolved)
    valid = ValidMessages(resolved)
    specs = {node.name: node for node in nodes}
    compressed = resolve(GraphOptions(task=str(task), robot=str(equipped(run / "packed")), run=str(run)))
    cameras = [camera.topic for camera in valid.robot.cameras]
    packed = ValidMessages(compressed).of_episode(1)
    apart = tuple((name, f"packed/{name}") for name in (topics.OBSERVATION, topics.CAMERA_HEALTH, *cameras))
    ingest = specs["camera_ingest"]
    nodes.append(
        replace(
            ingest,
            name="packed_ingest",
            parameters={**ingest.parameters, "robot": str(compressed.robot_file)},
            remap=(*ingest.remap, *apart),
        )
    )
    beside = {f"packed/{topic}": packed[topic] for topic in cameras}
    for device in MAPPINGS:
        mapping = config_file("joy", device)
        own = valid.of_mapping(load_mapping(mapping))
        # Buttons have a topic of their own for each device: the scripted operator's pad is on the graph's.
        joy = next(iter(own))
        beside |= {f"{device}/joy": own.pop(joy), **own}
        parameters = {**specs["joy_operator"].parameters, "mapping": str(mapping)}
        remap = (*specs["joy_operator"].remap, (joy, f"{device}/joy"))
        nodes.append(replace(specs["joy_operator"], name=f"joy_{device}", parameters=parameters, remap=remap))
    nodes += [spec for spec in BESIDE if spec.name != "keyboard"]  # which needs a terminal
    nodes.append(page_of(raw, run))
    sensors = valid.robot.sensor_topics
    only = [*beside, *sensors, topics.CAMERA_HEALTH, topics.DIAGNOSTICS, topics.ACTION_CHUNK, topics.TELEOP_COMMAND]
    attack_graph(nodes, valid, run / "log", count, seed, say, found, beside=beside, only=only, well=sensors)


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
        _hear(attacker, executor)
        attacker.judge()
        batches += 1
        if batches % 20 == 0:
            attacker.reset_estop()
            if _dead(attacker, runner, pids):
                return
    _spin(executor, SETTLE_S)
    attacker.judge(after_s=0.0)
    _dead(attacker, runner, pids)


def _dead(attacker: Attacker, runner: GraphRunner, pids: dict[str, int]) -> bool:
    ended = [name for name, pid in pids.items() if not Path(f"/proc/{pid}/stat").exists() or _zombie(pid)]
    attacker.found.deaths += [f"{name}: {runner.log_end(name, 6)}" for name in ended]
    return bool(ended)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z"


def _until_moving(attacker: Attacker, executor: SingleThreadedExecutor, runner: GraphRunner) -> None:
    """The arms are commanded. Raises RuntimeError when they are not within two minutes."""
    before, end = attacker.motion, time.monotonic() + START_TIMEOUT_S
    while attacker.motion == before:
        if time.monotonic() > end:
            raise RuntimeError(f"the graph did not begin to move:\n{runner.log_end('chunk_executor')}")
        runner.poll()
        executor.spin_once(timeout_sec=0.1)


def _hear(attacker: Attacker, executor: SingleThreadedExecutor) -> None:
    """Pause, and longer while many commands and joint states wait: a judge that is behind judges wrongly."""
    _spin(executor, PAUSE_S)
    heard = GLANCES
    while heard > GLANCES // 2:
        before = attacker.heard
        for _ in range(GLANCES):  # each takes one message of those that are there
            executor.spin_once(timeout_sec=0)
        heard = attacker.heard - before


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
        "examples": found.examples,
        "commands": found.commands,
        "steps": dict(found.steps),
    }
