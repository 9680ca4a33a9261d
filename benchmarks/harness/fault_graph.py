"""The running graph under faults: processes that are killed or paused, and a watch that judges every step meanwhile.

The watch is a node of its own that only listens. What it judges is written in `benchmarks/README.md`.
"""

from __future__ import annotations

import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from rlt_bringup.graph import NodeSpec
from rlt_bringup.runner import GraphRunner, RunnerError
from rlt_common import topics
from rlt_common.episode_file import EpisodeFileError, episode_metadata
from rlt_msgs.msg import ActionChunk, ControlState, EpisodeState, ExecutedAction, OperatorEvent, RecorderStatus
from rlt_msgs.srv import ResetEstop

EXECUTOR = "chunk_executor"
CHUNKS_KEPT = 64
PATIENCE_S = 20.0
"""After so long without a step the person beside the robot discards the episode."""
GIVE_UP_S = 120.0
LABELS = {
    EpisodeState.LABEL_SUCCESS: "success",
    EpisodeState.LABEL_FAILURE: "failure",
    EpisodeState.LABEL_TIMEOUT: "timeout",
}
ROUNDING = 1e-6
DRIVEN = (ExecutedAction.SOURCE_VLA, ExecutedAction.SOURCE_RL)


class FaultError(RuntimeError):
    """The graph did not come up or did not go on."""


@dataclass
class Watched:
    """What the watch has seen."""

    steps: int = 0
    episode: int = 0
    """The newest that a step was taken in."""
    commands: int = 0
    last_driven_s: float = 0.0
    """When the newest step that played a chunk was published, s of the machine's clock (`time.time`), as DDS says: when
    the watch gets to it is later on a busy machine."""
    last_human_s: float = 0.0
    """The same of a person's."""
    unlabelled: list[str] = field(default_factory=list)
    """Steps that no chunk of their episode and epoch explains."""
    labelled: dict[int, str] = field(default_factory=dict)
    """Labels that were confirmed: what the operator was told to be safe."""
    refused: set[int] = field(default_factory=set)
    """Labelled episodes that the operator was told to be lost, and so discards."""
    durable: set[int] = field(default_factory=set)
    health: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """What nodes reported as an error, each text once."""


