"""Plays a recorded episode back through the VLA node and the policy node, and compares their answers with it.

`ros2 run rlt_bringup replay --bag <run>/episodes/000012.mcap --run <run>`. Both nodes run as processes of their own, in
a namespace of their own, so a robot on the same network hears nothing of it. Exit status: 0 when everything came back
as it has to (see replay_plan), 1 when something did not, 2 for an episode, checkpoint or seed that does not fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from rlt_bringup.graph import GraphOptions, NodeSpec, replayed, resolve
from rlt_bringup.process_environment import set_defaults
from rlt_bringup.replay_plan import (
    TOPICS,
    Await,
    Comparison,
    Publish,
    Recording,
    ReplayError,
    compare,
    format_comparison,
    gather,
    plan,
)
from rlt_bringup.runner import GraphRunner, RunnerError
from rlt_bringup.security import REPLAY, REPLAY_NAMESPACE, secured, with_identity
from rlt_common import topics
from rlt_common.atomic import write_atomic
from rlt_common.config import config_hash, load_robot, recorded_name
from rlt_common.episode_file import EpisodeFileError, episode_metadata, read_messages
from rlt_common.parameters import ParameterError
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
from rlt_rl_node import checkpoint as learner_checkpoint
from rlt_rl_node.actor_codec import PolicyWeights
from rlt_rl_node.messages import actor_message
from rlt_vla_node.checkpoint import CheckpointError, read_config
from rlt_vla_node.inference import noise_seed

READY_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0
REPEAT_S = 1.0
TRIED_SEEDS = 100_000
SUFFIX = ".replay.json"


@dataclass(frozen=True)
class Replay:
    """An episode with everything it is played back with."""

    recording: Recording
    nodes: Sequence[NodeSpec]
    actor: PolicyWeights | None
    notes: Sequence[str]

    @property
    def actor_version(self) -> int:
        """Version of the actor at hand; 0 for none."""
        return self.actor.version if self.actor else 0


def prepare(
    bag: Path,
    run: Path,
    *,
    checkpoint: str = "",
    actor: str = "",
    robot: str = "",
    task: str = "",
    seed: int | None = None,
) -> Replay:
    """Read the episode and find what belongs to it.

    Args:
        bag: the episode file.
        run: its run directory.
        checkpoint: frozen VLA and RL token; empty: <run>/vla.
        actor: a checkpoint of the learner; empty: the one in <run>/checkpoints with the recorded actor version.
        robot, task: names or files; empty: as recorded.
        seed: run seed; None: found from the recorded noise seeds.

    Raises ReplayError, EpisodeFileError, ParameterError or CheckpointError, each with what does not fit.
    """
    facts = episode_metadata(bag)
    recorded_id = facts.get("episode_id", "")
    recording = gather(read_messages(bag, TOPICS), int(recorded_id) if recorded_id.isdecimal() else None)
    run_seed = _run_seed(recording, seed)
    resolved = resolve(
        GraphOptions(
            robot=robot or recorded_name(bag, facts, "robot", "sim"),
            task=task or recorded_name(bag, facts, "task", "screw"),
            mode="eval",
            run=str(run),
            checkpoint=checkpoint,
            seed=run_seed,
        )
    )
    vla_hash = read_config(resolved.checkpoint)["hash"]
    if recording.vla_hashes != {vla_hash}:
        raise ReplayError(
            f"{bag} was recorded with VLA {', '.join(sorted(recording.vla_hashes))}, {resolved.checkpoint} is "
            f"{vla_hash}: give the VLA checkpoint of that run with --checkpoint"
        )
    notes = []
    own = config_hash(load_robot(resolved.robot_file), resolved.task)
    if facts.get("config_hash", own) != own:
        notes.append(f"robot or task file changed since the recording: {facts['config_hash']} then, {own} now")
    found = _find_actor(recording, Path(actor) if actor else None, resolved.run / "checkpoints", vla_hash)
    return Replay(recording, replayed(resolved), found, notes)


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

    def play(self, replay: Replay) -> None:
        """Publish an episode, each request after the answer to the one before. Raises ReplayError without an answer."""
        if replay.actor is not None:
            self._publishers_of[topics.ACTOR].publish(actor_message(replay.actor, 0))
        for step in plan(replay.recording, replay.actor_version):
            if isinstance(step, Publish):
                self._publishers_of[step.topic].publish(step.message)
            else:
                self._await(step)
        # Those that do not come back are told by the comparison.
        self._spin_until(lambda: replay.recording.strided.keys() <= self.strided.keys(), ANSWER_TIMEOUT_S)

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
            self._executor.spin_once(timeout_sec=0.1)
            self._poll()
        return True

    def _on_output(self, message: VlaOutput) -> None:
        if message.is_boundary:
            self.outputs[message.request_id] = message
        else:
            self.strided[message.observation_id] = message

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunks[message.chunk_id] = message


def play(replay: Replay) -> Comparison:
    """Start both nodes, play the episode, stop them. Raises ReplayError or RunnerError with the end of their logs."""
    # With SROS2 the nodes' identities have the namespace in them, so it is always the same: one replay at a time.
    namespace = REPLAY_NAMESPACE if secured() else f"replay_{os.getpid()}"
    rclpy.init(args=with_identity(sys.argv, REPLAY, namespace), signal_handler_options=SignalHandlerOptions.NO)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="rlt_replay_") as folder,
            GraphRunner(replay.nodes, Path(folder), namespace) as runner,
        ):
            player = Player(runner.poll, namespace)
            try:
                player.wait_until_ready()
                player.play(replay)
            except ReplayError as error:
                logs = "\n".join(runner.log_end(node.name) for node in replay.nodes)
                raise ReplayError(f"{error}\n{logs}") from error
            finally:
                player.close()
    finally:
        rclpy.try_shutdown()
    found = compare(replay.recording, player.outputs, player.strided, player.chunks, replay.actor_version)
    return dataclasses.replace(found, notes=(*replay.notes, *found.notes))


def document(bag: Path, replay: Replay, comparison: Comparison) -> dict[str, object]:
    """The comparison as plain data, every message of it."""
    return {
        "bag": str(bag),
        "episode_id": replay.recording.episode_id,
        "vla_hash": next(iter(replay.recording.vla_hashes)),
        "actor_version": replay.actor_version,
        "equal": comparison.equal,
        "notes": list(comparison.notes),
        "messages": [dataclasses.asdict(row) for row in comparison.rows],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup replay`."""
    parser = argparse.ArgumentParser(prog="replay", description="play a recorded episode back and compare the answers")
    parser.add_argument("--bag", type=Path, required=True, help="episode file, <run>/episodes/<id>.mcap")
    parser.add_argument("--run", type=Path, help="run directory (default: two folders above the episode file)")
    parser.add_argument("--checkpoint", default="", help="frozen VLA and RL token (default: <run>/vla)")
    parser.add_argument(
        "--actor", default="", help="checkpoint of the learner (default: the one in <run>/checkpoints that fits)"
    )
    parser.add_argument("--robot", default="", help="robot name or file (default: as recorded)")
    parser.add_argument("--task", default="", help="task name or file (default: as recorded)")
    parser.add_argument("--seed", type=int, help="run seed (default: found from the recorded noise seeds)")
    parser.add_argument(
        "--output", nargs="?", const="", help=f"also write every message's comparison (default: <id>{SUFFIX} beside)"
    )
    options = parser.parse_args(arguments)
    set_defaults()
    try:
        replay = prepare(
            options.bag,
            options.run or options.bag.resolve().parent.parent,
            checkpoint=options.checkpoint,
            actor=options.actor,
            robot=options.robot,
            task=options.task,
            seed=options.seed,
        )
        comparison = play(replay)
        print(format_comparison(comparison))
        if options.output is not None:
            path = Path(options.output) if options.output else options.bag.with_suffix(SUFFIX)
            write_atomic(path, (json.dumps(document(options.bag, replay, comparison), indent=1) + "\n").encode())
            print(f"written: {path}")
    except (
        ReplayError,
        EpisodeFileError,
        ParameterError,
        CheckpointError,
        learner_checkpoint.CheckpointError,
        RunnerError,
        OSError,
    ) as error:
        print(f"replay: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    if not comparison.equal:
        print("NOT the same")
    else:
        print("the same, apart from what the notes say" if comparison.notes else "the same")
    sys.exit(0 if comparison.equal else 1)


def _run_seed(recording: Recording, given: int | None) -> int:
    """The run seed that the recorded flow noise was drawn with. Raises ReplayError."""
    output = next(iter(recording.boundaries.values()))
    for seed in range(TRIED_SEEDS) if given is None else (given,):
        if noise_seed(seed, output.episode_id, output.observation_id) == output.noise_seed:
            return seed
    if given is not None:
        raise ReplayError(f"the episode was recorded with another run seed than {given}: leave --seed out to find it")
    raise ReplayError(f"the run seed is none of 0 to {TRIED_SEEDS - 1}: give it with --seed")


def _find_actor(recording: Recording, given: Path | None, folder: Path, vla_hash: str) -> PolicyWeights | None:
    """The actor with a version that refined chunks of this episode; None when there is no such, or none is needed."""
    versions = recording.policy_versions
    candidates = [given] if given else sorted(p for p in folder.glob("*") if (p / learner_checkpoint.STATE).is_file())
    if not versions:
        return None
    for path in candidates:
        actor = learner_checkpoint.load_actor(path)
        if actor.version in versions and actor.vla_hash == vla_hash:
            return actor
        if given and actor.vla_hash != vla_hash:
            raise ReplayError(f"actor {path} was trained on VLA {actor.vla_hash}, the episode is of {vla_hash}")
    return None


if __name__ == "__main__":
    main()
