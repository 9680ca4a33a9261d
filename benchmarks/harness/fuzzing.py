"""Hostile messages through the handlers of the graph's own nodes, in this process.

A :class:`Subject` is one node with the parameters that the graph gives it. Its subscriptions and services are found
on the node itself, so a new one is fuzzed without being named here. Messages go straight into the callbacks, timers
fire in between, and whatever the node publishes is serialised as DDS would and judged by :class:`Judge`. A callback
that raises is a crash: it would end the node's process. An executor is driven meanwhile (`harness.driven_arms`).
"""

from __future__ import annotations

import gc
import inspect
import os
import pty
import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
import yaml
from rclpy.action import ActionServer
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.subscription import Subscription
from rich.console import Console

from harness.driven_arms import DrivenArms
from harness.hostile import Hostile
from harness.motion_judge import MotionJudge
from harness.untrained_run import on_a_timer, prepare
from harness.valid_messages import ValidMessages
from rlt_bringup.graph import GraphOptions, NodeSpec, config_file, describe, resolve
from rlt_common import topics
from rlt_common.config import RobotConfig
from rlt_control.chunk_executor_node import ChunkExecutorNode
from rlt_control.records import Source
from rlt_msgs.msg import ActionChunk, ChunkRequest, ExecutedAction, TeleopCommand
from rlt_rl_node.learner_node import LearnerNode
from rlt_rl_node.policy_node import PolicyNode
from rlt_sim.scripted_operator_node import ScriptedOperatorNode
from rlt_sim.sim_robot_node import SimRobotNode
from rlt_teleop.auto_handoff_node import AutoHandoffNode
from rlt_teleop.episode_manager_node import EpisodeManagerNode
from rlt_teleop.feedback_node import FeedbackNode
from rlt_teleop.joy_mapping import load_mapping
from rlt_teleop.joy_operator_node import JoyOperatorNode
from rlt_teleop.keyboard_node import KeyboardNode
from rlt_teleop.operator_page_node import OperatorPageNode
from rlt_teleop.recorder_node import RecorderNode
from rlt_teleop.status_node import StatusNode
from rlt_vla_node.camera_ingest_node import CameraIngestNode
from rlt_vla_node.vla_node import VlaNode


class Terminal:
    """A terminal that nobody types on, for the nodes that need one."""

    def __init__(self) -> None:
        self._user, self.descriptor = pty.openpty()
        self.console = Console(file=open(os.devnull, "w", encoding="utf-8"), force_terminal=True, width=120)  # noqa: SIM115


TERMINAL = Terminal()
NODES: dict[str, Callable[[], Node]] = {
    "sim_robot": SimRobotNode,
    "chunk_executor": ChunkExecutorNode,
    "camera_ingest": CameraIngestNode,
    "vla": VlaNode,
    "rl_policy": PolicyNode,
    "rl_learner": LearnerNode,
    "episode_manager": EpisodeManagerNode,
    "auto_handoff": AutoHandoffNode,
    "joy_operator": JoyOperatorNode,
    "recorder": RecorderNode,
    "scripted_operator": ScriptedOperatorNode,
    "status": lambda: StatusNode(TERMINAL.console),
    "feedback": FeedbackNode,
    "keyboard": lambda: KeyboardNode(TERMINAL.descriptor),
    "operator_page": OperatorPageNode,
}
"""What makes each node of the graph and those that a person starts beside it; the gamepad node takes no messages."""
BESIDE = (
    NodeSpec("rlt_teleop", "status", "status", {"use_sim_time": False}),
    NodeSpec("rlt_teleop", "feedback", "feedback", {"outputs": ["rumble"]}),
    NodeSpec("rlt_teleop", "keyboard", "keyboard", {"use_sim_time": False}),
)
MAPPINGS = ("spacemouse", "aloha_leaders")
"""Of joy_operator, beside the one that the graph has: between them they take every type of motion command."""
KNOWN_SHARE = 10
"""The equipped robot's nodes get one in so many of a type that the graph's nodes have had in full."""
RMWError = rclpy_implementation.RMWError
PER_LIFE = 300
"""Hostile messages that a node takes before a fresh one replaces it: some leave it deaf, on purpose, to what
follows."""
VALID_EVERY, TIMERS_EVERY, DRIVE_EVERY = 40, 25, 5
BYTES_SHARE = 0.3


@dataclass
class Tally:
    """What happened to the messages of one topic or service of one node."""

    node: str
    topic: str
    type: str
    sent: int = 0
    undecodable: int = 0
    """Bytes that DDS would not hand to the node, since they are no message of the type."""
    crashes: int = 0


