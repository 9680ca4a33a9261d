"""`make bench-tasks`: base VLA and RLT on every simulated task within 15 minutes of robot data, in process.

Per task and run seed: own demonstrations, VLA and RL token, adapted as `make demo` does, and own actor and critic. The
runs are resumable; ARGS="--runs DIR" says where they lie. ARGS="--tasks screw --seeds 0" does a part, and leaves the
other rows of the committed result as they are. QUICK=1 shows the path with everything small, and re-reads that result.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import jobs
from harness.curves import TaskCurves, write_task_curves
from harness.experiment import Experiment
from harness.in_process import build_report, experiment_of, prepare
from harness.pooled import pool, pooled_ratio
from harness.results import (
    Goal,
    goal_table,
    markdown_table,
    publish,
    quick,
    read_result,
    result_path,
    show_committed,
)

from rlt_bringup.report import interval, number

NAME = "tasks"
TASKS = ("screw", "zip_tie", "ethernet", "charger")
SEEDS = (0, 1, 2)
EPISODES = 50
"""Held-out resets per policy, task and seed."""
ROBOT_MINUTES = 15.0
CHECKPOINTS = 3
"""Actors to choose from by 50 resets of their own."""
MOST_EPISODES = 1000
"""Training episodes at most; robot data ends sooner, unless they take less than 45 of its 45,000 control steps each."""
QUICK_TASKS = 2
LIMITS: Sequence[tuple[str, str, Callable[[float], bool], str]] = (
    ("{}: seeds with 50 or more held-out episodes", "full_seeds", lambda v: v >= 3, ">= 3"),
    ("{}: throughput of RLT over the better base", "ratio", lambda v: v >= 3.0, ">= 3"),
    ("aim: {}: throughput of RLT over the better base", "ratio", lambda v: v >= 5.0, ">= 5"),
    ("{}: median steps of RLT over the base's", "steps_ratio", lambda v: v <= 0.5, "<= 0.5"),
    ("aim: {}: median steps of RLT over the base's", "steps_ratio", lambda v: v <= 1.0 / 3.0, "<= 1/3"),
    ("{}: success rate of RLT", "success", lambda v: v >= 0.9, ">= 0.9"),
    ("aim: {}: success rate of RLT", "success", lambda v: v >= 0.95, ">= 0.95"),
    ("aim: {}: episodes of RLT faster than every demonstration", "faster", lambda v: v >= 0.5, ">= 0.5"),
    ("{}: lowest success rate of the base over the seeds", "base_low", lambda v: v >= 0.3, ">= 0.3"),
    ("{}: highest success rate of the base over the seeds", "base_high", lambda v: v <= 0.6, "<= 0.6"),
    ("{}: minutes of robot data, longest seed", "minutes", lambda v: v <= ROBOT_MINUTES, "<= 15"),
)
"""What is wanted of a task, its name in :func:`figures`, whether a value meets it, and the bound as text."""


def experiment(task: str, seed: int, more: Mapping[str, Any]) -> Experiment:
    """RLT on a task and seed."""
    values = {"task": task, "seed": seed, "training_episodes": MOST_EPISODES, "evaluation_episodes": EPISODES, **more}
    return experiment_of(values, ())


def row(task: str, seed: int, report: Mapping[str, Any], command: str) -> dict[str, Any]:
    """What the result keeps of one task and seed. `command` repeats it, but for the choice of tasks and seeds."""
    keys = ("episodes", "successes", "success_rate", "ci95", "throughput_per_10min", "median_steps")
    keys += ("seeds", "success", "steps")
    base, rlt, training = report["base"], report["rlt"], report["training"]
    demonstrations = report["demonstrations"]
    fastest = min(demonstrations["steps"], default=None)
    return {
        "task": task,
        "seed": seed,
        "commit": report["commit"],
        "command": command,
        "base_execute_steps": base["execute_steps"],
        "base": {key: base[key] for key in keys},
        "rlt": {key: rlt[key] for key in keys},
        "ratio": {key: report["ratio"][key] for key in ("throughput", "throughput_ci95", "median_steps")},
        "training_episodes": len(training["curve"]["steps"]),
        "robot_minutes": round(training["critical_robot_minutes"], 6),
        "all_robot_minutes": round(training["robot_minutes"], 6),
        "wall_minutes": report["wall_minutes"],
        "demonstrations": {
            "episodes": demonstrations["episodes"],
            "fastest_steps": fastest,
            "median_steps": demonstrations["median_steps"],
        },
        "faster_than_demonstrations": share_faster(rlt["success"], rlt["steps"], fastest),
        "chosen_actor": report["selection"]["chosen"],
        "training": {key: training["curve"][key] for key in ("success", "steps")},
        "control_hz": report["control_hz"],
    }


def share_faster(success: Sequence[bool], steps: Sequence[int], fastest: int | None) -> float | None:
    """Of all episodes the share that succeeded in fewer steps than the fastest demonstration; None without any."""
    if fastest is None or not success:
        return None
    return sum(won and n < fastest for won, n in zip(success, steps, strict=True)) / len(success)


def of_task(rows: Sequence[Mapping[str, Any]], task: str) -> list[Mapping[str, Any]]:
    """The rows of a task."""
    return [r for r in rows if r["task"] == task]


def tasks_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tasks that have rows."""
    return list(dict.fromkeys(r["task"] for r in rows))


