"""Node tests over real DDS: the node under test is a process of its own, everything around it is this one node.

Each graph has a namespace of its own, so tests do not meet each other.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from ament_index_python.packages import get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message

from rlt_common import topics
from rlt_common.codecs import floats, to_time
from rlt_common.episode_file import EpisodeWriter
from rlt_msgs.msg import (
    ActionChunk,
    ActorParameters,
    ChunkRequest,
    ControlState,
    EpisodeState,
    ExecutedAction,
    Relabel,
    TrainingStatus,
    VlaOutput,
)
from rlt_rl_node.learner import TaskShape
from rlt_rl_node.records import EpisodeData, Label

PERIOD = 20_000_000
DIM, TOKEN, STATE, HORIZON, CHUNK = 7, 3, 2, 8, 4
HASH = "0123456789abcdef"
SPREAD = np.linspace(0.5, 2.0, DIM).astype(np.float32)
START_TIMEOUT_S = 60.0
_numbers = itertools.count()


def write_files(folder: Path, tick: str = "joint_states", vla_hash: str = HASH) -> dict[str, str]:
    """A one-armed robot, a task and the facts of a VLA checkpoint; returns the node parameters that name them."""
    (folder / "arms.xml").write_text("<mujoco/>")
    (folder / "vla").mkdir(exist_ok=True)
    robot = {
        "name": "tiny",
        "tick": tick,
        "drivers": [{"type": "joint_positions", "topic": "commands"}],
        "kinematics": "arms.xml",
        "joint_names": ["j", "g"],
        "arms": [
            {
                "name": "left",
                "joints": ["j"],
                "gripper": "g",
                "tip": "tip",
                "home_position": [0.0, 0.0, 0.0],
                "home_rotation": [0.0, 0.0, 0.0],
                "workspace_min": [-1.0, -1.0, -1.0],
                "workspace_max": [1.0, 1.0, 1.0],
            }
        ],
        "cameras": [{"name": "base", "topic": "image", "width": 8, "height": 8}],
    }
    task = {
        "name": "tiny",
        "instruction": "do it",
        "vla_state": ["joint_position"],
        "rl_state": ["joint_position"],
        "max_base_steps": 50,
        "max_critical_steps": 100,
        "horizon": HORIZON,
        "chunk_length": CHUNK,
        "execute_steps": CHUNK,
        "stride": 2,
    }
    config = {"hash": vla_hash, "statistics": {"action_spread": SPREAD.tolist()}, "token": {"token_dim": TOKEN}}
    # JSON is YAML.
    (folder / "robot.yaml").write_text(json.dumps(robot))
    (folder / "task.yaml").write_text(json.dumps(task))
    (folder / "vla" / "config.json").write_text(json.dumps(config))
    return {
        "robot": str(folder / "robot.yaml"),
        "task": str(folder / "task.yaml"),
        "vla_checkpoint": str(folder / "vla"),
    }


def task_shape() -> TaskShape:
    """What :func:`write_files` describes, for a learner in this process."""
    limit = np.array([0.005] * 3 + [0.05] * 3 + [0.005])
    return TaskShape(TOKEN, STATE, CHUNK, 2, SPREAD, limit, HASH)


def episode_data(episode_id: int, length: int = 24, label: Label = Label.SUCCESS, start: int = 0) -> EpisodeData:
    """Noise, seeded by the id."""
    rng = np.random.default_rng(episode_id)
    encoded = np.arange(start, start + length, 2)

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return EpisodeData(
        episode_id=episode_id,
        label=label,
        delay=0,
        steps=np.arange(start, start + length),
        sources=rng.choice([1, 2, 3], length).astype(np.uint8),
        actions=noise(length, DIM),
        encoded_steps=encoded,
        boundary=encoded % 4 == 0,
        rl_tokens=noise(len(encoded), TOKEN),
        rl_states=noise(len(encoded), STATE),
        references=noise(len(encoded), HORIZON, DIM),
    )


def stamp(episode_id: int, step: int) -> Any:
    return to_time(episode_id * 1_000_000_000_000 + step * PERIOD)


def vla_output(data: EpisodeData, i: int, request_id: int = 0) -> VlaOutput:
    """Encoding `i` of an episode as the VLA node publishes it."""
    message = VlaOutput(
        observation_id=data.episode_id * 1000 + i,
        episode_id=data.episode_id,
        epoch=1,
        request_id=request_id,
        is_boundary=bool(data.boundary[i]),
        rl_token=floats(data.rl_tokens[i]),
        rl_state=floats(data.rl_states[i]),
        horizon=HORIZON,
        action_dim=DIM,
        reference=floats(data.references[i]),
        vla_hash=HASH,
    )
    message.header.stamp = stamp(data.episode_id, int(data.encoded_steps[i]))
    return message


def executed_action(data: EpisodeData, i: int) -> ExecutedAction:
    """Control step `i` of an episode as the executor publishes it."""
    message = ExecutedAction(
        episode_id=data.episode_id,
        epoch=1,
        step=int(data.steps[i]),
        phase=EpisodeState.PHASE_CRITICAL,
        source=int(data.sources[i]),
        action=floats(data.actions[i]),
    )
    message.header.stamp = stamp(data.episode_id, int(data.steps[i]))
    return message


def episode_state(data: EpisodeData, ended: bool, **changes: Any) -> EpisodeState:
    """The episode manager's state during or after an episode."""
    values = {
        "episode_id": data.episode_id,
        "epoch": 2 if ended else 1,
        "phase": EpisodeState.PHASE_LABELLED if ended else EpisodeState.PHASE_CRITICAL,
        "purpose": EpisodeState.PURPOSE_TRAIN,
        "driver": EpisodeState.DRIVER_RL,
        "label": int(data.label) if ended else 0,
        "handoff_step": int(data.steps[0]),
        "confirmation": EpisodeState.CONFIRMATION_DONE if ended else EpisodeState.CONFIRMATION_PENDING,
    }
    return EpisodeState(**{**values, **changes})