@dataclass
class Findings:
    """Of a whole campaign."""

    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    crashes: Counter[str] = field(default_factory=Counter)
    """Exception and the line of the project that raised it."""
    examples: dict[str, str] = field(default_factory=dict)
    violations: Counter[str] = field(default_factory=Counter)
    """Things published that must never be: motion outside the limits, values that are not finite."""
    published: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    """Control steps that executors took, by who drove; `clamped`: those that a limit changed, of chunks and humans."""

    def types(self) -> Counter[str]:
        """Messages sent so far, by type."""
        sent: Counter[str] = Counter()
        for tally in self.tallies.values():
            sent[tally.type] += tally.sent
        return sent

    def add(self, other: Findings) -> None:
        """Take in what was found elsewhere."""
        for (node, topic), own in other.tallies.items():
            tally = self.tally(node, topic, own.type)
            tally.sent += own.sent
            tally.undecodable += own.undecodable
            tally.crashes += own.crashes
        for counter in ("crashes", "violations", "published", "steps"):
            getattr(self, counter).update(getattr(other, counter))
        self.examples = other.examples | self.examples

    def tally(self, node: str, topic: str, kind: str) -> Tally:
        """The tally of a topic of a node, made when it is asked for first."""
        return self.tallies.setdefault((node, topic), Tally(node, topic, kind))

    def crash(self, tally: Tally, error: BaseException, message: Any) -> None:
        """Note a callback that raised."""
        tally.crashes += 1
        own = [f for f in traceback.extract_tb(error.__traceback__) if "/rlt_" in f.filename]
        at = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
        name = f"{tally.node} {tally.topic}: {type(error).__name__} at {at}: {str(error)[:160]}"
        self.crashes[name] += 1
        self.examples.setdefault(name, f"{str(message)[:600]}\n{''.join(traceback.format_exception(error))}")


class Judge:
    """What may be published at all. Limits are worked out from robot file and kinematics, not by the executor."""

    def __init__(self, robot: RobotConfig, findings: Findings) -> None:
        self._robot, self._findings = robot, findings
        self.motion = MotionJudge(robot)

    def publish(self, node: str, topic: str, message: Any) -> None:
        """Serialise as a publisher would, and note what must not be. Raises what publishing would raise."""
        serialize_message(message)
        self._findings.published[f"{node} {topic.rsplit('/', 1)[-1]}"] += 1
        fault = self.fault(topic, message)
        if fault:
            self._findings.violations[f"{node} {topic}: {fault}"] += 1

    def fault(self, topic: str, message: Any) -> str:
        """What is wrong with a message that a node publishes; empty when nothing is."""
        if topic.endswith(self._robot.command_topics[0]):
            return self.motion.fault(np.asarray(message.data, dtype=np.float64))
        if isinstance(message, ActionChunk) and not np.isfinite([*message.actions, *message.reference]).all():
            return "a chunk that is not finite"
        if isinstance(message, TeleopCommand):
            return self.hand_fault(np.asarray(message.action, dtype=np.float64))
        if isinstance(message, ExecutedAction):
            return self.action_fault(np.asarray(message.action, dtype=np.float64))
        return ""

    def hand_fault(self, action: np.ndarray) -> str:
        """What is wrong with a human's command (7 per arm)."""
        limit = self._robot.hand_step_limit
        if not np.isfinite(action).all():
            return "a human command that is not finite"
        within = action.size == 0 or (action.shape == limit.shape and (np.abs(action) <= limit + 1e-5).all())
        return "" if within else "a human command of a wrong length or beyond the step limit"

    def action_fault(self, action: np.ndarray) -> str:
        """What is wrong with an executed action (d,)."""
        limit = self._robot.step_limit
        if action.shape != limit.shape or not np.isfinite(action).all():
            return "an executed action that is not finite or of a wrong length"
        return "" if (np.abs(action) <= limit + 1e-5).all() else "an executed action beyond the step limit"


