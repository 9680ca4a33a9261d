"""What one robot's recorder and episode manager leave for the learner, and what of it is still to be followed. No ROS.

    <run>/episodes/<id>.mcap   the journal, written by the recorder
    <run>/labels.jsonl         corrected labels, see `corrections`

The robot's run directory may be on another machine: then the robot's topics are all there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from rlt_common.episode_file import EpisodeFileError, episode_metadata
from rlt_common.relabels import EPISODES, episode_path, read_relabels
from rlt_common.retired import read_retired, retired_words
from rlt_rl_node import messages
from rlt_rl_node.corrections import Correction, PendingCorrections, Progress
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.records import EpisodeKey, Label


class RobotRun:
    """One robot's run directory as the learner reads it.

    Args:
        robot: as in EpisodeKey.
        folder: the robot's run directory; None: not on this machine.
        store: the learner's encoded episodes.
        progress: how far the learner is with this robot.
        log: where words about what was found go.

    Raises EpisodeFileError when the file of corrected labels cannot be read.
    """

    def __init__(
        self, robot: str, folder: Path | None, store: EpisodeStore, progress: Progress, log: Callable[[str], None]
    ) -> None:
        self.robot, self.folder, self._log = robot, folder, log
        last = progress.last_episode_id
        newer = set(store.newer_than(EpisodeKey(last, robot)))
        newer |= {i for path in self._journals() if (i := self._journal_id(path)) > last}
        if folder and (gone := _retired(folder, last) - newer):
            log(
                f"{len(gone)} training episodes up to {max(gone)} were retired (retired.jsonl): it goes on without them"
            )
        self.backlog: deque[int] = deque(sorted(newer))
        """Episodes on this machine's disk that ended while the learner was away, rising."""
        self.corrections = PendingCorrections(progress.corrections)
        made, problems = read_relabels(folder) if folder else ([], [])
        for problem in problems:
            log(problem)
        for relabel in made:
            label = Label[relabel.label.upper()]
            self.corrections.offer(Correction(relabel.sequence, relabel.episode_id, label, relabel.after_episode))

    def find_before(self, episode_id: int, last: int) -> None:
        """Into the backlog with finished files of after `last` and before an episode that is heard of.

        Nobody said of them that their labels count, or not while the learner listened: the manager died in between.
        """
        if episode_id > last + 1:
            self.backlog.extend(
                sorted(i for path in self._journals() if last < (i := self._journal_id(path)) < episode_id)
            )

    def journal(self, episode_id: int) -> Path | None:
        """The finished episode file of an episode, if it is there."""
        return next((path for path in self._journals() if self._journal_id(path) == episode_id), None)

    def collect(self, episode_id: int, assembly: EpisodeAssembly, config_hash: str) -> None:
        """Hand the episode's file over. `config_hash`: of the learner's robot and task.

        Raises EpisodeFileError, CodecError or ValueError when there is none, or it is torn or of another robot or task.
        """
        path = self.journal(episode_id)
        if path is None:
            gone = retired_words(episode_path(self.folder, episode_id)) if self.folder else ""
            where = f"in {self.folder / EPISODES}" if self.folder else "on this machine (run_directories)"
            raise EpisodeFileError(gone or f"no finished file of it {where}")
        messages.collect_journal(assembly, path, episode_id, config_hash)

    def _journals(self) -> list[Path]:
        return sorted((self.folder / EPISODES).glob("*.mcap")) if self.folder else []

    def _journal_id(self, path: Path) -> int:
        if path.stem.isdecimal():
            return int(path.stem)
        try:
            return int(episode_metadata(path)["episode_id"])
        except (EpisodeFileError, KeyError, ValueError) as error:
            self._log(f"{path} is left out: {error}")
            return 0


def _retired(folder: Path, last: int) -> set[int]:
    """Training episodes after `last` whose files were deleted. Raises EpisodeFileError when the list cannot be read."""
    try:
        found = read_retired(folder).items()
    except OSError as error:
        raise EpisodeFileError(f"{error.filename}: {error.strerror}") from error
    return {i for i, e in found if i > last and e.facts.get("purpose") == "train" and e.facts.get("label") != "discard"}