def episode_messages(data: EpisodeData, **state: Any) -> list[tuple[str, Any]]:
    """Everything the graph says about an episode, in order."""
    said: list[tuple[str, Any]] = [(topics.EPISODE_STATE, episode_state(data, False, **state))]
    encoded = {int(step): i for i, step in enumerate(data.encoded_steps)}
    for i, step in enumerate(data.steps.tolist()):
        if step in encoded:
            said.append((topics.VLA_OUTPUT, vla_output(data, encoded[step])))
        said.append((topics.EXECUTED_ACTION, executed_action(data, i)))
    said.append((topics.EPISODE_STATE, episode_state(data, True, **state)))
    return said


def write_journal(
    folder: Path,
    data: EpisodeData,
    drop: Callable[[Any], bool] = lambda message: False,
    facts: dict | None = None,
    messages: list | None = None,
    configuration: dict[str, str] | None = None,
) -> Path:
    """An episode file in `folder` as the recorder leaves it."""
    path = folder / f"{data.episode_id:06d}.mcap"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = EpisodeWriter(path)
    for i, (topic, message) in enumerate(messages or episode_messages(data)):
        if not drop(message):
            writer.write(topic, f"rlt_msgs/msg/{type(message).__name__}", serialize_message(message), i)
    writer.finish(facts or {"episode_id": str(data.episode_id)}, configuration)
    return path