class Subject:
    """One node of the graph under hostile messages.

    Args:
        spec: node and parameters, as the graph describes them.
        valid: makes the valid messages that the hostile ones derive from.
        findings: where everything is noted.
        seed: decides messages and order.
        folder: for the parameter file.
    """

    def __init__(self, spec: NodeSpec, valid: ValidMessages, findings: Findings, seed: int, folder: Path) -> None:
        self.spec, self._valid, self._findings = spec, valid, findings
        mapping = spec.parameters.get("mapping")
        self._devices = valid.of_mapping(load_mapping(mapping)) if mapping else {}
        self._rng, self._hostile = random.Random(seed), Hostile(seed + 1)
        self._judge = Judge(valid.robot, findings)
        folder.mkdir(parents=True, exist_ok=True)
        self._parameters = folder / f"{spec.name}.yaml"
        text = yaml.safe_dump({"/**": {"ros__parameters": dict(spec.parameters)}})
        self._parameters.write_text(text, encoding="utf-8")
        self._episode = 0
        self._good: dict[str, Any] = {}
        self._inlets_now: dict[str, _Inlet] = {}
        self._driven = DrivenArms(valid, self._rng, self._say)

    def types(self) -> list[str]:
        """The type of every subscription and service of the node."""
        with self._node() as node:
            found = [inlet.type_name for inlet in _inlets(node).values()]
        del node
        _leave_the_graph()
        return found

    def run(self, count: Callable[[str], int]) -> None:
        """`count` of its type hostile messages into every subscription and service of the node, in random order."""
        remaining: Counter[str] | None = None
        while remaining is None or remaining.total():
            with self._node() as node:
                inlets = self._inlets_now = _inlets(node)
                if remaining is None:
                    remaining = Counter({name: count(inlet.type_name) for name, inlet in inlets.items()})
                self._judge.motion.forget()
                self._driven.begin_life()
                self._live(node, inlets, remaining)
            self._inlets_now = {}
            del node, inlets
            _leave_the_graph()

    def _live(self, node: Node, inlets: dict[str, _Inlet], remaining: Counter[str]) -> None:
        drives = isinstance(node, ChunkExecutorNode)
        for i in range(min(PER_LIFE, remaining.total())):
            if i % VALID_EVERY == 0 and not (drives and self._good):
                self._begin_episode(inlets)
            if drives and i % DRIVE_EVERY == 0:
                self._good |= self._driven.period(node)
            if i % TIMERS_EVERY == 0:
                self._fire_timers(node)
            name = self._rng.choice([name for name, left in remaining.items() if left])
            remaining[name] -= 1
            inlet = inlets[name]
            tally = self._findings.tally(self.spec.name, name, inlet.type_name)
            tally.sent += 1
            message = self._message(inlet, tally)
            if message is not None:
                self._deliver(inlet, message, tally)

    def _message(self, inlet: _Inlet, tally: Tally) -> Any:
        valid = self._good.get(inlet.name)
        valid = inlet.kind() if valid is None else valid
        if self._rng.random() >= BYTES_SHARE:
            message = self._hostile.message(valid)
            return serialize_message(message) if inlet.raw else message
        cdr = self._hostile.cdr(serialize_message(valid))
        if inlet.raw:
            return cdr
        try:
            return deserialize_message(cdr, inlet.kind)
        except (RMWError, MemoryError):
            tally.undecodable += 1
            return None

    def _begin_episode(self, inlets: dict[str, _Inlet]) -> None:
        """Valid messages, so that what is hostile meets a node that works. Crashes here count like others."""
        self._episode += 1
        self._good = self._valid.of_episode(self._episode) | self._devices
        for name, message in [*self._valid.starts(self._good), *self._devices.items()]:
            self._say(name, message)

    def _say(self, name: str, message: Any) -> None:
        """A valid message, if the node takes it."""
        if inlet := self._inlets_now.get(name):
            tally = self._findings.tally(self.spec.name, name, inlet.type_name)
            self._deliver(inlet, serialize_message(message) if inlet.raw else message, tally)

    def _heard(self, node: Node, topic: str, message: Any) -> None:
        """The node publishes: judge it, and let the arms around an executor follow."""
        state = getattr(node, "_state", None) if isinstance(node, ChunkExecutorNode) else None
        if state is not None:
            self._judge.motion.measured(state.q)
        self._judge.publish(self.spec.name, topic, message)
        if not isinstance(node, ChunkExecutorNode):
            return
        if isinstance(message, ChunkRequest):
            self._driven.on_request(message)
        elif topic.endswith(self._valid.robot.command_topics[0]):
            self._driven.on_command(np.array(message.data))
        elif isinstance(message, ExecutedAction):
            source = Source(message.source)
            self._findings.steps[source.name] += 1
            self._findings.steps["clamped"] += bool(source != Source.HOLD and any(message.clamped))

    def _deliver(self, inlet: _Inlet, message: Any, tally: Tally) -> None:
        try:
            result = inlet.call(message)
            if inspect.iscoroutine(result):
                _start(result)
        except Exception as error:
            self._findings.crash(tally, error, message)

    def _fire_timers(self, node: Node) -> None:
        tally = self._findings.tally(self.spec.name, "timers and idle work", "")
        calls: list[Callable[[], Any]] = [timer.callback for timer in node.timers]
        calls += [getattr(node, name) for name in ("work", "work_once") if hasattr(node, name)]
        if isinstance(node, ChunkExecutorNode) and not node.lockstep:
            calls.append(lambda: node.timer_tick(0.0))
        calls.append(lambda: node.executor.spin_once(timeout_sec=0))
        for call in calls:
            tally.sent += 1
            try:
                call()
            except Exception as error:
                self._findings.crash(tally, error, call)

    def _make(self) -> Node:
        if self.spec.name == "chunk_executor":
            return ChunkExecutorNode(lambda: self._driven.now_s)
        return NODES[self.spec.name]()

    @contextmanager
    def _node(self) -> Iterator[Node]:
        arguments = ["-r", f"__node:={self.spec.name}", "--params-file", str(self._parameters), "--log-level", "fatal"]
        rclpy.init(args=["--ros-args", *arguments])
        executor = SingleThreadedExecutor()
        waiting: list[Coroutine] = []
        create_task = executor.create_task

        def create(task: Any, *arguments: Any, **named: Any) -> Any:
            if inspect.iscoroutine(task):
                waiting.append(task)
            return create_task(task, *arguments, **named)

        executor.create_task = create
        node = None
        try:
            node = self._make()
            executor.add_node(node)
            for publisher in node.publishers:
                publisher.publish = lambda m, topic=publisher.topic_name: self._heard(node, topic, m)
            yield node
        finally:
            executor.shutdown(timeout_sec=0)
            for coroutine in waiting:  # what they wait for does not come any more
                coroutine.close()
            if isinstance(node, StatusNode):
                node.leave()  # it draws over what else is printed
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()


