"""A learner with its run directory: which episodes come next, checkpoints, metrics. No ROS.

    <run>/episodes/<id>.mcap        the journal, written by the recorder
    <run>/encoded/<id>.safetensors  what the learner took in
    <run>/checkpoints/<name>/       see `checkpoint`
    <run>/labels.jsonl              corrected labels, see `corrections`
    <run>/metrics.jsonl             one line per episode taken in; after a restart the last line of an episode counts

A start goes on from the newest checkpoint, then takes in the episodes after it in order, each followed by its updates,
so that it arrives where it was.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rlt_common.atomic import no_follow
from rlt_common.episode_file import EpisodeFileError, episode_metadata
from rlt_common.relabels import read_relabels
from rlt_common.run_files import inside
from rlt_rl_node import checkpoint
from rlt_rl_node.corrections import Correction, PendingCorrections
from rlt_rl_node.demonstrations import DemonstrationsError, DemonstrationSource
from rlt_rl_node.episode_store import EpisodeStore, trimmed
from rlt_rl_node.learner import Learner, LearnerConfig, TaskShape
from rlt_rl_node.records import EpisodeData, Label, RecordError
from rlt_rl_node.tensor_file import TensorFileError


class RunSession:
    """Episodes in, in order; files kept.

    Args:
        run: the run directory.
        shape, config: of the learner.
        start_from: a checkpoint folder; None: the newest of the run, or nothing.
        demonstrations: what the replay begins with, where there is no checkpoint.
        log: where words about what was found go.

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
    ) -> None:
        self.run, self._log = run, log
        self.store = EpisodeStore(inside(run, "encoded"))
        self.checkpoints = inside(run, "checkpoints")
        self._metrics = inside(run, "metrics.jsonl")
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
        self.backlog: deque[int] = deque(self._newer())
        self.corrections = PendingCorrections(self.learner.corrections)
        made, problems = read_relabels(run)
        for problem in problems:
            log(problem)
        for relabel in made:
            label = Label[relabel.label.upper()]
            self.corrections.offer(Correction(relabel.sequence, relabel.episode_id, label, relabel.after_episode))

    def journal(self, episode_id: int) -> Path | None:
        """The finished episode file of an episode, if it is there."""
        return next((path for path in self._journals() if self._journal_id(path) == episode_id), None)

    def stored(self, episode_id: int) -> EpisodeData | None:
        """The encoded episode of an earlier start, if it is there and whole."""
        if not self.store.path(episode_id).is_file():
            return None
        try:
            return self.store.load(episode_id)
        except TensorFileError as error:
            self._log(f"{error}: taken from the journal instead")
            return None

    def take_in(self, episode: EpisodeData) -> int:
        """Store and add an episode; returns its transitions (0: none, or it did not fit, which is logged).

        Raises OSError, with nothing taken in, when the disk refuses: try again.
        """
        episode = trimmed(episode, self.learner.shape.chunk_length)
        label = self.learner.labels.get(episode.episode_id, episode.label)
        try:
            self.store.save(episode)
            if not label.trainable:
                self._log(f"episode {episode.episode_id} is left out: it was relabelled {label.name}")
                self.learner.pass_over(episode.episode_id)
                return 0
            return self.learner.add_episode(replace(episode, label=label))
        except (RecordError, ValueError) as error:
            self._log(f"episode {episode.episode_id} is left out: {error}")
            self.learner.pass_over(episode.episode_id)
            return 0

    def correct(self, journalled: Callable[[int, Label], EpisodeData | None]) -> bool:
        """Follow the next corrected label that is due; False when none is.

        `journalled`: a training episode out of its journal, as if it had ended with that label; None without any.
        """
        learner = self.learner
        correction = self.corrections.take_due(learner.last_episode_id)
        if correction is None:
            return False
        episode_id, label = correction.episode_id, correction.label
        what = f"episode {episode_id} is relabelled {label.name}"
        held = episode_id in learner.replay.episodes
        episode = None
        if label.trainable and episode_id <= learner.last_episode_id:
            episode = self.stored(episode_id) or journalled(episode_id, label)
            if episode is not None and not self.store.path(episode_id).is_file():
                episode = trimmed(episode, learner.shape.chunk_length)
                self.store.save(episode)
        try:
            transitions = learner.relabel(correction, episode)
        except (RecordError, ValueError) as error:
            self._log(f"{what}, but left out of the replay: {error}")
            return True
        if held or transitions:
            self._log(
                f"{what}: the replay follows ({transitions} transitions of it); what {learner.agent.updates} updates "
                "learned so far is not undone"
            )
        else:
            self._log(f"{what}: it is not in the replay, and does not come into it")
        return True

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

    def write_metrics(self, episode: EpisodeData, transitions: int, updates_per_s: float) -> None:
        """Append one line about an episode and the updates that followed it; a disk that refuses is logged."""
        learner = self.learner
        self.last_loss = learner.metrics()
        line = {
            "time": round(time.time(), 3),
            "episode": episode.episode_id,
            "label": episode.label.name.lower(),
            "critical_steps": len(episode.steps),
            "transitions": transitions,
            "stage": learner.stage,
            "replay": len(learner.replay),
            "updates": learner.agent.updates,
            "owed": learner.owed,
            "updates_per_s": round(updates_per_s, 1),
            "actor_version": learner.version,
            # NaN is no JSON: what was not measured is null.
            **{name: value if value == value else None for name, value in self.last_loss.items()},
        }
        try:
            with open(self._metrics, "a", encoding="utf-8", opener=no_follow) as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._log(f"{self._metrics}: no line about episode {episode.episode_id}: {error.strerror}")

    def _newer(self) -> list[int]:
        last = self.learner.last_episode_id
        ids = set(self.store.newer_than(last))
        ids |= {i for path in self._journals() if (i := self._journal_id(path)) > last}
        return sorted(ids)

    def _journals(self) -> list[Path]:
        return sorted((self.run / "episodes").glob("*.mcap"))

    def _journal_id(self, path: Path) -> int:
        if path.stem.isdecimal():
            return int(path.stem)
        try:
            return int(episode_metadata(path)["episode_id"])
        except (EpisodeFileError, KeyError, ValueError) as error:
            self._log(f"{path} is left out: {error}")
            return 0
