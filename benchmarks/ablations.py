"""`make bench-ablations`: the full system and the paper's four ablations (Sec. V-B) on the screw, in process.

Per seed one VLA, adapted as `make demo` does, and for every variant its own actor and critic on the same resets. The
runs are resumable; ARGS="--runs DIR" says where they lie (those of bench-screw will do), "--seeds 0 --variants
full,no-chunk" does a part. QUICK=1 shows the path with everything small, and re-reads the committed result.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import jobs
from harness.curves import write_curves
from harness.experiment import Experiment
from harness.in_process import build_report, experiment_of, prepare
from harness.pooled import pool, pooled_ratio
from harness.results import (
    Goal,
    goal_table,
    markdown_table,
    publish,
    quick,
    result_path,
    show_committed,
)

from rlt_bringup.demo import DEFAULT_TASK
from rlt_bringup.report import interval, number
from rlt_common.parameters import ParameterError

NAME = "ablations"
SEEDS = (0, 1, 2)
FULL, BARE, CURRICULUM = "full", "no-demonstrations", "curriculum"
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    FULL: ("full system", {}),
    "no-rl-token": ("no RL token: frozen random convolutional encoder", {"state_encoder": "random_conv"}),
    BARE: ("no demonstrations in the replay", {"demonstrations": 0}),
    "no-chunk": (
        "no chunk: C = 1, every step its own reference; no demonstrations either",
        {"chunk_length": 1, "stride": 1, "demonstrations": 0},
    ),
    "no-bc": ("beta = 0", {"agent": {"beta": 0.0, "beta_start": 0.0}}),
    "no-pass-through": ("no pass-through: the actor does not see the reference", {"agent": {"use_reference": False}}),
    CURRICULUM: ("the first 40 episodes start in the critical phase", {"critical_episodes": 40}),
    "mean-pool": ("no RL token: mean of the VLA's embeddings", {"state_encoder": "mean_pool"}),
    "proprioception": ("no RL token: proprioception alone", {"agent": {"use_rl_token": False}}),
}
"""Name -> title and what differs from the task file."""
CHOSEN = (FULL, CURRICULUM, BARE, "no-rl-token", "no-chunk", "no-bc", "no-pass-through")
"""What is measured unless said otherwise: the paper's curriculum and ablations, and our own addition to the replay."""
AGAINST = {"no-chunk": BARE}
"""What a variant is compared with where it is not the full system. Demonstrations are observed every second step: there
is no transition of one step in them, so the system without chunks is held against the chunks without demonstrations.
"""
COST = {"no-chunk": 4.0}
"""Rough cost of a variant in units of the full system, for the time left."""


def experiment(variant: str, seed: int, more: Mapping[str, Any]) -> Experiment:
    """The experiment of a variant."""
    return experiment_of({"name": variant, "seed": seed, **VARIANTS[variant][1], **more}, ())


def compared_with(variant: str) -> str:
    """The variant that another one is held against."""
    return AGAINST.get(variant, FULL)


def row(variant: str, seed: int, report: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, Any]:
    """What the result keeps of one variant and seed; `full`: the full system's report of the same seed."""
    keys = ("episodes", "successes", "success_rate", "ci95", "throughput_per_10min", "median_steps")
    episodes = {key: report["rlt"][key] for key in ("seeds", "success", "steps")}
    if report["rlt"]["seeds"] != full["rlt"]["seeds"]:
        raise ParameterError(f"{variant}, seed {seed}: evaluated on other resets than the full system")
    curve = report["training"]["curve"]
    return {
        "variant": variant,
        "seed": seed,
        "commit": report["commit"],
        **{key: report["rlt"][key] for key in keys},
        "evaluation": episodes,
        "base_throughput_per_10min": report["base"]["throughput_per_10min"],
        "training": {key: curve[key] for key in ("success", "steps")},
        "training_successes": sum(curve["success"]),
        "robot_minutes": report["robot_minutes"],
        "wall_minutes": report["wall_minutes"],
        "control_hz": report["control_hz"],
    }