@dataclass(frozen=True)
class _Inlet:
    """A way into a node: the callback of a subscription or a service."""

    name: str
    kind: type
    raw: bool
    call: Callable[[Any], Any]

    @property
    def type_name(self) -> str:
        package, group = self.kind.__module__.split(".")[:2]
        return f"{package}/{group}/{self.kind.__name__.removesuffix('_Request')}"


def _inlets(node: Node) -> dict[str, _Inlet]:
    """The subscriptions and services of a node by their names; what rclpy itself makes is left out.

    A service that shares its name with a topic, as the emergency stop's does, has " service" behind it.
    """
    found = {}
    for subscription in node.subscriptions:
        shared = subscription.topic_name == topics.DIAGNOSTICS  # of all robots, whatever their namespace
        name = topics.DIAGNOSTICS if shared else subscription.topic_name.lstrip("/")
        if not subscription.msg_type.__module__.startswith(("rcl_interfaces", "rosgraph_msgs")):
            found[name] = _Inlet(name, subscription.msg_type, subscription.raw, _call_of(subscription))
    for service in node.services:
        kind = service.srv_type
        if not kind.__module__.startswith(("rcl_interfaces", "type_description_interfaces")):
            name = service.srv_name.lstrip("/")
            name = f"{name} service" if name in found else name
            call = lambda request, s=service: s.callback(request, s.srv_type.Response())  # noqa: E731
            found[name] = _Inlet(name, kind.Request, False, call)
    for server in node.waitables:
        if isinstance(server, ActionServer):
            kind = server.action_type.Goal
            found[kind.__name__] = _Inlet(kind.__name__, kind, False, server._goal_callback)
    return found


def _call_of(subscription: Subscription) -> Callable[[Any], Any]:
    """The callback, with facts about a message beside it where it takes them."""
    callback = subscription.callback
    if len(inspect.signature(callback).parameters) == 1:
        return callback
    return lambda message: callback(message, {"source_timestamp": time.time_ns(), "received_timestamp": time.time_ns()})


def _leave_the_graph() -> None:
    """Collect what waiting coroutines and captured publishers hold on to.

    Until then a node that is over stays in the graph, and whoever comes next in this domain finds two of one name.
    """
    gc.collect()


