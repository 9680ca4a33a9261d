"""Result files of benchmarks, and the tables in benchmarks/README.md made from them.

A result is JSON: command, commit, machine, seeds, n, rows, goals (name, value, goal, met). Each benchmark owns the part
of README.md between its two marker comments.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlt_bringup.report import source_commit
from rlt_common.atomic import write_atomic
from rlt_common.reading import read_json

FOLDER = Path(__file__).resolve().parents[1]
README = FOLDER / "README.md"


@dataclass(frozen=True)
class Goal:
    """A goal of an issue, with its number as it stands there, and what was reached."""

    name: str
    value: float | None
    goal: str
    met: bool


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def result_path(name: str) -> Path:
    """Where the result of a benchmark is kept."""
    return FOLDER / "results" / f"{name}.json"


def quick() -> bool:
    """Whether QUICK=1 asks for the small run that only shows the path."""
    return os.environ.get("QUICK", "0") not in ("", "0")


def show_committed(name: str, shown: str) -> None:
    """End a quick run: what it has `shown`, and the goals as the committed full result has them, where there is one."""
    print(f"path shown: {shown}")
    if result_path(name).exists():
        print(f"goals from {result_path(name)}:\n{goal_table(read_result(name)['goals'])}")


def read_result(name: str) -> dict[str, Any]:
    """The committed result of a benchmark."""
    return read_json(result_path(name))


def write_result(
    name: str,
    *,
    command: str,
    seeds: Sequence[int],
    n: int,
    rows: Sequence[Mapping[str, Any]],
    goals: Sequence[Goal],
    commit: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write the result file of a benchmark.

    `commit`: where it cannot be read off the tree; `facts`: about the machine, beside the usual ones.
    """
    document = {
        "name": name,
        "command": command,
        "commit": commit or source_commit(FOLDER),
        "machine": {**machine(), **(facts or {})},
        "seeds": list(seeds),
        "n": n,
        "rows": list(rows),
        "goals": [asdict(goal) for goal in goals],
    }
    path = result_path(name)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())
    return path


def publish(
    name: str,
    table: Callable[[Mapping[str, Any]], str],
    *,
    command: str,
    seeds: Sequence[int],
    n: int,
    rows: Sequence[Mapping[str, Any]],
    goals: Sequence[Goal],
    commit: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """End a full run: write the result, its `table` into benchmarks/README.md, and print the goals."""
    path = write_result(name, command=command, seeds=seeds, n=n, rows=rows, goals=goals, commit=commit, facts=facts)
    document = read_result(name)
    update_readme(name, table(document))
    print(f"{path}\n{goal_table(document['goals'])}")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def goal_table(goals: Sequence[Mapping[str, Any]]) -> str:
    """The goals of a result in Markdown."""
    rows = [
        (g["name"], "none" if g["value"] is None else f"{g['value']:.3g}", g["goal"], "yes" if g["met"] else "**no**")
        for g in goals
    ]
    return markdown_table(("goal", "measured", "wanted", "met"), rows)


def update_readme(name: str, text: str) -> None:
    """Replace the part of benchmarks/README.md that belongs to this benchmark."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = README.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise ValueError(f"{README} has no place for {name}: add the lines {begin} and {end}")
    head, rest = page.split(begin, 1)
    _, tail = rest.split(end, 1)
    write_atomic(README, f"{head}{begin}\n{text}\n{end}{tail}".encode())
