"""An episode file with everything it is played back with: nodes, seed, actor, critics. No ROS but its messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlt_bringup.graph import GraphOptions, NodeSpec, replayed, resolve
from rlt_bringup.replay_plan import TOPICS, Judgement, Recording, ReplayError, critical, gather
from rlt_common.config import (
    RobotConfig,
    TaskConfig,
    config_file,
    config_hash,
    kinematics_hash,
    load_robot,
    load_task,
    shipped_file,
)
from rlt_common.episode_file import episode_metadata, read_messages
from rlt_common.parameters import ParameterError
from rlt_common.recorded_config import named_file, robot_in, task_in, write_robot, write_task
from rlt_rl_node import checkpoint as learner_checkpoint
from rlt_rl_node.actor_codec import PolicyWeights, pack
from rlt_rl_node.chunk_value import ChunkValue, load_value
from rlt_rl_node.frozen_models import read_frozen_models
from rlt_vla_node.checkpoint import read_config
from rlt_vla_node.inference import noise_seed

TRIED_SEEDS = 100_000


@dataclass(frozen=True)
class Wanted:
    """What a person asked for beside the episode; see the command line of `replay`."""

    run: Path | None = None
    checkpoint: str = ""
    actor: str = ""
    robot: str = ""
    task: str = ""
    seed: int | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Replay:
    """An episode with everything it is played back with.

    Attributes:
        bag, facts, recording: the episode file, its metadata and its messages.
        nodes, robot, task: what runs, and for what.
        actor: refines, under a version that was recorded; None: nothing is refined.
        judgement: how what comes back is compared.
        spread: (d,) of the demonstrations' actions, robot units: the unit of distances.
        values: critics by their name; those of the recorded actor first.
        notes: what a person should know.
    """

    bag: Path
    facts: Mapping[str, str]
    recording: Recording
    nodes: Sequence[NodeSpec]
    robot: RobotConfig
    task: TaskConfig
    actor: PolicyWeights | None
    judgement: Judgement
    spread: np.ndarray
    values: Mapping[str, ChunkValue]
    notes: Sequence[str]


def prepare(bag: Path, wanted: Wanted, scratch: Path) -> Replay:
    """Read the episode and find what belongs to it.

    `scratch`: folder for the robot and task files that the episode holds; the nodes of what is returned read them.

    Raises ReplayError, EpisodeFileError, ParameterError, CheckpointError or FrozenModelsError, each with what does not
    fit.
    """
    facts = episode_metadata(bag)
    files = _files(bag, facts, wanted, scratch)
    recorded_id = facts.get("episode_id", "")
    recording = gather(read_messages(bag, TOPICS), int(recorded_id) if recorded_id.isdecimal() else None)
    run_seed = _run_seed(recording, wanted.seed)
    resolved = resolve(
        GraphOptions(
            robot=str(files.robot),
            task=str(files.task),
            mode="eval",
            run=str(wanted.run or bag.resolve().parent.parent),
            checkpoint=wanted.checkpoint,
            seed=run_seed,
        )
    )
    robot = load_robot(resolved.robot_file)
    _check_robot(recording, robot)
    vla_hash = read_config(resolved.checkpoint)["hash"]
    another_vla = recording.vla_hashes != {vla_hash}
    if another_vla and not wanted.checkpoint:
        raise ReplayError(
            f"{bag} was recorded with VLA {', '.join(sorted(recording.vla_hashes))}, {resolved.checkpoint} is "
            f"{vla_hash}: give the VLA checkpoint of that run with --checkpoint"
        )
    notes = list(files.notes)
    if another_vla:
        notes.append(f"recorded with VLA {', '.join(sorted(recording.vla_hashes))}, played with {vla_hash}: not judged")
    found = _Actors(recording, resolved.run / "checkpoints", vla_hash, another_vla)
    actor, judgement = found.choose(Path(wanted.actor) if wanted.actor else None)
    return Replay(
        bag=bag,
        facts=facts,
        recording=recording,
        nodes=replayed(resolved),
        robot=robot,
        task=resolved.task,
        actor=actor,
        judgement=replace(judgement, tolerance=wanted.tolerance, another_vla=another_vla),
        spread=read_frozen_models(resolved.checkpoint, robot.action_dim).action_spread,
        values=found.values,
        notes=(*notes, *found.notes),
    )


@dataclass(frozen=True)
class _Files:
    """Robot and task file that the nodes are to read, and what a person should know of them."""

    robot: Path
    task: Path
    notes: Sequence[str]


def _files(bag: Path, facts: Mapping[str, str], wanted: Wanted, scratch: Path) -> _Files:
    """What was asked for; else as recorded: the shipped files where they say the same, else out of the episode's file.

    Files of before the texts were kept only name them. Raises ParameterError saying what to give.
    """
    robot, task = None if wanted.robot else robot_in(bag), None if wanted.task else task_in(bag)
    folder, notes = scratch / config_hash(robot, task), []
    robot_file = (
        _robot_file(bag, facts, robot, folder, notes) if robot else named_file(bag, facts, "robot", wanted.robot, "sim")
    )
    task_file = _task_file(bag, task, folder) if task else named_file(bag, facts, "task", wanted.task, "screw")
    if robot is None or task is None:
        own = config_hash(robot or load_robot(robot_file), task or load_task(task_file))
        if facts.get("config_hash", own) != own:
            notes.append(f"robot or task file changed since the recording: {facts['config_hash']} then, {own} now")
    return _Files(robot_file, task_file, notes)


def _robot_file(bag: Path, facts: Mapping[str, str], robot: RobotConfig, folder: Path, notes: list[str]) -> Path:
    """The recorded robot's file. Of its kinematics model only the name counts, of a shipped one: an episode's file may
    not name a path. It is taken if it is the recorded model by the hash in the facts, which older files lack."""
    shipped = _shipped("robots", robot, load_robot)
    kinematics = config_file("robots", "sim").resolve().parent / Path(robot.kinematics).name
    if not kinematics.is_file():
        raise ParameterError(
            f"{bag} holds its robot file, but not the model of the arms that it names, {robot.kinematics}: give the "
            "robot file with --robot"
        )
    recorded = facts.get("kinematics_hash", "")
    if recorded and recorded != kinematics_hash(replace(robot, folder="", kinematics=str(kinematics))):
        raise ParameterError(
            f"{bag} was recorded with another model of the arms, {robot.kinematics}, than the shipped "
            f"{kinematics.name}, and does not hold it: give the robot file with --robot"
        )
    if shipped:
        return shipped
    if not recorded:
        notes.append(
            f"the model of the arms, {kinematics.name}, is the shipped one: the episode holds the robot file alone; "
            "where yours is another, give the robot file with --robot"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "robot.yaml"
    write_robot(bag, path, kinematics)
    return path


def _shipped(kind: str, recorded: RobotConfig | TaskConfig, load: Callable[[Path], Any]) -> Path | None:
    """The shipped file of the recorded one's name, if it says the same."""
    path = shipped_file(kind, recorded.name)
    return path if path and config_hash(load(path)) == config_hash(recorded) else None


