"""In which order a learner followed what several robots gave it: `<run>/order.jsonl`, append-only. No ROS.

With one robot the numbers of its episodes are the order. Between robots there is none but that in which things were
done, so each is written down before it is done: an episode taken in, a corrected label followed. A learner that was
killed does them in the same order again and arrives at the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlt_common.atomic import append_line
from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_common.reading import parse_json, read_limited
from rlt_rl_node.corrections import Correction, Progress
from rlt_rl_node.records import EpisodeKey, Label

MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Event:
    """An episode taken in, or, with `correction`, the corrected label of one."""

    key: EpisodeKey
    correction: Correction | None = None

    def behind(self, progress: Progress) -> bool:
        """Whether a learner that is so far with this robot has done it."""
        if self.correction:
            return self.correction.sequence <= progress.corrections
        return self.key.episode_id <= progress.last_episode_id


class TakeInOrder:
    """The file. `path`: where it lies; None: one robot, of which nothing needs to be written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def append(self, event: Event) -> None:
        """Write it down, durably. Raises OSError when the disk refuses."""
        if self._path is None:
            return
        line: dict[str, Any] = {"robot": event.key.robot, "episode": event.key.episode_id}
        if correction := event.correction:
            line |= {
                "correction": correction.sequence,
                "label": correction.label.name,
                "after_episode": correction.after_episode,
            }
        append_line(self._path, line)

    def read(self, log: Callable[[str], None]) -> list[Event]:
        """All of it; a line that is none (a torn one) is left out and logged. Raises OSError."""
        if self._path is None:
            return []
        try:
            lines = read_limited(self._path, MAX_BYTES).split(b"\n")
        except FileNotFoundError:
            return []
        events = []
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                events.append(_parse(line))
            except (KeyError, TypeError, ValueError) as error:
                log(f"{self._path}: line {number} is left out: {error!r}")
        return events


def _parse(line: bytes) -> Event:
    data = parse_json(line)
    key = EpisodeKey(data["episode"], data["robot"])
    if type(key.episode_id) is not int or not 0 <= key.episode_id <= HIGHEST_EPISODE_ID or type(key.robot) is not str:
        raise ValueError(f"no episode: {str(key)[:80]}")
    if "correction" not in data:
        return Event(key)
    return Event(
        key, Correction(int(data["correction"]), key.episode_id, Label[data["label"]], int(data["after_episode"]))
    )
