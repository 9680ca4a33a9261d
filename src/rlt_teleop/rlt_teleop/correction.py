"""Labels of ended episodes, corrected: which one the operator may mean, and what becomes of it. Files, no ROS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlt_common.episode_file import EpisodeFileError
from rlt_common.relabels import (
    EPISODES,
    RECORDED_LABEL,
    Relabel,
    append_relabel,
    episode_facts,
    episode_path,
    read_relabels,
)
from rlt_teleop.episode_machine import OPERATOR_LABELS, CommandRefused, Label, Purpose


@dataclass(frozen=True)
class Correction:
    """What was done to an ended episode. `relabel` is None when it had that label already.

    `recorded`: the label inside its file.
    """

    episode_id: int
    purpose: str
    recorded: Label
    before: Label
    after: Label
    relabel: Relabel | None

    @property
    def trained_more(self) -> int:
        """Training episodes that count more, or less, than before: -1, 0 or 1."""
        if self.purpose != Purpose.TRAIN.name.lower():
            return 0
        return (self.before == Label.DISCARD) - (self.after == Label.DISCARD)


class Corrections:
    """The corrections of one run directory."""

    def __init__(self, run: Path | str) -> None:
        self._run = Path(run)

    def made(self) -> tuple[list[Relabel], list[str]]:
        """Those on disk, and what in their file is none. Raises EpisodeFileError."""
        return read_relabels(self._run)

    def newest_ended(self, pending: Iterable[int]) -> int:
        """The newest episode that has its file, or of which one may still come; 0: none. `pending`: ended, without."""
        return max((*self._finished(), *pending), default=0)

    def newest(self, limit: int) -> tuple[int, Label]:
        """The newest finished episode up to id `limit`, and the label that counts now. CommandRefused without any."""
        found = max((i for i in self._finished() if i <= limit), default=0)
        if not found:
            raise CommandRefused(f"there is no finished episode up to number {limit}")
        return found, self._facts(found)[2]

    def give(self, episode_id: int, label: Label, ended: int) -> Correction:
        """Give a finished episode another label, durably. `ended`: the newest that the correction comes after.

        Raises CommandRefused for a label that an operator cannot give, an episode without a finished file and a disk
        that refuses.
        """
        if label not in OPERATOR_LABELS:
            raise CommandRefused(f"label {int(label)} cannot be given: choose success, failure or discard")
        purpose, recorded, before = self._facts(episode_id)
        relabel = None
        if before != label:
            try:
                relabel = append_relabel(self._run, episode_id, label.name.lower(), ended)
            except EpisodeFileError as error:
                raise CommandRefused(str(error)) from error
        return Correction(episode_id, purpose, recorded, before, label, relabel)

    def give_up(self, episode_id: int) -> Relabel:
        """No file came of an ended episode: one that comes late, after this process even, is of a discard, durably.

        It comes before the episode itself: a learner that reads the file later never takes it in. Raises
        EpisodeFileError when the disk refuses.
        """
        return append_relabel(self._run, episode_id, Label.DISCARD.name.lower(), episode_id - 1)

    def _facts(self, episode_id: int) -> tuple[str, Label, Label]:
        """Purpose, the label inside the file, and the one that counts now."""
        try:
            facts = episode_facts(episode_path(self._run, episode_id))
            label = facts["label"]
            return (
                facts.get("purpose", ""),
                Label[facts.get(RECORDED_LABEL, label).upper()],
                Label[label.upper()],
            )
        except (EpisodeFileError, KeyError) as error:
            raise CommandRefused(f"episode {episode_id} cannot be relabelled: {error}") from error

    def _finished(self) -> list[int]:
        folder = self._run / EPISODES
        return [int(path.stem) for path in folder.glob("*.mcap") if path.stem.isdecimal()] if folder.is_dir() else []
