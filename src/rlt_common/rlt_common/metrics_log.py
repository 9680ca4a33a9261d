"""`<run>/metrics.jsonl` as its readers see it: one row per episode that the learner took in, in that order.

A learner that was killed takes episodes in again and writes their lines again: the last line of an episode counts, in
the place of its first. What every key means is in `metrics_table`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_common.reading import parse_json, read_limited
from rlt_common.relabels import corrected_labels

METRICS_LOG = "metrics.jsonl"
MAX_BYTES = 256 * 1024**2
TIMES = ("time", "updates_per_s", "take_in_s", "from_journal", "refused_messages")
"""Keys that say how it went this time: an episode that is taken in again after a restart may have others."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class MetricsLog:
    """What a file holds. `problems`: in words, what in it is no row. `repeated`: lines about episodes that had one."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    repeated: int = 0


def read_metrics(run: Path | str) -> MetricsLog:
    """The rows of a run; a run without any has none. A line that is not ended yet is left for the next time.

    Labels that the operator corrected since are the corrected ones, where the run is of one robot. Raises OSError when
    the file is there and cannot be read or is larger than MAX_BYTES, EpisodeFileError likewise for the corrections.
    """
    path = Path(run) / METRICS_LOG
    try:
        lines = read_limited(path, MAX_BYTES).split(b"\n")[:-1]
    except FileNotFoundError:
        return MetricsLog()
    found, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_row(line))
        except ValueError as error:
            problems.append(f"{path}: line {number} is left out: {error}")
    corrected = corrected_labels(run)
    rows = [
        {**row, "label": corrected[row["episode"]]} if not row.get("robot") and row["episode"] in corrected else row
        for row in newest(found)
    ]
    return MetricsLog(rows, problems, len(found) - len(rows))


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each episode, in the place of its first."""
    return list({(row.get("robot", ""), row["episode"]): row for row in rows}.values())


def lasting(row: Row) -> dict[str, Any]:
    """The row without TIMES: what is the same when the same is done again."""
    return {key: value for key, value in row.items() if key not in TIMES}


def number(row: Row, key: str) -> float:
    """A figure of a row; NaN where it is missing, null or no number."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _row(line: bytes) -> Row:
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    episode, label, robot = row.get("episode"), row.get("label"), row.get("robot", "")
    if type(episode) is not int or not 0 <= episode <= HIGHEST_EPISODE_ID:
        raise ValueError(f"episode is {str(episode)[:40]!r}")
    if not isinstance(label, str) or not isinstance(robot, str):
        raise ValueError(f"label is {str(label)[:40]!r}, robot {str(robot)[:40]!r}")
    return row
