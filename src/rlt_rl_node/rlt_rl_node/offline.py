"""Trains from the episode files of a run alone: the learner's work without robot, simulator or graph.

    ros2 run rlt_rl_node offline --run runs/screw --out runs/screw_offline

Reads <run>/episodes/*.mcap, <run>/labels.jsonl and the encoded demonstrations of the VLA's checkpoint, and writes into
<out> what a learner has in its run directory: encodings, checkpoints, metrics. Episodes come in in their order, each
followed by the updates that it owes: what a learner in lockstep did, to the last bit. The same command goes on where it
was interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlt_common.atomic import write_atomic
from rlt_common.config import RobotConfig, TaskConfig, config_hash, learning_hash, load_named, load_robot, load_task
from rlt_common.episode_file import EpisodeFileError, episode_metadata
from rlt_common.parameters import ParameterError, from_mapping
from rlt_common.reading import read_limited
from rlt_common.recorded_config import named_file, robot_in, task_in
from rlt_common.relabels import EPISODES
from rlt_common.run_files import inside
from rlt_rl_node import checkpoint, demonstrations, take_in_order
from rlt_rl_node.checkpoint import CheckpointError
from rlt_rl_node.demonstrations import DemonstrationsError, DemonstrationSource
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.frozen_models import FrozenModelsError, read_frozen_models
from rlt_rl_node.journal_reader import JournalReader
from rlt_rl_node.learner import LearnerConfig, task_shape
from rlt_rl_node.learner_parameters import LearnerParameters
from rlt_rl_node.records import EpisodeKey
from rlt_rl_node.run_session import RunSession, TakeIn

SLICE = 50
"""Updates between two looks at the clock."""
PROGRESS_S = 5.0
ORDER = "order.jsonl"
KEEP_ALL = sys.maxsize


class OfflineError(RuntimeError):
    """Episode files that nothing can be learned from; says which and what to do."""


@dataclass
class Counts:
    """What was done so far."""

    taken: int = 0
    left_out: int = 0
    corrected: int = 0


class OfflineTraining:
    """A learner that takes in what its robots have left on the disk, and nothing else.

    Args:
        session: the learner with the run directory that it writes; its robots' run directories are those read.
        journals: reads the episodes.
        say: gets words about what was found, and the progress.
        most_updates: critic updates in all; None: what the data owes.
        checkpoint_every: episodes between checkpoints; 0: one at the end.
    """

    def __init__(
        self,
        session: RunSession,
        journals: JournalReader,
        say: Callable[[str], None],
        most_updates: int | None = None,
        checkpoint_every: int = 0,
    ) -> None:
        self.session, self.learner = session, session.learner
        self._journals, self._say = journals, say
        self._most, self._every = most_updates, checkpoint_every
        self._total = sum(len(robot.backlog) for robot in session.robots.values())
        self._begun_s = self._said_s = time.monotonic()
        self._begun_updates = self.learner.agent.updates
        self.counts = Counts()

    def run(self) -> Path:
        """Take in everything, make the updates, write a checkpoint and return its path.

        Raises OfflineError when nothing can be learned, CheckpointError or OSError when the disk refuses.
        """
        while self._next():
            pass
        if not self.learner.budget.episodes:
            raise OfflineError("no training episode could be taken in: what was left out is said above")
        if self._most is not None and self._most > self.learner.agent.updates:
            self._go_on(self._most - self.learner.agent.updates)
        path = self.session.save("", KEEP_ALL)
        self._progress(at_once=True)
        return path

    def _next(self) -> bool:
        """Follow one corrected label or take in one episode; False when there is none."""
        session = self.session
        if session.correct(self._journals.episode):
            self.counts.corrected += 1
            return True
        for robot in session.robots:
            if key := session.next_on_disk(robot):
                self._take_in(key)
                return True
        if session.correct(self._journals.episode, all_have_ended=True):
            self.counts.corrected += 1
            return True
        return False

    def _take_in(self, key: EpisodeKey) -> None:
        session, learner = self.session, self.learner
        episode = session.stored(key) or self._journals.episode(key)
        if episode is None or not episode.label.trainable:
            self.counts.left_out += 1
            learner.pass_over(key)
            return
        transitions, begun_s, before = session.take_in(episode), time.monotonic(), learner.agent.updates
        self.counts.taken += 1
        self._pay()
        seconds = time.monotonic() - begun_s
        pace = (learner.agent.updates - before) / seconds if seconds else 0.0
        session.write_metrics(episode, TakeIn(transitions, pace, seconds))
        if self._every and self.counts.taken % self._every == 0:
            session.save("", KEEP_ALL)

    def _go_on(self, more: int) -> None:
        """Updates on the whole replay, beyond what the data owes."""
        try:
            self.learner.budget.grant(more)
        except ValueError as error:
            budget, config = self.learner.budget, self.learner.config.budget
            raise OfflineError(
                f"{error}: {budget.episodes} training episodes with {budget.transitions} transitions; the task's "
                f"rl_learner wants {config.warmup_episodes} and {config.min_transitions} before the first update"
            ) from error
        self._pay()

    def _pay(self) -> None:
        """Make the updates that are owed, as far as they are wanted; then the actor has a new version."""
        learner = self.learner
        while left := self._left():
            learner.run_updates(min(SLICE, left))
            self._progress()
        if learner.unreleased:
            learner.release()

    def _left(self) -> int:
        if self._most is None:
            return self.learner.owed
        return max(0, min(self.learner.owed, self._most - self.learner.agent.updates))

    def _progress(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._said_s < PROGRESS_S:
            return
        self._said_s = now
        done, spent_s = self.counts.taken + self.counts.left_out, now - self._begun_s
        updates = self.learner.agent.updates
        rate = (updates - self._begun_updates) / spent_s if spent_s else 0.0
        if self._most is not None and rate:
            left_s = (self._most - updates) / rate
        else:
            left_s = spent_s * (self._total - done) / max(done, 1)
        self._say(
            f"{done} of {self._total} episodes, {len(self.learner.replay)} transitions, {updates} updates "
            f"({rate:.0f} per s), about {max(left_s, 0.0):.0f} s left"
        )


def same_as_online(run: Path, path: Path) -> str:
    """Whether a checkpoint of the run's own learner with as many updates holds the same bits, in words; "" without one.

    Raises CheckpointError.
    """
    ours = checkpoint.read_state(path)
    words = ""
    folder = run / "checkpoints"
    for other in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (other / checkpoint.STATE).is_file():
            continue
        theirs = checkpoint.read_state(other)
        if theirs["counters"].get("updates") != ours["counters"]["updates"]:
            continue
        replay = theirs["episodes"] == ours["episodes"]
        weights = theirs["sha256"].get(checkpoint.LEARNER) == ours["sha256"][checkpoint.LEARNER]
        if replay and weights:
            return f"the same replay and the same weights as {other}, bit for bit"
        what = "another replay" if not replay else "the same replay and other weights"
        words = f"{what} than {other}, which has as many updates"
    return words


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="offline", description="train from the episode files of a run alone")
    parser.add_argument("--run", required=True, type=Path, help="run directory whose episodes are read")
    parser.add_argument("--out", required=True, type=Path, help="folder for encodings, checkpoints and metrics")
    parser.add_argument("--robot", default="", help="robot name or file (default: as recorded, see --task)")
    parser.add_argument(
        "--task",
        default="",
        help="task name or file, with the learner's settings (default: as recorded with the newest training episode)",
    )
    parser.add_argument("--vla-checkpoint", type=Path, help="frozen VLA and RL token (default: <run>/vla)")
    parser.add_argument(
        "--like", type=Path, help="checkpoint whose learner's settings and seed are taken (default: the task file's, 0)"
    )
    parser.add_argument("--seed", type=int, help="run seed: of initial weights, batches and noise")
    parser.add_argument("--updates", type=int, help="critic updates in all (default: what the episodes owe, as online)")
    parser.add_argument(
        "--checkpoint-every", type=int, default=0, metavar="N", help="also a checkpoint after every N episodes"
    )
    parser.add_argument(
        "--robot-run",
        action="append",
        default=[],
        metavar="NAMESPACE=FOLDER",
        help="of a learner of several robots: run directory of each (its own --run has order.jsonl)",
    )
    return parser.parse_args(arguments)


def build(options: argparse.Namespace, say: Callable[[str], None]) -> OfflineTraining:
    """Everything that the command line asks for, ready to run.

    Raises ParameterError, FrozenModelsError, DemonstrationsError, CheckpointError, EpisodeFileError, OfflineError or
    OSError, each with what does not fit.
    """
    run, out = options.run.expanduser().resolve(), options.out.expanduser().resolve()
    if out == run or out in run.parents or run / EPISODES in (out, *out.parents):
        raise OfflineError(f"--out {out}: choose a folder of its own: nothing of {run} is overwritten")
    for name in ("seed", "updates", "checkpoint_every"):
        if (getattr(options, name) or 0) < 0:
            raise OfflineError(f"--{name.replace('_', '-')} {getattr(options, name)}: it must not be negative")
    robots = _robots(run, options.robot_run)
    bags = [path for folder in robots.values() for path in sorted((folder / EPISODES).glob("*.mcap"))]
    if not bags:
        folders = ", ".join(str(folder / EPISODES) for folder in robots.values())
        raise OfflineError(f"no episode file in {folders}")
    robot, task = _configuration(options, [bag for bag in bags if bag.parent == bags[0].parent], say)
    vla = options.vla_checkpoint or run / "vla"
    frozen = read_frozen_models(vla, robot.action_dim)
    config = _settings(options, task)
    source = DemonstrationSource.of(Path(vla) / demonstrations.FOLDER, config.demonstrations, frozen.hash, robot, task)
    out.mkdir(parents=True, exist_ok=True)
    if len(robots) > 1 and not inside(out, ORDER).exists():
        write_atomic(inside(out, ORDER), read_limited(run / ORDER, take_in_order.MAX_BYTES))
    session = RunSession(out, task_shape(robot, task, frozen), config, None, say, source, robots)
    new_assembly = partial(EpisodeAssembly, round(1e9 * robot.period_s), task.stride, task.prefetch_steps)
    journals = JournalReader(session.robots, new_assembly, learning_hash(robot, task), say, say)
    return OfflineTraining(session, journals, say, options.updates, options.checkpoint_every)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_rl_node offline`. Status 2 for what does not fit, 130 when interrupted."""
    options = parse_arguments(arguments)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    training = None
    try:
        training = build(options, _say)
        path = training.run()
        counts, learner = training.counts, training.learner
        _say(
            f"{counts.taken} episodes taken in, {counts.left_out} left out (no training, discarded, or said above), "
            f"{counts.corrected} corrected labels followed; actor version {learner.version}"
        )
        if not learner.ready:
            _say("the warm-up is not over: the actor was not trained, and no policy takes it")
        if words := same_as_online(options.run, path):
            _say(words)
        _say(f"written: {path}")
    except (
        ParameterError,
        FrozenModelsError,
        DemonstrationsError,
        CheckpointError,
        EpisodeFileError,
        OfflineError,
        OSError,
    ) as error:
        print(f"offline: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from the last checkpoint and the encoded episodes")
        sys.exit(130)


