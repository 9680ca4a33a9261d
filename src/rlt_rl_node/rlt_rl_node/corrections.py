"""Labels corrected after their episodes had ended (rlt_msgs/Relabel, `<run>/labels.jsonl`), in their order. No ROS.

A correction comes after the episodes that had ended before it was made: a learner that was away, and takes them in
again, follows it where it did before, so that it arrives at the same bits. One that comes before its own episode is the
discard of an episode that was given up before its file came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_rl_node.records import Label

GIVEN = (Label.SUCCESS, Label.FAILURE, Label.DISCARD)


@dataclass(frozen=True)
class Correction:
    """One correction. Raises ValueError for a label that no operator gives and for numbers that cannot be."""

    sequence: int
    episode_id: int
    label: Label
    after_episode: int

    def __post_init__(self) -> None:
        if self.label not in GIVEN:
            raise ValueError(f"episode {self.episode_id} cannot be relabelled {self.label.name}")
        if self.sequence < 1:
            raise ValueError(f"correction of episode {self.episode_id} has no sequence number")
        if max(self.sequence, self.episode_id, self.after_episode) > HIGHEST_EPISODE_ID:
            raise ValueError(
                f"correction {self.sequence} of episode {self.episode_id} after {self.after_episode}: so many cannot be"
            )


@dataclass
class Progress:
    """How far a learner is with one robot."""

    last_episode_id: int = 0
    """Newest episode taken in or passed over."""
    corrections: int = 0
    """Sequence number of the newest corrected label that was followed."""
    labels: dict[int, Label] = field(default_factory=dict)
    """Corrected ones, by episode."""

    def state(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        labels = {str(episode_id): label.name for episode_id, label in sorted(self.labels.items())}
        return {"last_episode_id": self.last_episode_id, "corrections": self.corrections, "labels": labels}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Progress:
        """Take :meth:`state` back. Raises KeyError, TypeError or ValueError for what it cannot be."""
        labels = {int(episode_id): Label[name] for episode_id, name in state["labels"].items()}
        return cls(int(state["last_episode_id"]), int(state["corrections"]), labels)


class PendingCorrections:
    """Corrections that are still to be followed. `applied`: sequence number of the last one that was."""

    def __init__(self, applied: int) -> None:
        self._applied = applied
        self._waiting: dict[int, Correction] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, correction: Correction) -> None:
        """Hear of one, in any order and any number of times."""
        if correction.sequence > self._applied:
            self._waiting.setdefault(correction.sequence, correction)

    def due(self, last_episode_id: int) -> Correction | None:
        """The next one, once all episodes that had ended before it are done with."""
        if not self._waiting:
            return None
        first = self._waiting[min(self._waiting)]
        return first if first.after_episode <= last_episode_id else None

    def before_it_ended(self, episode_id: int) -> Label | None:
        """The label that the episode has from its beginning on, whatever is to be followed first; None: its own."""
        early = {
            n: each.label for n, each in self._waiting.items() if each.episode_id == episode_id > each.after_episode
        }
        return early[max(early)] if early else None

    def followed(self, sequence: int) -> None:
        """The correction of this number was followed: it, and any before it, is not due again."""
        self._applied = max(self._applied, sequence)
        self._waiting = {number: each for number, each in self._waiting.items() if number > self._applied}
