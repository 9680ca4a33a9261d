"""Labels corrected after their episodes had ended (rlt_msgs/Relabel, `<run>/labels.jsonl`), in their order. No ROS.

A correction comes after the episodes that had ended before it was made: a learner that was away, and takes them in
again, follows it where it did before, so that it arrives at the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    def take_due(self, last_episode_id: int) -> Correction | None:
        """The next one, once all episodes that had ended before it are done with."""
        if not self._waiting:
            return None
        first = self._waiting[min(self._waiting)]
        if first.after_episode > last_episode_id:
            return None
        self._applied = first.sequence
        return self._waiting.pop(first.sequence)