def _settings(options: argparse.Namespace, task: TaskConfig) -> LearnerConfig:
    """What decides the learning: of a checkpoint that was named, else of the task file. Raises ParameterError."""
    if options.like:
        state = checkpoint.read_state(options.like)
        config = from_mapping(LearnerConfig, state.get("settings"), f"{options.like}: settings")
        return config if options.seed is None else replace(config, seed=options.seed)
    given = {"robot": "", "task": "", "run_directory": "", "vla_checkpoint": "", "run_seed": options.seed or 0}
    own = {key: value for key, value in _nested(task.nodes.get("rl_learner", {})).items() if key not in given}
    return from_mapping(LearnerParameters, {**own, **given}, f"task {task.name}: nodes: rl_learner").learning()


def _configuration(
    options: argparse.Namespace, bags: Sequence[Path], say: Callable[[str], None]
) -> tuple[RobotConfig, TaskConfig]:
    """Robot and task: those that were given, else those that the newest training episode was recorded with.

    Files of before the texts were kept only name them. Raises ParameterError or EpisodeFileError.
    """
    if options.robot and options.task:
        return load_named(options.robot, options.task)
    bag, facts = _newest(bags)
    robot = None if options.robot else robot_in(bag)
    task = None if options.task else task_in(bag)
    held = [words for words, found in (("robot", robot), ("task", task)) if found]
    if held:
        say(f"{' and '.join(held)} as recorded in {bag.name}")
    robot = robot or load_robot(named_file(bag, facts, "robot", options.robot))
    task = task or load_task(named_file(bag, facts, "task", options.task))
    own = config_hash(robot, task)
    if len(held) < 2 and facts.get("config_hash", own) != own:
        say(f"robot or task file changed since the recording of {bag.name}: {facts['config_hash']} then, {own} now")
    return robot, task


