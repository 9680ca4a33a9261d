"""`make bench-td3`: reduced to single steps the learner is TD3, and must reach what is published of TD3.

C = 1, stride 1, beta = 0, no reference, no RL token, tanh actor, target actor with smoothing noise: the same `Agent`
as on the robot. Published: Pendulum-v1 about -150 (RL Baselines3 Zoo, TD3 after 20,000 steps); InvertedPendulum 1000,
which is its most. QUICK=1 runs Pendulum on one seed; ARGS="--seeds 0,1" and "--runs DIR" (finished seeds are kept
there) are the options.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.results import (
    Goal,
    goal_table,
    markdown_table,
    publish,
    quick,
    show_committed,
)
from harness.td3_task import Task

from rlt_common.reading import read_json

NAME = "td3"
SEEDS = (0, 1, 2)


TASKS = (
    Task("Pendulum-v1", 20_000, 2_000, 0.98, 1e-3, published=-150.0, goal=-165.0),
    Task("InvertedPendulum-v5", 50_000, 5_000, 0.99, 3e-4, published=1000.0, goal=1000.0, evaluations=10),
)


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue, on the mean over the seeds."""
    found = []
    for task in TASKS:
        for bfloat16 in (False, True):
            reached = [r["return"] for r in rows if r["environment"] == task.environment and r["bfloat16"] == bfloat16]
            if reached:
                mean = float(np.mean(reached))
                name = f"{task.environment}, mean of {len(reached)} seeds, {'bfloat16' if bfloat16 else 'float32'}"
                about = f"about {task.published:.0f} (>= {task.goal:.0f})"
                found.append(Goal(name, mean, about, mean >= task.goal))
    return found


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    header = ("environment", "products", "seed", "steps", "mean return", "published")
    lines = [
        (
            r["environment"],
            "bfloat16" if r["bfloat16"] else "float32",
            str(r["seed"]),
            f"{r['steps']:,}",
            f"{r['return']:.1f}",
            f"{r['published']:.0f}",
        )
        for r in document["rows"]
    ]
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {document['machine']['cpu']}; "
        f"returns are means of {document['n']} or more episodes without noise."
    )
    return f"{head}\n\n{markdown_table(header, lines)}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Practise what is missing, write the result and the table."""
    from harness.td3_practice import practise  # gymnasium is installed for this benchmark only

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="bench-td3", description=__doc__)
    parser.add_argument("--runs", default="runs/bench-td3", help="folder of finished seeds")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="seeds, comma separated")
    options = parser.parse_args()
    if quick():
        row = practise(TASKS[0], 0, bfloat16=False)
        show_committed(NAME, f"{row}\n{goal_table([vars(goal) for goal in goals([row])])}")
        return
    folder, rows = Path(options.runs), []
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for task in TASKS:
        for bfloat16 in (False, True):
            for seed in seeds:
                path = folder / f"{task.environment}-{'bf16' if bfloat16 else 'f32'}-{seed}.json"
                if not path.is_file():
                    path.write_text(json.dumps(practise(task, seed, bfloat16)), encoding="utf-8")
                rows.append(read_json(path))
                print(f"td3: {rows[-1]}", flush=True)
    n = min(task.evaluations for task in TASKS)
    publish(NAME, table, command="make bench-td3", seeds=seeds, n=n, rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