def _start(coroutine: Any) -> None:
    """Run a coroutine to where it waits first; what it waits for does not come here."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()


def page_of(robot: Path, run: Path) -> NodeSpec:
    """The operator page, at a port that is free."""
    parameters = {"robot": str(robot), "run_directory": str(run), "port": 0}
    return NodeSpec("rlt_teleop", "operator_page", "operator_page", parameters)


def graph_nodes(run: Path) -> tuple[list[NodeSpec], list[NodeSpec], ValidMessages]:
    """(every node, those beside the graph and the executor on a timer too; the training graph; valid messages), on an
    untrained VLA."""
    task = prepare(run)
    described = []
    for mode in ("train", "deploy"):
        resolved = resolve(GraphOptions(task=str(task), run=str(run), mode=mode))
        described.append({spec.name: spec for spec in describe(resolved)})
    training, deployed = described
    every = {**deployed, **training}  # the VLA node of deployment asks for a hand-off head
    timer = ticking_by_itself(every["chunk_executor"], on_a_timer(run))
    return (
        [*every.values(), *BESIDE, page_of(resolved.robot_file, run), timer],
        list(training.values()),
        ValidMessages(resolved),
    )


def equipped_nodes(run: Path) -> tuple[list[NodeSpec], ValidMessages]:
    """(nodes, valid messages) of a robot that has all that a robot file can name: force sensors, measured poses,
    drivers that say whether they obey, compressed cameras; and of a SpaceMouse and leader arms."""
    resolved = resolve(GraphOptions(task=str(prepare(run)), robot=str(equipped(run)), run=str(run)))
    specs = {spec.name: spec for spec in describe(resolved)}
    joys = [
        replace(
            specs["joy_operator"],
            parameters={**specs["joy_operator"].parameters, "mapping": str(config_file("joy", mapping))},
        )
        for mapping in MAPPINGS
    ]
    return [specs["chunk_executor"], specs["camera_ingest"], *joys], ValidMessages(resolved)


def equipped(run: Path, transport: str = "compressed") -> Path:
    """The file of such a robot, on a timer."""
    arms = yaml.safe_load(config_file("robots", "sim").read_text(encoding="utf-8"))["arms"]
    sensors = {"max_force": 30.0, "max_torque": 3.0}
    arms = [{**a, "wrench_topic": f"{a['name']}/wrench", "pose_topic": f"{a['name']}/pose", **sensors} for a in arms]
    drivers = [
        {"type": "joint_positions", "topic": "forward_position_controller/commands", "ready_topic": "driver/ready"}
    ]
    return on_a_timer(run, camera={"transport": transport}, arms=arms, drivers=drivers)


def ticking_by_itself(executor: NodeSpec, robot_file: Path) -> NodeSpec:
    """The executor as it runs on a robot."""
    return replace(executor, parameters={**executor.parameters, "robot": str(robot_file), "use_sim_time": False})


def campaign(
    specs: Sequence[NodeSpec],
    valid: ValidMessages,
    count: int,
    seed: int,
    say: Callable[[str], None],
    known: Collection[str] = (),
    part: tuple[int, int] = (0, 1),
) -> Findings:
    """`count` hostile messages of every type into the nodes in `specs`, shared between those that take the type.

    Of the types in `known`, which other nodes get in full, it is one in KNOWN_SHARE. `part` (k, n): only every n-th
    node from the k-th on is worked on, with the share of the whole that it would have.
    """
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="rlt_fuzz_") as folder:
        subjects = [
            Subject(spec, valid, findings, seed + 10 * i, Path(folder) / str(i)) for i, spec in enumerate(specs)
        ]
        takers = Counter(kind for subject in subjects for kind in subject.types())

        def share(kind: str) -> int:
            return -(-(count // KNOWN_SHARE if kind in known else count) // takers[kind])

        gc.freeze()  # a collection after every life of a node looks at what that life made, not at all of torch
        try:
            for subject in subjects[part[0] :: part[1]]:
                sent, crashed = findings.types().total(), findings.crashes.total()
                subject.run(share)
                sent, crashed = findings.types().total() - sent, findings.crashes.total() - crashed
                say(f"{subject.spec.name}: {sent} messages, {crashed} crashes")
        finally:
            gc.unfreeze()
    return findings


def types_of(specs: Sequence[NodeSpec], valid: ValidMessages) -> set[str]:
    """Every type that one of the nodes takes."""
    with tempfile.TemporaryDirectory(prefix="rlt_fuzz_") as folder:
        subjects = [Subject(spec, valid, Findings(), 0, Path(folder) / str(i)) for i, spec in enumerate(specs)]
        return {kind for subject in subjects for kind in subject.types()}


def all_handlers(run: Path, count: int, seed: int, part: tuple[int, int] = (0, 1)) -> Findings:
    """Both campaigns in this process, or a part of them: the graph's nodes, then those of the equipped robot.

    Nodes of other processes are not met: messages go into the callbacks, and another part has nodes of the same names.
    """
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "OFF"
    torch.set_num_threads(1)
    say = lambda words: print(f"fuzz: {words}", flush=True)  # noqa: E731
    every, _, valid = graph_nodes(run)
    findings = campaign(every, valid, count, seed, say, part=part)
    known = types_of(every, valid)
    equipped_specs, own_valid = equipped_nodes(run / "equipped")
    findings.add(campaign(equipped_specs, own_valid, count, seed + 1, say, known, part))
    return findings