def _newest(bags: Sequence[Path]) -> tuple[Path, Mapping[str, str]]:
    """The last one that is of training, else the last one that can be read, with its facts. Raises EpisodeFileError."""
    other, broken = None, None
    for bag in reversed(bags):
        try:
            facts = episode_metadata(bag)
        except EpisodeFileError as error:
            broken = broken or error
            continue
        if facts.get("purpose") == "train":
            return bag, facts
        other = other or (bag, facts)
    if other is None:
        raise broken or EpisodeFileError("no episode file")
    return other


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """ "agent.beta": 1 as "agent": {"beta": 1}: a task file may write a node's parameters either way."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        first, dot, rest = name.partition(".")
        if dot or isinstance(value, Mapping):
            inner = _nested({rest: value} if dot else value)
            nested[first] = {**nested.get(first, {}), **inner}
        else:
            nested[first] = value
    return nested


def _robots(run: Path, given: Sequence[str]) -> dict[str, Path]:
    """Run directory of each robot. Raises OfflineError."""
    robots = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not name.strip("/") or not folder or name.strip("/") in robots:
            raise OfflineError(f"--robot-run {text!r}: say NAMESPACE=FOLDER, each namespace once")
        robots[name.strip("/")] = Path(folder).expanduser().resolve()
    return robots or {"": run}


def _say(text: str) -> None:
    print(f"offline: {text}", flush=True)


if __name__ == "__main__":
    main()