def merge(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """`rows`, and those of `others` whose task and seed they do not have; by task, then seed."""
    found = {(r["task"], r["seed"]): r for r in (*others, *rows)}
    return tuple(found[key] for key in sorted(found, key=lambda k: (TASKS.index(k[0]), k[1])))


def pooled_faster(own: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of all seeds' episodes that beat the demonstrations of their own seed."""
    shares = [r["faster_than_demonstrations"] for r in own]
    if None in shares:
        return None
    return float(np.average(shares, weights=[r["rlt"]["episodes"] for r in own]))


def figures(own: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """What the goals judge of one task, over its seeds: every held-out reset counts once."""
    policies, bases = [r["rlt"] for r in own], [r["base"] for r in own]
    ratio = pooled_ratio(policies, bases, own[0]["control_hz"])
    return {
        "full_seeds": sum(min(r["rlt"]["episodes"], r["base"]["episodes"]) >= EPISODES for r in own),
        "ratio": ratio["throughput"],
        "steps_ratio": ratio["median_steps"],
        "success": pool(policies, own[0]["control_hz"])["success_rate"],
        "faster": pooled_faster(own),
        "base_low": min(base["success_rate"] for base in bases),
        "base_high": max(base["success_rate"] for base in bases),
        "minutes": max(r["robot_minutes"] for r in own),
    }


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals and aims of every task; without a value it is missed."""
    found = []
    for task in tasks_of(rows):
        values = figures(of_task(rows, task))
        for name, key, meets, bound in LIMITS:
            value = values[key]
            found.append(Goal(name.format(task), value, bound, value is not None and meets(value)))
    return found


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown: a line per task and seed, and one over the seeds of a task."""
    rows = document["rows"]
    lines = []
    for task in tasks_of(rows):
        own = of_task(rows, task)
        for r in own:
            about = (
                f"{r['training_episodes']}",
                f"{r['robot_minutes']:.1f} ({r['all_robot_minutes']:.1f})",
                f"{r['wall_minutes']:.0f}",
                f"{number(r['demonstrations']['fastest_steps'], 0)}, {number(r['demonstrations']['median_steps'], 0)}",
            )
            lines.append(_line(task, str(r["seed"]), r["base"], r["rlt"], r["ratio"], about, _faster(r)))
        hz, policies, bases = own[0]["control_hz"], [r["rlt"] for r in own], [r["base"] for r in own]
        ratio = pooled_ratio(policies, bases, hz)
        everything = pool(bases, hz), pool(policies, hz), ratio
        lines.append(_line(f"**{task}**", "all", *everything, ("",) * 4, number(pooled_faster(own), 2)))
    header = (
        "task",
        "seed",
        "base success (95 %)",
        "base per 10 min",
        "base median steps",
        "RLT success (95 %)",
        "RLT per 10 min",
        "RLT median steps",
        "throughput ratio (95 %)",
        "steps ratio",
        "training episodes",
        "robot data, min (with BASE)",
        "wall min",
        "demonstrations' steps: fastest, median",
        "faster than all of them",
    )
    return (
        f"{_origin(rows)}. {document['machine']['cpu']}, {document['machine']['cores']} cores; n = {document['n']} "
        f"held-out resets per policy, task and seed.\n\n{markdown_table(header, lines)}\n\n"
        f"![throughput while training](results/{NAME}.svg)\n\n{goal_table(document['goals'])}"
    )


def _line(
    task: str,
    seed: str,
    base: Mapping[str, Any],
    rlt: Mapping[str, Any],
    ratio: Mapping[str, Any],
    about: Sequence[str],
    faster: str,
) -> list[str]:
    def policy(p: Mapping[str, Any]) -> list[str]:
        rate = f"{p['success_rate']:.2f} {interval(p['ci95'])}"
        return [rate, number(p["throughput_per_10min"], 1), number(p["median_steps"], 0)]

    throughput = f"{number(ratio['throughput'], 2)} {interval(ratio['throughput_ci95'])}"
    ratios = [throughput, number(ratio["median_steps"], 2)]
    return [task, seed, *policy(base), *policy(rlt), *ratios, *about, faster]


def _faster(r: Mapping[str, Any]) -> str:
    return number(r["faster_than_demonstrations"], 2)


def _origin(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which command at which commit made which rows."""
    made: dict[tuple[str, str], list[str]] = {}
    for r in rows:
        commit = r["commit"][:10] + ("+" if r["commit"].endswith("+") else "")
        made.setdefault((r["command"], commit), []).append(f"{r['task']} {r['seed']}")
    if len(made) == 1:
        ((command, commit),) = made
        return f"`{command}`, commit `{commit}`"
    return "; ".join(f"{', '.join(which)}: `{command}`, commit `{commit}`" for (command, commit), which in made.items())


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Throughput over robot time, a panel per task."""
    panels = {}
    for task in tasks_of(rows):
        own = of_task(rows, task)
        seeds = [(np.array(r["training"]["success"]), np.array(r["training"]["steps"])) for r in own]
        base = pool([r["base"] for r in own], own[0]["control_hz"])["throughput_per_10min"]
        panels[task] = TaskCurves(seeds, base)
    return write_task_curves(path, panels, control_hz=rows[0]["control_hz"])


def integers(text: str) -> list[int]:
    """Comma separated."""
    return [int(part) for part in text.split(",")]


def run_benchmark() -> None:
    """Run what is missing, write the result, the table and the curves."""
    parser = argparse.ArgumentParser(prog="bench-tasks", description=__doc__)
    parser.add_argument("--runs", default="runs/bench-tasks", help="folder of the runs, one per task and seed")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"comma separated, of: {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=integers, default=list(SEEDS), help="run seeds, comma separated")
    parser.add_argument(
        "--checkpoints", type=int, default=CHECKPOINTS, help="actors to choose from by a held-out selection"
    )
    parser.add_argument(
        "--robot-minutes", type=float, default=ROBOT_MINUTES, help="robot data: time of the critical phases of training"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    options = parser.parse_args()
    tasks, seeds = list(dict.fromkeys(options.tasks.split(","))), list(dict.fromkeys(options.seeds))
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        parser.error(f"no task {unknown[0]!r}; there are: {', '.join(TASKS)}")
    if options.robot_minutes <= 0:
        parser.error("--robot-minutes must be more than 0")
    if options.workers < 1:
        parser.error("--workers must be 1 or more")
    small = quick()
    if small:
        tasks, seeds = tasks[:QUICK_TASKS], seeds[:1]
    more: dict[str, Any] = {"robot_minutes": options.robot_minutes, "checkpoints": options.checkpoints}
    # Other options are another experiment, with results of its own beside these.
    more["name"] = f"rlt-{options.robot_minutes:g}min-{options.checkpoints}".replace(".", "_")
    if small:
        more |= jobs.SMALL
    folder = Path(options.runs).resolve()
    runs = {(t, s): folder / (f"{t}-{s}-quick" if small else f"{t}-{s}") for s in seeds for t in tasks}
    todo = {key: experiment(*key, more) for key in runs}
    work = []
    for (task, seed), run in runs.items():
        work += [
            jobs.adaptation(run, task, seed, small),
            jobs.base_evaluation(run, todo[task, seed]),
            jobs.experiment(run, todo[task, seed]),
        ]
    jobs.run_jobs(NAME, work, options.workers)
    command = _command(options)
    rows = [row(*key, build_report(prepare(todo[key], run)), command) for key, run in runs.items()]
    if small:
        picture = draw(folder / f"{NAME}-quick.svg", rows)
        show_committed(NAME, f"{', '.join(tasks)}, {rows[0]['rlt']['episodes']} episodes each; {picture}")
        return
    rows = merge(rows, read_result(NAME)["rows"] if result_path(NAME).exists() else ())
    draw(result_path(NAME).with_suffix(".svg"), rows)
    publish(
        NAME,
        table,
        command="; ".join(dict.fromkeys(r["command"] for r in rows)),
        seeds=sorted({r["seed"] for r in rows}),
        n=min(r["rlt"]["episodes"] for r in rows),
        rows=rows,
        goals=goals(rows),
    )


def _command(options: argparse.Namespace) -> str:
    """What repeats a row, but for the choice of tasks and seeds."""
    changed = [f"--checkpoints {options.checkpoints}"] if options.checkpoints != CHECKPOINTS else []
    changed += [f"--robot-minutes {options.robot_minutes:g}"] if options.robot_minutes != ROBOT_MINUTES else []
    return "make bench-tasks" + (f" ARGS='{' '.join(changed)}'" if changed else "")


if __name__ == "__main__":
    jobs.run_resumable(NAME, run_benchmark)