class Graph:
    """One node that stands for the rest of the graph, and the processes under test. Use as a context manager."""

    def __init__(self, folder: Path, namespace: str = "") -> None:
        self.folder = folder
        self.namespace = namespace or f"/rl_test_{os.getpid()}_{next(_numbers)}"
        self.node = rclpy.create_node("rest", namespace=self.namespace)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.processes: list[subprocess.Popen] = []
        self.chunks: list[ActionChunk] = []
        self.actors: list[ActorParameters] = []
        self.status = TrainingStatus()
        self.health: dict[str, tuple[int, str]] = {}
        queue = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        publish = self.node.create_publisher
        self.publishers = {
            topics.EXECUTED_ACTION: publish(ExecutedAction, topics.EXECUTED_ACTION, queue),
            topics.VLA_OUTPUT: publish(VlaOutput, topics.VLA_OUTPUT, queue),
            topics.EPISODE_STATE: publish(EpisodeState, topics.EPISODE_STATE, topics.QOS_LATCHED),
            topics.CONTROL_STATE: publish(ControlState, topics.CONTROL_STATE, topics.QOS_LATCHED),
            topics.CHUNK_REQUEST: publish(ChunkRequest, topics.CHUNK_REQUEST, queue),
            topics.RELABEL: publish(Relabel, topics.RELABEL, topics.QOS_RELABEL),
            topics.ACTOR: publish(ActorParameters, topics.ACTOR, topics.QOS_LATCHED),
        }
        self.node.create_subscription(ActionChunk, topics.ACTION_CHUNK, self.chunks.append, topics.QOS_CHUNK)
        self.node.create_subscription(ActorParameters, topics.ACTOR, self.actors.append, topics.QOS_LATCHED)
        self.node.create_subscription(TrainingStatus, topics.TRAINING_STATUS, self._on_status, topics.QOS_LATCHED)
        self.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_health, topics.QOS_STREAM)

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            self.stop(process)
        self.executor.shutdown()
        self.node.destroy_node()

    def run(self, executable: str, parameters: dict[str, Any]) -> subprocess.Popen:
        """Start a node of this package; its output goes to <executable>.log."""
        path = Path(get_package_prefix("rlt_rl_node")) / "lib" / "rlt_rl_node" / executable
        arguments = ["--ros-args", "-r", f"__ns:={self.namespace}"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]
        with open(self.folder / f"{executable}.log", "a") as log:
            process = subprocess.Popen([str(path), *arguments], stdout=log, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def stop(self, process: subprocess.Popen, by: int = signal.SIGINT) -> None:
        """End a process under test."""
        if process.poll() is None:
            process.send_signal(by)
        process.wait(timeout=20)

    def spin_until(self, reached: Callable[[], Any], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Handle messages until `reached()`; fails naming `what`, with the logs of the nodes."""
        end = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > end:
                logs = "\n".join(p.read_text()[-3000:] for p in self.folder.glob("*.log"))
                raise AssertionError(f"waited {timeout_s} s for {what}; status {self.status}\n{logs}")
            self.executor.spin_once(timeout_sec=0.05)

    def spin_for(self, seconds: float) -> None:
        """Handle messages for a while: to see that something does NOT come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def connected(self, topic: str) -> bool:
        """Whether a node under test listens to `topic`."""
        return self.publishers[topic].get_subscription_count() > (topic == topics.ACTOR)

    def publish(self, topic: str, message: Any) -> None:
        self.publishers[topic].publish(message)

    def play(self, data: EpisodeData, **state: Any) -> None:
        """Publish a whole episode with its end."""
        for topic, message in episode_messages(data, **state):
            self.publish(topic, message)
        self.end_control(data)

    def end_control(self, data: EpisodeData) -> None:
        """The executor says that it has stopped."""
        ended = ControlState(
            episode_id=data.episode_id, epoch=2, phase=EpisodeState.PHASE_LABELLED, step=int(data.steps[-1]) + 1
        )
        self.publish(topics.CONTROL_STATE, ended)

    def _on_status(self, message: TrainingStatus) -> None:
        self.status = message

    def _on_health(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(self.namespace.lstrip("/")):
                self.health[status.name.rpartition("/")[2]] = int.from_bytes(status.level, "little"), status.message
