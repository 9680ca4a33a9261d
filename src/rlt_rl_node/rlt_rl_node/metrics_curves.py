"""The metrics files of a run as curves: what a viewer of training curves is given. Pure, but for reading the files.

learning     <run>/metrics.jsonl: one entry per episode taken in, its step is the number of them
adaptation   <vla>/metrics.jsonl: one entry per report, its step is the optimiser's
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlt_common.advice_rules import WINDOW
from rlt_common.metrics_log import MAX_BYTES, METRICS_LOG, Row, lasting, number, read_metrics
from rlt_common.reading import parse_json, read_limited

LEARNING, ADAPTATION = "learning", "adaptation"
GROUPS = {
    "episode": ("critical_steps", "human_steps", "held_steps", "transitions", "episode_return"),
    "learning": (
        *("critic_loss", "q_mean", "return_mean", "actor_loss", "reference_distance", "beta"),
        *("critic_gradient_norm", "actor_gradient_norm", "actor_version"),
    ),
    "replay": ("replay", "replay_demonstrations", "replay_interventions", "replay_mb"),
    "work": ("updates", "owed", "updates_per_s", "take_in_s", "from_journal", "refused_messages", "robot_steps"),
}
"""Group -> the figures of metrics.jsonl in it; a figure is shown as `group/figure`."""


@dataclass(frozen=True)
class Entry:
    """Figures of one step. Two with the same `identity` are the same, whenever and however fast they were made."""

    identity: str
    step: int
    time: float
    values: Mapping[str, float]


def read_curves(run: Path, vla: Path) -> tuple[dict[str, list[Entry]], list[str]]:
    """Both curves, each empty where its file is not there, and in words what in the files is no entry.

    Raises OSError for a file that cannot be read, EpisodeFileError for corrected labels that cannot.
    """
    log = read_metrics(run)
    adaptation, problems = _adaptation(vla / METRICS_LOG)
    return {LEARNING: _learning(log.rows), ADAPTATION: adaptation}, [*log.problems, *problems]


def _learning(rows: list[Row]) -> list[Entry]:
    entries = []
    for step, row in enumerate(rows, start=1):
        recent = [each["label"] == "success" for each in rows[max(0, step - WINDOW) : step]]
        values = {f"{group}/{name}": number(row, name) for group, names in GROUPS.items() for name in names}
        values |= {"episode/success": float(recent[-1]), f"episode/success_of_{WINDOW}": sum(recent) / len(recent)}
        entries.append(Entry(_identity(lasting(row)), step, number(row, "time"), _finite(values)))
    return entries


def _adaptation(path: Path) -> tuple[list[Entry], list[str]]:
    try:
        lines, written_s = read_limited(path, MAX_BYTES).split(b"\n")[:-1], path.stat().st_mtime
    except FileNotFoundError:
        return [], []
    entries, problems = [], []
    for number_, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise ValueError("it has no step")
        except ValueError as error:
            problems.append(f"{path}: line {number_} is left out: {error}")
            continue
        group = "pretraining" if row.get("stage") == 0 else "adaptation"
        values = {f"{group}/{name}": number(row, name) for name in row if name not in ("stage", "step")}
        entries.append(Entry(_identity(row), row["step"], written_s, _finite(values)))
    return entries, problems


def _identity(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