def _task_file(bag: Path, task: TaskConfig, folder: Path) -> Path:
    if shipped := _shipped("tasks", task, load_task):
        return shipped
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "task.yaml"
    write_task(bag, path)
    return path


class _Actors:
    """The checkpoints of the learner that an episode has to do with."""

    def __init__(self, recording: Recording, folder: Path, vla_hash: str, another_vla: bool) -> None:
        self._recording, self._vla_hash = recording, vla_hash
        self._folders = sorted(p for p in folder.glob("*") if (p / learner_checkpoint.STATE).is_file())
        self._another_vla = another_vla
        self.values: dict[str, ChunkValue] = {}
        self.notes: list[str] = []

    def choose(self, given: Path | None) -> tuple[PolicyWeights | None, Judgement]:
        """The actor that is to refine, under the version that was recorded, and what is judged of it.

        Raises ReplayError or CheckpointError for one that was given and cannot act here.
        """
        versions = self._recording.policy_versions
        own_path, own = self._own(versions)
        self._judge_by(own_path or (self._folders[-1] if self._folders else None), "the run's critic")
        if given is None:
            if own and self._another_vla:
                self.notes.append(
                    "the run's actor was trained on the recorded VLA: it cannot refine another one's chunks"
                )
                own = None
            return own, Judgement(own.version if own else 0)
        actor = learner_checkpoint.load_actor(given)
        if actor.vla_hash != self._vla_hash:
            raise ReplayError(
                f"actor {given} was trained on VLA {actor.vla_hash}, the episode is played with {self._vla_hash}"
            )
        if actor.version == 0:
            raise ReplayError(f"actor {given} was written in warm-up: it holds no trained actor")
        same = pack(own) == pack(actor) if own else actor.version in versions
        if same:
            return actor, Judgement(actor.version)
        self._judge_by(given, f"the critic of {given.name}")
        rl_drives = not versions and any(critical(self._recording, s.epoch) for s in self._recording.states)
        named = max((state.actor_version for state in self._recording.states), default=0)
        version = max(max(versions, default=0), named, 1)
        what = f"actor {given} (version {actor.version}) stands for "
        self.notes.append(what + (f"version {version}" if versions else "the VLA, which drove") + ": not judged")
        acting = replace(actor, version=version)
        return acting, Judgement(version, another_actor=True, rl_drives=rl_drives)

    def _own(self, versions: set[int]) -> tuple[Path | None, PolicyWeights | None]:
        """The run's checkpoint whose actor refined chunks of this episode."""
        for path in self._folders if versions else ():
            actor = learner_checkpoint.load_actor(path)
            if actor.version in versions and actor.vla_hash in self._recording.vla_hashes:
                return path, actor
        return None, None

    def _judge_by(self, path: Path | None, name: str) -> None:
        """Add the critics of a checkpoint, if it has trained ones that know this VLA."""
        if path is None or learner_checkpoint.load_actor(path).version == 0:
            return
        value = load_value(path)
        if value.vla_hash in (self._vla_hash, *self._recording.vla_hashes):
            self.values[f"{name} ({path.name})" if path.name not in name else name] = value


def _check_robot(recording: Recording, robot: RobotConfig) -> None:
    """Raise ReplayError for a robot whose actions or joints are not those of the recording."""
    for executed in recording.executed[:1]:
        names, dim = tuple(executed.joint_names), len(executed.action)
        if (names and names != robot.joint_names) or (dim and dim != robot.action_dim):
            raise ReplayError(
                f"robot {robot.name} has {len(robot.joint_names)} joints and actions of {robot.action_dim} values, the "
                f"recording {len(names)} and {dim}, or other names: give a robot file of the same arms with --robot"
            )


def _run_seed(recording: Recording, given: int | None) -> int:
    """The run seed that the recorded flow noise was drawn with. Raises ReplayError."""
    output = next(iter(recording.boundaries.values()))
    for seed in range(TRIED_SEEDS) if given is None else (given,):
        if noise_seed(seed, output.episode_id, output.observation_id) == output.noise_seed:
            return seed
    if given is not None:
        raise ReplayError(f"the episode was recorded with another run seed than {given}: leave --seed out to find it")
    raise ReplayError(f"the run seed is none of 0 to {TRIED_SEEDS - 1}: give it with --seed")
