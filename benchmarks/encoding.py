"""`make bench-encoding`: does the deferred encoding of strided observations keep up with the robot?

The VLA node's scheduler and encoder at their real size on a critical phase of 10 s, in robot time
(`harness.robot_time`), in turn alone and with the learner at full load in another process. QUICK=1 repeats each twice
and re-reads the goals from the committed result.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from harness.busy_learner import busy_learner
from harness.critical_phase import (
    CriticalPhase,
    Phase,
    boundary_latencies,
    figures,
    kept_bytes,
    observe_phase,
    random_model,
)
from harness.episode_loop import Plant
from harness.results import (
    Goal,
    goal_table,
    markdown_table,
    publish,
    quick,
    show_committed,
)
from harness.settings import settings
from learner import ours

from rlt_bringup.graph import config_file
from rlt_common.config import load_robot, load_task
from rlt_rl_node.agent import AgentConfig

NAME = "encoding"
SEED = 0
STEPS = 500  # 10 s
REPETITIONS = 20
RESET_S = 1.0  # the least that a person needs to reset the scene and press start
NEEDED = 25  # observations per s: stride 2 at 50 Hz
ALONE, LOADED = "alone", "learner at full load"


def measure(repetitions: int) -> list[dict[str, Any]]:
    """One row alone and one beside the learner."""
    torch.set_num_threads(1)
    robot, task = load_robot(config_file("robots", "sim")), load_task(config_file("tasks", "screw"))
    own = settings(task, SEED)
    plant = Plant.build(robot, task, random_model(robot, task, SEED))
    messages = observe_phase(plant, STEPS, SEED)
    phase = CriticalPhase(plant, own.encoding, messages)
    phase.serve()  # the first calls are slower
    phases: dict[str, list[Phase]] = {ALONE: [], LOADED: []}
    x_dim = plant.model.token.width + sum(robot.block_sizes[name] for name in task.rl_state)
    with busy_learner(partial(two_updates, x_dim, own.learner.agent), updates_per_call=2) as learner:
        for i in range(repetitions):
            for name in phases:
                with learner.at_work() if name == LOADED else nullcontext():
                    phases[name].append(phase.serve())
            print(f"encoding: {i + 1} of {repetitions} repetitions", flush=True)
        rate = learner.updates_per_s()
    facts = {
        "observations": len(messages),
        "bytes_each": kept_bytes(messages) / len(messages),
        "load_average": os.getloadavg()[0],  # over the last minute
    }
    return [
        {
            **row(name, phases[name]),
            **facts,
            "learner_updates_per_s": rate if name == LOADED else None,
        }
        for name in phases
    ]


def two_updates(x_dim: int, agent: AgentConfig) -> Callable[[], None]:
    """The learner's work, at the widths of the task."""
    config = asdict(agent)
    return ours(x_dim, config.pop("hidden"), config.pop("batch_size"), **config)


def row(name: str, phases: Sequence[Phase]) -> dict[str, Any]:
    """Median and worst of the repetitions; boundary latencies over all of them."""
    each = [figures(phase) for phase in phases]
    latencies = [boundary_latencies(phase) for phase in phases]

    def values(key: str) -> list[float]:
        return [found[key] for found in each]

    return {
        "beside": name,
        "left": {"median": statistics.median(values("left")), "worst": max(values("left"))},
        "tail_s": {"median": statistics.median(values("tail_s")), "worst": max(values("tail_s"))},
        "encoded_per_s": {"median": statistics.median(values("encoded_per_s")), "worst": min(values("encoded_per_s"))},
        "most_waiting": max(values("most_waiting")),
        "requests": sum(len(came) for came, _ in latencies),
        "met_a_group": sum(values("met_a_group")),
        "boundary_ms": milliseconds([value for came, _ in latencies for value in came]),
        "boundary_behind_group_ms": milliseconds([value for _, behind in latencies for value in behind]),
    }


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {"p50": float(p50), "p99": float(p99)}


def goals(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    """The goals of the issue, the worst repetition of each row."""
    found = []
    for each in rows:
        name, tail_s = f"s after the end until all are encoded, worst, {each['beside']}", each["tail_s"]["worst"]
        found.append(Goal(name, tail_s, f"<= {RESET_S:g} (the next start)", tail_s <= RESET_S))
    for each in rows:
        rate = each["encoded_per_s"]["worst"]
        found.append(Goal(f"observations encoded per s, worst, {each['beside']}", rate, f">= {NEEDED}", rate >= NEEDED))
    return found


def table(document: dict[str, Any]) -> str:
    """The result in Markdown."""
    header = (
        "beside",
        "left at the end",
        "s after the end until all are encoded",
        "encoded per s of work",
        f"over the {NEEDED} needed",
        "boundary p50, p99",
        "requests that met a group",
        "boundary behind a whole group p50, p99",
        "learner updates per s",
        "load average",
    )
    lines = []
    for each in document["rows"]:
        left, tail, rate = each["left"], each["tail_s"], each["encoded_per_s"]
        came, behind, updates = each["boundary_ms"], each["boundary_behind_group_ms"], each["learner_updates_per_s"]
        lines.append(
            (
                each["beside"],
                f"{left['median']:.0f} ({left['worst']:.0f})",
                f"{tail['median']:.3f} ({tail['worst']:.3f})",
                f"{rate['median']:.0f} ({rate['worst']:.0f})",
                f"{rate['median'] / NEEDED:.1f} ({rate['worst'] / NEEDED:.1f})",
                f"{came['p50']:.1f}, {came['p99']:.1f} ms",
                f"{each['met_a_group']} of {each['requests']}",
                f"{behind['p50']:.1f}, {behind['p99']:.1f} ms",
                f"{updates:.0f}" if updates else "none",
                f"{each['load_average']:.1f}",
            )
        )
    row, machine = document["rows"][0], document["machine"]
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores, one "
        f"thread per process; medians (worst) of {document['n']} phases per row, taken in turn. At most "
        f"{row['most_waiting']} observations wait at a time; one takes {row['bytes_each'] / 1e3:.1f} kB, all "
        f"{row['observations']} of a phase {row['observations'] * row['bytes_each'] / 1e6:.1f} MB."
    )
    return f"{head}\n\n{markdown_table(header, lines)}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Measure, write the result and the table."""
    if quick():
        show_committed(NAME, str(measure(2)))
        return
    rows = measure(REPETITIONS)
    publish(NAME, table, command="make bench-encoding", seeds=[SEED], n=REPETITIONS, rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