def pooled(rows: Sequence[Mapping[str, Any]], variant: str) -> dict[str, Any]:
    """A variant over all seeds, and its ratio to what it is compared with."""
    own = {r["seed"]: r for r in rows if r["variant"] == variant}
    other = {r["seed"]: r for r in rows if r["variant"] == compared_with(variant)}
    hz = next(iter(own.values()))["control_hz"]
    policies, others = ([source[seed]["evaluation"] for seed in sorted(own)] for source in (own, other))
    return {
        **pool(policies, hz),
        "ratio": pooled_ratio(policies, others, hz),
        "per_seed": [own[seed]["throughput_per_10min"] for seed in sorted(own)],
        "training_successes": sum(r["training_successes"] for r in own.values()) / len(own),
    }


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """Every part is worth its place: each ablation falls below what it is compared with. The curriculum is none."""
    found = []
    for variant in dict.fromkeys(r["variant"] for r in rows):
        if variant not in (FULL, CURRICULUM):
            ratio = pooled(rows, variant)["ratio"]["throughput"]
            met = ratio is not None and ratio < 1.0
            found.append(Goal(f"throughput of {variant} over {compared_with(variant)}", ratio, "< 1", met))
    return found


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    rows = document["rows"]
    lines = []
    for variant in dict.fromkeys(r["variant"] for r in rows):
        p = pooled(rows, variant)
        ratio = f"{number(p['ratio']['throughput'], 2)} {interval(p['ratio']['throughput_ci95'])}"
        lines.append(
            [
                VARIANTS[variant][0],
                f"{p['success_rate']:.2f} [{p['ci95'][0]:.2f}, {p['ci95'][1]:.2f}]",
                f"{p['throughput_per_10min']:.1f}",
                ", ".join(f"{value:.0f}" for value in p["per_seed"]),
                number(p["median_steps"], 0),
                "" if variant == FULL else ratio,
                f"{p['training_successes']:.0f}",
            ]
        )
    header = (
        "variant",
        "success (95 %)",
        "per 10 min",
        "per 10 min of each seed",
        "median steps",
        "throughput over full (95 %); no chunk: over no demonstrations",
        "successes in training",
    )
    seeds = ", ".join(map(str, document["seeds"]))
    return (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {document['machine']['cpu']}, "
        f"{document['machine']['cores']} cores; seeds {seeds}, n = {document['n']} held-out resets per variant and "
        f"seed.\n\n{markdown_table(header, lines)}\n\n![learning curves](results/{NAME}.svg)\n\n"
        + goal_table(document["goals"])
    )


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The learning curves beside the full system's."""
    curves = {
        VARIANTS[variant][0]: [
            (np.array(r["training"]["success"]), np.array(r["training"]["steps"]))
            for r in rows
            if r["variant"] == variant
        ]
        for variant in dict.fromkeys(r["variant"] for r in rows)
    }
    base = np.mean([r["base_throughput_per_10min"] or 0.0 for r in rows if r["variant"] == FULL])
    title = "screw: throughput while training"
    return write_curves(path, curves, control_hz=rows[0]["control_hz"], base=float(base), title=title)


def run_benchmark() -> None:
    """Run what is missing, write the result, the table and the curves."""
    parser = argparse.ArgumentParser(prog="bench-ablations", description=__doc__)
    parser.add_argument("--runs", default="runs/bench-screw", help="folder of the runs, one per seed")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="run seeds, comma separated")
    parser.add_argument("--variants", default=",".join(CHOSEN), help=f"comma separated, of: {', '.join(VARIANTS)}")
    parser.add_argument("--checkpoints", type=int, default=1, help="actors to choose from by a held-out selection")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    options = parser.parse_args()
    small = quick()
    asked = options.variants.split(",")
    variants = list(dict.fromkeys([FULL, *(compared_with(v) for v in asked), *asked]))
    unknown = [v for v in variants if v not in VARIANTS]
    if unknown:
        parser.error(f"no variant {unknown[0]!r}; there are: {', '.join(VARIANTS)}")
    seeds = [0] if small else [int(seed) for seed in options.seeds.split(",")]
    folder = Path(options.runs).resolve()
    runs = {seed: folder / (f"{NAME}-quick" if small else f"seed{seed}") for seed in seeds}
    more = dict(jobs.SMALL) if small else {"checkpoints": options.checkpoints}
    todo = {(v, seed): experiment(v, seed, more) for seed in seeds for v in variants}
    adapt_jobs = [jobs.adaptation(run, DEFAULT_TASK, seed, small) for seed, run in runs.items()]
    base_jobs = [jobs.base_evaluation(runs[seed], todo[FULL, seed]) for seed in seeds]
    longest_first = sorted(variants, key=lambda v: -COST.get(v, 1.0))
    own_jobs = [jobs.experiment(runs[s], todo[v, s], COST.get(v, 1.0)) for v in longest_first for s in seeds]
    jobs.run_jobs(NAME, [*adapt_jobs, *base_jobs, *own_jobs], options.workers)
    reports = {key: build_report(prepare(e, runs[key[1]])) for key, e in todo.items()}
    rows = [row(v, seed, reports[v, seed], reports[FULL, seed]) for v in variants for seed in seeds]
    if small:
        draw(runs[0] / f"{NAME}.svg", rows)
        show_committed(NAME, f"{', '.join(variants)}, {rows[0]['episodes']} episodes each")
        return
    command = "make bench-ablations" + (f" ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "")
    draw(result_path(NAME).with_suffix(".svg"), rows)
    publish(NAME, table, command=command, seeds=seeds, n=min(r["episodes"] for r in rows), rows=rows, goals=goals(rows))


if __name__ == "__main__":
    jobs.run_resumable(NAME, run_benchmark)
