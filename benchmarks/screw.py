"""`make bench-screw`: the whole demo on three seeds, each with its own demonstrations, VLA and RL token.

Each seed is one `make demo SEED=s`, resumable; `ARGS="--runs DIR"` says where the runs lie. QUICK=1 runs the small
demo on one seed to show the path, and re-reads the goals from the committed full result.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.results import (
    Goal,
    goal_table,
    markdown_table,
    publish,
    quick,
    show_committed,
)

from rlt_common.reading import read_json

NAME = "screw"
SEEDS = (0, 1, 2)
THROUGHPUT_GOAL = 2.5
WALL_GOAL_MINUTES = 40.0


def run_demo(run: Path, seed: int, quick: bool) -> dict[str, Any]:
    """One demo run, and its report."""
    command = [sys.executable, "-m", "rlt_bringup.demo", "--run", str(run), "--seed", str(seed)]
    subprocess.run([*command, *(["--quick"] if quick else [])], check=True, stdin=subprocess.DEVNULL)
    return read_json(run / "report.json")


def row(seed: int, report: Mapping[str, Any]) -> dict[str, Any]:
    """What the table shows of one seed."""
    keys = ("episodes", "successes", "success_rate", "ci95", "throughput_per_10min", "median_steps")
    return {
        "seed": seed,
        "commit": report["commit"],
        "base_execute_steps": report["base"]["execute_steps"],
        "base": {key: report["base"][key] for key in keys},
        "rlt": {key: report["rlt"][key] for key in keys},
        "ratio": report["ratio"],
        "robot_minutes": report["robot_minutes"],
        "wall_minutes": report["wall_minutes"],
        "reconstruction": report["vla"],
    }


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of issue 1, worst seed first; a seed without a ratio misses."""
    ratios = [r["ratio"]["throughput"] or 0.0 for r in rows]
    gains = [r["rlt"]["success_rate"] - r["base"]["success_rate"] for r in rows]
    base = [r["base"]["success_rate"] for r in rows]
    wall = max(r["wall_minutes"] for r in rows)
    return [
        Goal(
            "throughput of RLT over the better base, worst seed", min(ratios), ">= 2.5", min(ratios) >= THROUGHPUT_GOAL
        ),
        Goal("success rate of RLT minus base, worst seed", min(gains), "> 0", min(gains) > 0),
        Goal("lowest success rate of the base", min(base), ">= 0.2", min(base) >= 0.2),
        Goal("highest success rate of the base", max(base), "<= 0.8", max(base) <= 0.8),
        Goal("longest demo, minutes after set-up", wall, "<= 40", wall <= WALL_GOAL_MINUTES),
    ]


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""

    def policy(p: Mapping[str, Any]) -> list[str]:
        steps = "none" if p["median_steps"] is None else f"{p['median_steps']:.0f}"
        rate = f"{p['success_rate']:.2f} [{p['ci95'][0]:.2f}, {p['ci95'][1]:.2f}]"
        return [rate, f"{p['throughput_per_10min']:.1f}", steps]

    lines = [
        [
            str(r["seed"]),
            str(r["base_execute_steps"]),
            *policy(r["base"]),
            *policy(r["rlt"]),
            f"{r['ratio']['throughput']:.2f} "
            f"[{r['ratio']['throughput_ci95'][0]:.2f}, {r['ratio']['throughput_ci95'][1]:.2f}]",
            f"{r['robot_minutes']:.1f}",
            f"{r['wall_minutes']:.0f}",
        ]
        for r in document["rows"]
    ]
    header = (
        "seed",
        "base executes",
        "base success (95 %)",
        "base per 10 min",
        "base median steps",
        "RLT success (95 %)",
        "RLT per 10 min",
        "RLT median steps",
        "throughput ratio (95 %)",
        "robot min",
        "wall min",
    )
    return (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {document['machine']['cpu']}, "
        f"{document['machine']['cores']} cores; n = {document['n']} held-out resets per policy and seed.\n\n"
        + markdown_table(header, lines)
        + "\n\n"
        + goal_table(document["goals"])
    )


def main() -> None:
    """Run what is missing, write the result and the table."""
    parser = argparse.ArgumentParser(prog="bench-screw", description=__doc__)
    parser.add_argument("--runs", default="runs/bench-screw", help="folder of the runs, one per seed")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="run seeds, comma separated")
    options = parser.parse_args()
    if quick():
        report = run_demo(Path(options.runs) / "quick", 0, quick=True)
        show_committed(NAME, f"{report['rlt']['episodes']} episodes evaluated")
        return
    seeds = [int(seed) for seed in options.seeds.split(",")]
    reports = [run_demo(Path(options.runs) / f"seed{seed}", seed, quick=False) for seed in seeds]
    rows = [row(seed, report) for seed, report in zip(seeds, reports, strict=True)]
    publish(
        NAME,
        table,
        command="make bench-screw" + ("" if tuple(seeds) == SEEDS else f" ARGS='--seeds {options.seeds}'"),
        seeds=seeds,
        n=min(r["rlt"]["episodes"] for r in rows),
        rows=rows,
        goals=goals(rows),
    )


if __name__ == "__main__":
    main()
