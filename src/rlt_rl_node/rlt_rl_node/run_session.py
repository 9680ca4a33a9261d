"""A learner with its run directory: which episodes come next, checkpoints, metrics. No ROS.

    <run>/encoded/           what the learner took in, see `episode_store`
    <run>/checkpoints/<name>/  see `checkpoint`
    <run>/order.jsonl        with several robots: what was followed, in order, see `take_in_order`
    <run>/metrics.jsonl      one line per episode taken in; after a restart the last line of an episode counts

A start goes on from the newest checkpoint, then takes in the episodes after it in order, each followed by its updates,
so that it arrives where it was. What each robot leaves for it is in `robot_run`.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rlt_common.advice import Advice, advise
from rlt_common.atomic import no_follow, remove_leftovers
from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_common.episode_file import EpisodeFileError
from rlt_common.metrics_log import METRICS_LOG, Row, newest, read_metrics
from rlt_common.run_files import inside
from rlt_rl_node import checkpoint
from rlt_rl_node.corrections import Correction
from rlt_rl_node.demonstrations import DemonstrationsError, DemonstrationSource
from rlt_rl_node.episode_store import EpisodeStore, trimmed
from rlt_rl_node.learner import Learner, LearnerConfig, TaskShape
from rlt_rl_node.records import EpisodeData, EpisodeKey, Label, RecordError, Source
from rlt_rl_node.robot_run import RobotRun
from rlt_rl_node.take_in_order import Event, TakeInOrder
from rlt_rl_node.tensor_file import TensorFileError


@dataclass(frozen=True)
class TakeIn:
    """How it went to take an episode in, for its line in metrics.jsonl."""

    transitions: int
    updates_per_s: float = 0.0
    """Pace of the updates since the line before."""
    seconds: float | None = None
    """From the label on; None: the episode ended while the learner was away."""
    from_journal: bool = False
    """Something of it did not come on the topics."""
    refused_messages: int = 0
    """By the learner, since its start."""


class RunSession:
    """Episodes in, in order; files kept.

    Args:
        run: the run directory.
        shape, config: of the learner.
        start_from: a checkpoint folder; None: the newest of the run, or nothing.
        log: where words about what was found go.
        demonstrations: what the replay begins with, where there is no checkpoint.
        robots: run directory of each robot, None where it is not on this machine; by default one, with its files here.
        vla_figures: what the adaptation measured (`metrics.json` beside the VLA), for advice.

    Raises CheckpointError when the checkpoint does not fit, DemonstrationsError when the demonstrations do not,
    PermissionError when a link leads its files out of the run directory.
    """

    def __init__(
        self,
        run: Path,
        shape: TaskShape,
        config: LearnerConfig,
        start_from: Path | None,
        log: Callable[[str], None],
        demonstrations: DemonstrationSource | None = None,
        robots: Mapping[str, Path | None] | None = None,
        vla_figures: Mapping[str, object] | None = None,
    ) -> None:
        robots = {"": run} if robots is None else robots
        self.run, self._log = run, log
        self.store = EpisodeStore(inside(run, "encoded"))
        self.checkpoints = inside(run, "checkpoints")
        self._metrics = inside(run, METRICS_LOG)
        self._rows = self._earlier_rows()
        self._vla_figures = dict(vla_figures or {})
        self.advice: list[Advice] = []
        """What the figures of the run so far say to the operator, under the labels of now."""
        for folder in (self.store.folder, self.checkpoints):
            remove_leftovers(folder)
        self.last_loss: dict[str, float] = {}
        found = start_from or checkpoint.latest(self.checkpoints)
        if found is None:
            self.learner = Learner(shape, config)
            if demonstrations:
                self._begin_with(demonstrations)
        else:
            self.learner, changes = checkpoint.load(found, shape, config, self.store)
            log(f"goes on from {found}: {self.learner.agent.updates} updates, {len(self.learner.replay)} transitions")
            for change in changes:
                log(f"setting changed since the checkpoint: {change}")
        self.robots = {
            robot: RobotRun(robot, folder, self.store, self.learner.progress(robot), log)
            for robot, folder in robots.items()
        }
        self._judge()
        self._order = TakeInOrder(inside(run, "order.jsonl") if len(robots) > 1 else None)
        self._again = deque(event for event in self._order.read(log) if event.key.robot in robots)

    def again(self) -> Event | None:
        """What was done next before the learner was away; None: all of it is done again, and news may come."""
        while self._again and self._again[0].behind(self.learner.progress(self._again[0].key.robot)):
            self._again.popleft()
        return self._again[0] if self._again else None

    def next_on_disk(self, robot: str) -> EpisodeKey | None:
        """The robot's episode to take in next of those that ended while the learner was away; None: not one now."""
        backlog, again = self.robots[robot].backlog, self.again()
        if again is None:
            return EpisodeKey(backlog.popleft(), robot) if backlog else None
        if again.key.robot != robot:
            return None
        if self._ended_before(again):
            return EpisodeKey(backlog.popleft(), robot)
        return None if again.correction else again.key

    def _ended_before(self, again: Event) -> bool:
        """Whether episodes of the robot are on the disk that were done with before this was done."""
        backlog = self.robots[again.key.robot].backlog
        last = again.correction.after_episode if again.correction else again.key.episode_id
        return bool(backlog) and backlog[0] <= last

    def find_before(self, key: EpisodeKey) -> bool:
        """Whether finished files of the robot have to be taken in before the episode `key`, heard of on the topics:
        they are the backlog then."""
        robot = self.robots[key.robot]
        robot.find_before(key.episode_id, self.learner.progress(key.robot).last_episode_id)
        return bool(robot.backlog)

    def stored(self, key: EpisodeKey) -> EpisodeData | None:
        """The encoded episode of an earlier start, if it is there and whole.

        One without a trainable label was passed over at its time, and a corrected label brought it into the replay
        later: it is to be passed over again.
        """
        if not self.store.path(key).is_file():
            return None
        try:
            return self.store.load(key)
        except TensorFileError as error:
            self._log(f"{error}: taken from the journal instead")
            return None

    def take_in(self, episode: EpisodeData) -> int:
        """Store and add an episode; returns its transitions (0: none, or it did not fit, which is logged).

        Raises OSError, with nothing taken in, when the disk refuses: try again.
        """
        episode = trimmed(episode, self.learner.shape.chunk_length)
        key = episode.key
        label = self.robots[key.robot].corrections.before_it_ended(key.episode_id)
        if label is None:
            label = self.learner.progress(key.robot).labels.get(key.episode_id, episode.label)
        try:
            self.store.save(episode)
            self._note(Event(key))
            if not label.trainable:
                self._log(f"{key} is left out: it was relabelled {label.name}")
                self.learner.pass_over(key)
                return 0
            return self.learner.add_episode(replace(episode, label=label))
        except (RecordError, ValueError) as error:
            self._log(f"{key} is left out: {error}")
            self.learner.pass_over(key)
            return 0

    def correct(
        self, journalled: Callable[[EpisodeKey, Label], EpisodeData | None], all_have_ended: bool = False
    ) -> bool:
        """Follow the next corrected label that is due; False when none is.

        `journalled`: a training episode out of its journal that is wanted now that it has that label, with the label
        that it ended with; None without any.
        `all_have_ended`: no more episodes come, so that no correction waits for one.
        Raises OSError, with nothing followed, when the disk refuses: try again.
        """
        due = self._due(all_have_ended)
        if due is None:
            return False
        learner, (key, correction) = self.learner, due
        label = correction.label
        what = f"{key} is relabelled {label.name}"
        held = key in learner.replay.episodes
        episode = None
        if label.trainable and key.episode_id <= learner.progress(key.robot).last_episode_id:
            episode = self.stored(key)
            if episode is None and (episode := journalled(key, label)) is not None:
                episode = trimmed(episode, learner.shape.chunk_length)
                self.store.save(episode)  # as it ended: a discard was passed over at its time, and will be again
        self._note(Event(key, correction))
        self.robots[key.robot].corrections.followed(correction.sequence)
        try:
            transitions = learner.relabel(correction, episode, key.robot)
        except (RecordError, ValueError) as error:
            self._log(f"{what}, but left out of the replay: {error}")
            return True
        finally:
            self._judge()
        if held or transitions:
            self._log(
                f"{what}: the replay follows ({transitions} transitions of it); what {learner.agent.updates} updates "
                "learned so far is not undone"
            )
        else:
            self._log(f"{what}: it is not in the replay, and does not come into it")
        return True

    def _due(self, all_have_ended: bool) -> tuple[EpisodeKey, Correction] | None:
        if again := self.again():
            due = again.correction and not self._ended_before(again)
            return (again.key, again.correction) if due else None
        for name, robot in self.robots.items():
            last = HIGHEST_EPISODE_ID if all_have_ended else self.learner.progress(name).last_episode_id
            if robot.backlog:
                last = max(last, robot.backlog[0] - 1)  # what would come before it left no file, and was passed over
            if correction := robot.corrections.due(last):
                return EpisodeKey(correction.episode_id, name), correction
        return None

    def _note(self, event: Event) -> None:
        """Write down what is done now, unless that was done before and is only done again."""
        if event != self.again():
            self._order.append(event)

    def _begin_with(self, source: DemonstrationSource) -> None:
        learner = self.learner
        for demonstration in source.read(self._log):
            episode = trimmed(demonstration, learner.shape.chunk_length)
            try:
                learner.add_demonstration(episode)
            except ValueError as error:
                raise DemonstrationsError(f"{source.folder}: {error}: encode the demonstrations again") from error
            self.store.save(episode)
        if learner.replay.episodes:
            held = f"{len(learner.replay.episodes)} demonstrations, {len(learner.replay)} transitions"
            self._log(f"the replay begins with {held}")

    def save(self, name: str = "", keep: int = 3) -> Path:
        """Write a checkpoint and delete older automatic ones beyond `keep`. Raises CheckpointError."""
        path = checkpoint.save(self.checkpoints, self.learner, self.store, name)
        checkpoint.prune(self.checkpoints, keep)
        return path

    def write_metrics(self, episode: EpisodeData, how: TakeIn) -> None:
        """Append one line about an episode and the updates that followed it; a disk that refuses is logged."""
        learner = self.learner
        replay = learner.replay
        self.last_loss = learner.metrics()
        held = episode.key in replay.episodes
        figures = {
            **self.last_loss,
            "beta": learner.agent.beta,
            "return_mean": replay.return_mean(),
            "episode_return": replay.return_mean(episode.key) if held else math.nan,
        }
        line = {
            "time": round(time.time(), 3),
            "episode": episode.episode_id,
            **({"robot": episode.robot} if episode.robot else {}),
            "label": episode.label.name.lower(),
            "critical_steps": len(episode.steps),
            "human_steps": int((episode.sources == Source.HUMAN).sum()),
            "held_steps": int((episode.sources == Source.HOLD).sum()),
            "transitions": how.transitions,
            "stage": learner.stage,
            "episodes": learner.budget.episodes,
            "robot_steps": learner.budget.steps,
            "replay": len(replay),
            "replay_demonstrations": replay.demonstrations,
            "replay_interventions": replay.interventions,
            "replay_mb": round(replay.stored_bytes / 1e6, 3),
            "updates": learner.agent.updates,
            "owed": learner.owed,
            "updates_per_s": round(how.updates_per_s, 1),
            "take_in_s": None if how.seconds is None else round(how.seconds, 3),
            "from_journal": how.from_journal,
            "refused_messages": how.refused_messages,
            "actor_version": learner.version,
            # NaN is no JSON: what was not measured is null.
            **{name: value if value == value else None for name, value in figures.items()},
        }
        self._rows = newest([*self._rows, line])
        self._judge()
        try:
            with open(self._metrics, "a", encoding="utf-8", opener=no_follow) as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._log(f"{self._metrics}: no line about {episode.key}: {error.strerror}")

    def _judge(self) -> None:
        self.advice = advise([self._relabelled(row) for row in self._rows], self._vla_figures)

    def _relabelled(self, row: Row) -> Row:
        progress = self.learner.robots.get(row.get("robot", ""))
        label = progress.labels.get(row["episode"]) if progress else None
        return row if label is None else {**row, "label": label.name.lower()}

    def _earlier_rows(self) -> list[Row]:
        """Those of before a restart. Figures are no reason not to learn: what is wrong with them is logged."""
        try:
            log = read_metrics(self.run)
        except (OSError, EpisodeFileError) as error:
            self._log(f"advice begins anew: {error}")
            return []
        for problem in log.problems:
            self._log(problem)
        return log.rows
