"""The log of an adaptation, metrics.jsonl: one line per report, and what a run that is resumed keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlt_common.atomic import write_atomic
from rlt_common.reading import parse_json, read_limited

METRICS_LOG = "metrics.jsonl"
MAX_METRICS_BYTES = 256 * 1024**2


def keep_metrics(path: Path, kept: Callable[[Mapping[str, Any]], bool]) -> None:
    """Drop the lines that are torn or not `kept`: those of steps that will be done again. No log is no error."""
    if not path.exists():
        return
    lines = []
    for line in read_limited(path, MAX_METRICS_BYTES).decode().splitlines():
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if kept(entry):
            lines.append(line + "\n")
    write_atomic(path, "".join(lines).encode())


def listed(values: Mapping[str, float]) -> str:
    """Figures as words."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
