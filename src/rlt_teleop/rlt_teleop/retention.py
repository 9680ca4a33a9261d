"""Which episode files may be deleted so that a run stays within its disk budget. Files, no ROS.

By default none. With a budget or an age, the oldest go first, before an episode begins, and never one that anything
still needs:

- of purpose `collect`: demonstrations, always kept;
- of purpose `train`: the learner and whoever trains from the files need them, unless they were discarded. With
  `retire_trained` they may go once every checkpoint of the run has taken them in and their encoded copy is there;
- the newest KEEP_NEWEST: the operator may still correct their labels, or want to look at them.

Evaluations, deployed episodes and discarded training episodes may go. Each is noted in `<run>/retired.jsonl` first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rlt_common.atomic import fsync_folder
from rlt_common.episode_file import PARTIAL_SUFFIX, EpisodeFileError, episode_metadata
from rlt_common.parameters import param, validate
from rlt_common.reading import read_json
from rlt_common.relabels import EPISODES, corrected_labels
from rlt_common.retired import Retired, append_retired, read_retired
from rlt_common.run_files import inside

KEEP_NEWEST = 20
GIB, DAY_S = 2**30, 86400.0
FREE_PURPOSES = ("evaluate", "deploy")


@dataclass(frozen=True)
class RetentionConfig:
    """How much of a run's episodes stays on the disk."""

    keep_gib: float = param(
        0.0,
        "GiB that the run's episodes may take: before an episode begins, the oldest that nothing needs are deleted "
        "(evaluations, deployed and discarded ones; never demonstrations), and it does not begin while they take more; "
        "0: all are kept",
        minimum=0.0,
        maximum=1e6,
    )
    keep_days: float = param(
        0.0, "days after which such an episode is deleted, whatever room there is; 0: never", minimum=0.0, maximum=1e5
    )
    retire_trained: bool = param(
        False,
        "training episodes may be deleted too, once every checkpoint of the run has taken them in: the learner goes on "
        "from its encoded copies, but nothing can be trained from the files any more",
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class _File:
    episode_id: int
    path: Path
    bytes: int
    modified_s: float


class Retention:
    """Keeps one run directory within its budget.

    Args:
        run: the run directory.
        config: the budget.
        log: told of each deleted episode, in words.
        now: wall time in s since the epoch.
    """

    def __init__(
        self, run: Path | str, config: RetentionConfig, log: Callable[[str], None], now: Callable[[], float] = time.time
    ) -> None:
        self._run, self._config, self._log, self._now = Path(run), config, log, now
        self._facts: dict[Path, dict[str, str]] = {}  # files never change once they have their name
        self.bytes = 0
        """Of the run's episodes, unfinished ones included, when it was last looked."""

    def make_room(self) -> None:
        """Delete what may go and has to, so that an episode as large as the largest so far fits in.

        Raises EpisodeFileError, saying what is in the way, when the budget does not hold, or what has to go cannot go.
        """
        config = self._config
        if not (config.keep_gib or config.keep_days):
            return
        try:
            files, others = self._files()
            self.bytes = others + sum(file.bytes for file in files)
            budget = config.keep_gib * GIB
            over = self.bytes + max((file.bytes for file in files), default=0) - budget if budget else 0.0
            oldest_s = self._now() - config.keep_days * DAY_S if config.keep_days else 0.0
            if over > 0 or any(file.modified_s < oldest_s for file in files):
                over = self._retire(files, over, oldest_s)
        except OSError as error:
            raise EpisodeFileError(f"{error.filename or self._run}: {error.strerror}") from error
        if over > 0:
            raise EpisodeFileError(
                f"the episodes of {self._run} take {self.bytes / GIB:.2f} GiB, and with one more they are over "
                f"retention.keep_gib {config.keep_gib:g}; what is left is needed: raise it, or go on in another run"
            )

    def _retire(self, files: list[_File], over: float, oldest_s: float) -> float:
        """Delete the oldest first; returns by how many bytes the budget is still exceeded."""
        corrected, trained, noted = corrected_labels(self._run), self._trained(), read_retired(self._run)
        for file in files[:-KEEP_NEWEST]:
            old = file.modified_s < oldest_s
            if over <= 0 and not old:
                continue
            facts = self._facts_of(file)
            label = corrected.get(file.episode_id, facts.get("label", ""))
            if not self._free(file.episode_id, facts.get("purpose", ""), label, trained):
                continue
            why = f"older than {self._config.keep_days:g} days" if old else f"budget of {self._config.keep_gib:g} GiB"
            date = datetime.fromtimestamp(self._now(), timezone.utc).isoformat(timespec="seconds")
            if file.episode_id not in noted:
                entry = Retired(file.episode_id, date, why, file.bytes, {**facts, "label": label})
                append_retired(self._run, entry)
            file.path.unlink()
            fsync_folder(file.path.parent)
            self._facts.pop(file.path, None)
            self._log(f"{file.path} ({facts.get('purpose')}, {label}) is deleted: {why}")
            over -= file.bytes
            self.bytes -= file.bytes
        return over

    def _free(self, episode_id: int, purpose: str, label: str, trained: int) -> bool:
        """Whether nothing needs an episode any more. `trained`: the newest that every checkpoint has taken in."""
        if purpose in FREE_PURPOSES:
            return True
        if purpose != "train":
            return False
        if label == "discard":
            return True
        encoded = self._run / "encoded" / f"{episode_id:06d}.safetensors"
        return episode_id <= trained and label in ("success", "failure", "timeout") and encoded.is_file()

    def _trained(self) -> int:
        """The newest episode that every checkpoint of a learner of this run alone has taken in; 0: none is safe."""
        if not self._config.retire_trained:
            return 0
        newest = []
        for path in (self._run / "checkpoints").glob("[!.]*/state.json"):
            try:
                newest.append(int(read_json(path)["counters"]["robots"][""]["last_episode_id"]))
            except (OSError, ValueError, KeyError, TypeError):
                return 0
        return min(newest, default=0)

    def _facts_of(self, file: _File) -> dict[str, str]:
        if file.path not in self._facts:
            try:
                self._facts[file.path] = episode_metadata(file.path)
            except EpisodeFileError:
                self._facts[file.path] = {}  # damaged: kept, for a person to look at
        return self._facts[file.path]

    def _files(self) -> tuple[list[_File], int]:
        """Finished episodes by id, and the bytes of unfinished ones."""
        folder = inside(self._run, EPISODES)
        found, others = [], 0
        for path in folder.iterdir() if folder.is_dir() else ():
            status = path.lstat()
            if path.suffix == ".mcap" and path.stem.isdecimal() and not path.is_symlink():
                found.append(_File(int(path.stem), path, status.st_size, status.st_mtime))
            elif PARTIAL_SUFFIX in path.name:
                others += status.st_size
        return sorted(found, key=lambda file: file.episode_id), others