class Watch(Node):
    """Listens to commands, steps, chunks, labels and diagnostics; presses what a person would."""

    def __init__(self) -> None:
        super().__init__("fault_watch")
        self.seen = Watched()
        self._chunks: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
        self._unexplained: OrderedDict[tuple[int, int, int], list[str]] = OrderedDict()
        self.phase = EpisodeState.PHASE_IDLE
        self.estop = False
        self._events = self.create_publisher(OperatorEvent, topics.OPERATOR_EVENT, topics.QOS_EVENT)
        self.chunks_again = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, topics.QOS_CHUNK)
        self._reset = self.create_client(ResetEstop, topics.SERVICE_RESET_ESTOP)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, topics.QOS_CHUNK)
        self.create_subscription(ExecutedAction, topics.EXECUTED_ACTION, self._on_stamped_step, topics.QOS_STREAM)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED_READER)
        self.create_subscription(ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED_READER)
        self.create_subscription(RecorderStatus, topics.RECORDER_STATUS, self._on_recorder, topics.QOS_LATCHED_READER)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_health, topics.QOS_STREAM)
        self.last_chunks: list[ActionChunk] = []
        self.leash_step: np.ndarray | None = None
        """(d,) How far a hold, which asks for nothing, may follow arms that are measured further off than the leash:
        a step. None: not at all, as in lockstep, where they follow at once."""

    def watch_commands(self, topic: str) -> None:
        """Count what reaches the arms."""
        self.create_subscription(Float64MultiArray, topic, self._on_command, topics.QOS_STREAM)

    def discard(self) -> None:
        """A person ends the episode."""
        self._events.publish(OperatorEvent(event=OperatorEvent.EVENT_DISCARD, source="the person beside the robot"))

    def release(self) -> None:
        """A person releases the emergency stop; no answer is waited for."""
        if self._reset.service_is_ready():
            self._reset.call_async(ResetEstop.Request())

    def unexplained(self) -> list[str]:
        """Steps whose chunk never came by, too."""
        return [*self.seen.unlabelled, *(words for waiting in self._unexplained.values() for words in waiting)]

    def _on_command(self, _: Float64MultiArray) -> None:
        self.seen.commands += 1

    def _on_chunk(self, message: ActionChunk) -> None:
        key = (message.episode_id, message.epoch, message.chunk_id)
        self._chunks[key] = np.asarray(message.actions).reshape(-1, max(message.action_dim, 1))
        self._unexplained.pop(key, None)
        while len(self._chunks) > CHUNKS_KEPT:
            self._chunks.popitem(last=False)
        self.last_chunks = [*self.last_chunks[-7:], message]

    def _on_stamped_step(self, message: ExecutedAction, info: Mapping[str, int]) -> None:
        self._on_step(message, info["source_timestamp"] * 1e-9)

    def _on_step(self, message: ExecutedAction, at_s: float) -> None:
        self.seen.steps += 1
        self.seen.episode = max(self.seen.episode, message.episode_id)
        words = f"episode {message.episode_id} step {message.step} source {message.source}"
        if message.source in DRIVEN:
            self.seen.last_driven_s = at_s
            key = (message.episode_id, message.epoch, message.chunk_id)
            if key not in self._chunks:
                # The chunk may come by after the step; it must come.
                self._unexplained.setdefault(key, []).append(f"{words}: no such chunk")
            elif not np.array_equal(self._chunks[key][message.row], np.asarray(message.commanded)):
                self.seen.unlabelled.append(f"{words}: not row {message.row} of its chunk")
        elif message.source == ExecutedAction.SOURCE_HUMAN:
            self.seen.last_human_s = at_s
        elif message.source == ExecutedAction.SOURCE_HOLD and self._moves(message):
            self.seen.unlabelled.append(f"{words}: moved while holding, by up to {np.abs(message.action).max():.2g}")

    def _moves(self, hold: ExecutedAction) -> bool:
        """Whether a hold asks for motion, or is more of it than limits may make: see `leash_step`."""
        if self.leash_step is None or np.any(hold.commanded):
            return bool(np.any(hold.action))
        return bool((np.abs(hold.action) > self.leash_step + ROUNDING).any())

    def _on_episode(self, message: EpisodeState) -> None:
        self.phase = message.phase
        if message.confirmation == EpisodeState.CONFIRMATION_LOST:
            self.seen.refused.add(message.episode_id)
        elif message.confirmation == EpisodeState.CONFIRMATION_DONE and message.label in LABELS:
            self.seen.labelled[message.episode_id] = LABELS[message.label]

    def _on_control(self, message: ControlState) -> None:
        self.estop = message.estop

    def _on_recorder(self, message: RecorderStatus) -> None:
        if message.durable:
            self.seen.durable.add(message.episode_id)

    def _on_health(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.seen.health[status.name] = status.message
            words = f"{status.name}: {status.message}"
            if status.level == status.ERROR and words not in self.seen.errors:
                self.seen.errors.append(words)


class FaultyGraph:
    """A graph that runs episode after episode, with the watch beside it. Use as a context manager.

    Args:
        nodes: of the graph; the scripted operator begins the episodes.
        run: the run directory.
        command_topic: of the arms.
        logs: where the nodes' logs go; None: into the run directory.
        runner: what starts the processes.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        run: Path,
        command_topic: str,
        logs: Path | None = None,
        runner: type[GraphRunner] = GraphRunner,
    ) -> None:
        self.nodes, self.run = list(nodes), run
        self._command_topic = command_topic
        self.runner = runner(self.nodes, logs or run / "log")
        self.discards = 0
        self.stood: list[str] = []
        """Why the arms stood when the person discarded an episode, as nodes said it."""

    def __enter__(self) -> FaultyGraph:
        rclpy.init()
        self.watch = Watch()
        self.watch.watch_commands(self._command_topic)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.watch)
        self.runner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.stop()
        self.executor.shutdown()
        self.watch.destroy_node()
        rclpy.try_shutdown()

    @property
    def seen(self) -> Watched:
        """What the watch has seen so far."""
        return self.watch.seen

    def spin(self, seconds: float) -> None:
        """Listen, and restart what died and may be respawned."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)
            self.poll()

    def poll(self) -> None:
        """As the launch does; the executor is nobody's to restart but the operator's."""
        try:
            self.runner.poll()
        except RunnerError as error:
            if not str(error).startswith(EXECUTOR):
                raise

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Listen until the condition holds; False when it did not in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.spin(0.1)
        return True

    def until_moving(self, moved: Callable[[], float] | None = None) -> float:
        """Seconds until a new step was executed; a person helps as one would. Raises FaultError after two minutes.

        `moved`: what changes with a step that counts; by default every step does, as in lockstep, where none is idle.
        """
        moved = moved or (lambda: self.seen.steps)
        begun, last, pressed = time.monotonic(), moved(), time.monotonic()
        while moved() == last:
            now = time.monotonic()
            if now - begun > GIVE_UP_S:
                raise FaultError(f"no step for {GIVE_UP_S:g} s: {self.seen.health}")
            if self.watch.estop:
                self.watch.release()
            if now - pressed > PATIENCE_S:
                self.watch.discard()
                self.discards += 1
                self.stood.append(str({n: self.seen.health.get(n) for n in (EXECUTOR, "episode_manager", "sim_robot")}))
                print(f"faults: no step for {PATIENCE_S:g} s: {self.stood[-1]}", flush=True)
                pressed = now
            self.spin(0.1)
        return time.monotonic() - begun

    def kill(self, name: str) -> int:
        """SIGKILL. Returns the process id that is gone."""
        pid = self.runner.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP for so long."""
        os.kill(self.runner.pid(name), signal.SIGSTOP)
        try:
            self.spin(seconds)
        finally:
            os.kill(self.runner.pid(name), signal.SIGCONT)

    def lost(self) -> list[str]:
        """Episodes whose labels were confirmed and that have no whole file that says so."""
        missing = []
        for episode_id, label in sorted(self.seen.labelled.items()):
            path = self.run / "episodes" / f"{episode_id:06d}.mcap"
            try:
                found = episode_metadata(path).get("label")
            except EpisodeFileError as error:
                missing.append(f"episode {episode_id} ({label}): {error}")
                continue
            if found != label:
                missing.append(f"episode {episode_id}: labelled {label}, its file says {found}")
        return missing
