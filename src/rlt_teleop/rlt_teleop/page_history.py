"""The run's episodes as the operator page lists them, and the learning curve that they make. Pure file work."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlt_common.episode_file import EpisodeFileError
from rlt_common.relabels import EPISODES, RECORDED_LABEL, corrected_labels, episode_facts
from rlt_teleop.status_model import WINDOW

ROWS = 500
"""Newest episodes that the page lists."""
POINTS = 1000
"""Newest episodes of the learning curve."""
_TRAIN = "train"


@dataclass(frozen=True)
class Episode:
    """One ended episode. `steps`, `critical_steps`: control steps; `recorded_label`: before it was corrected, or "";
    `driver`: who drove the critical phase, or was to where the episode ended before it."""

    episode_id: int
    label: str
    recorded_label: str
    purpose: str
    driver: str
    steps: int
    critical_steps: int
    intervened: bool
    actor_version: int
    reason: str
    warning: str
    mib: float
    ended_s: float


class History:
    """Reads <run>/episodes; a file that was read once is not read again.

    Args:
        run: the run directory; may not exist yet.
        control_hz: control steps per second.
    """

    def __init__(self, run: Path | str, control_hz: float) -> None:
        self._run, self._hz = Path(run), control_hz
        self._facts: dict[str, tuple[tuple[int, int], dict[str, str] | None]] = {}
        self.episodes: tuple[Episode, ...] = ()
        self.problem = ""

    def scan(self) -> bool:
        """Look again. Returns whether something is different."""
        before = (self.episodes, self.problem)
        try:
            self.episodes, self.problem = tuple(self._read()), ""
        except (EpisodeFileError, OSError) as error:
            self.problem = str(error)
        return (self.episodes, self.problem) != before

    def label_of(self, episode_id: int) -> str:
        """The label that counts; "" for an episode that is not there."""
        return next((e.label for e in reversed(self.episodes) if e.episode_id == episode_id), "")

    def to_json(self) -> dict[str, Any]:
        """The newest episodes first, and the curve."""
        return {
            "episodes": [asdict(episode) for episode in self.episodes[: -ROWS - 1 : -1]],
            "total": len(self.episodes),
            "problem": self.problem,
            "curve": curve(self.episodes, self._hz),
            "window": WINDOW,
        }

    def _read(self) -> list[Episode]:
        folder = self._run / EPISODES
        corrected = corrected_labels(self._run)
        found, known = [], {}
        for path in sorted(folder.glob("*.mcap")) if folder.is_dir() else ():
            if not path.stem.isdecimal():
                continue
            status = path.stat()
            key = (status.st_mtime_ns, status.st_size)
            facts = self._facts.get(path.name, (None, None))
            if facts[0] != key:
                try:
                    facts = (key, episode_facts(path, {}))
                except EpisodeFileError:
                    facts = (key, None)  # the episode manager names it
            known[path.name] = facts
            if facts[1] is not None:
                found.append(_episode(int(path.stem), facts[1], corrected, status.st_size, status.st_mtime))
        self._facts = known
        return found


def curve(episodes: Sequence[Episode], control_hz: float) -> list[dict[str, Any]]:
    """The learning curve: one point per episode that is no discard; of practice alone, where there was any.

    `rate`, `throughput` (successes per 10 minutes of robot time in the critical phase, or of all where none was handed
    off) and `median` (steps of successes, or None) are over the last :data:`WINDOW` episodes.
    """
    counted = [e for e in episodes if e.label not in ("discard", "")]
    chosen = [e for e in counted if e.purpose == _TRAIN] or counted
    points = []
    for i, episode in enumerate(chosen):
        window = chosen[max(0, i + 1 - WINDOW) : i + 1]
        won = [_length(e) for e in window if e.label == "success"]
        robot_s = sum(_length(e) for e in window) / control_hz
        points.append(
            {
                "episode_id": episode.episode_id,
                "success": episode.label == "success",
                "steps": _length(episode),
                "rate": len(won) / len(window),
                "throughput": 600.0 * len(won) / robot_s if robot_s else None,
                "median": statistics.median(won) if won else None,
            }
        )
    return points[-POINTS:]


def _length(episode: Episode) -> int:
    return episode.critical_steps or episode.steps


def _episode(episode_id: int, facts: dict[str, str], corrected: dict[int, str], size: int, ended_s: float) -> Episode:
    recorded = facts.get("label", "")
    label = corrected.get(episode_id, recorded)
    steps, handoff = _number(facts.get("steps")), _number(facts.get("handoff_step"))
    critical = steps - handoff if handoff or facts.get("start_in") == "critical" else 0
    return Episode(
        episode_id=episode_id,
        label=label,
        recorded_label=facts.get(RECORDED_LABEL, recorded if recorded != label else ""),
        purpose=facts.get("purpose", ""),
        driver=facts.get("critical_driver") or facts.get("driver", ""),
        steps=steps,
        critical_steps=max(0, critical),
        intervened=facts.get("intervened") == "true",
        actor_version=_number(facts.get("actor_version")),
        reason=facts.get("reason", ""),
        warning=facts.get("warning", ""),
        mib=size / 1024**2,
        ended_s=ended_s,
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 16 else 0
