"""`ros2 run rlt_bringup report --run <run>`: report.html and report.json of any run, from its directory alone.

Where the directory is a demo's, its comparison of base VLA and RLT stays in both. Without ROS installed:
`python -m rlt_bringup.report_command`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlt_bringup.report import REPORT_JSON, format_table, interval, number, write_json
from rlt_bringup.report_html import write_html
from rlt_bringup.run_facts import RunError, read_run
from rlt_bringup.run_report import build_run
from rlt_common.reading import read_json


def report_of(run: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """The document of a run, with the demo's comparison where its report.json has one. Raises RunError."""
    made = build_run(read_run(run, progress))
    return {**_comparison(run), "task": made["task"], "run": made}


def _comparison(run: Path) -> dict[str, Any]:
    try:
        found = read_json(run / REPORT_JSON)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "ratio" in found else {}


def format_run(run: Mapping[str, Any]) -> str:
    """The figures as aligned plain text."""
    rows = [("", "episodes", "success rate (95 %)", "per 10 min", "median steps", "with a take-over")]
    rows += [
        (
            group["name"],
            str(group["episodes"]),
            f"{number(group['success_rate'], 2)} {interval(group['ci95'])}",
            number(group["throughput_per_10min"], 1),
            number(group["median_steps"], 0),
            str(group["intervened"]),
        )
        for group in run["groups"]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"advice: {each['text']} ({each['why']})" for each in run["advice"]]
    lines += [f"note: {problem}" for problem in run["problems"]]
    return "\n".join(lines)


def show_progress(done: int, total: int) -> None:
    """One line on a terminal that counts episodes."""
    if sys.stderr.isatty():
        print(f"\rreading episodes: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup report`."""
    parser = argparse.ArgumentParser(prog="report", description="one self-contained page about a run")
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--output", default="", help="folder for report.html and report.json (default: the run's)")
    options = parser.parse_args(arguments)
    run = Path(options.run)
    output = Path(options.output) if options.output else run
    try:
        document = report_of(run, show_progress)
        output.mkdir(parents=True, exist_ok=True)
        write_json(document, output)
        page = write_html(document, output)
    except (RunError, OSError) as error:
        sys.exit(f"report: {error}")
    print(format_table(document) + "\n" if "ratio" in document else "", end="")
    print(format_run(document["run"]))
    print(page)


if __name__ == "__main__":
    main()
