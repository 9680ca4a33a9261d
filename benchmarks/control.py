"""`make bench-control`: how late the executor's ticks start, beside a plain rclpy timer's, with and without load.

The whole graph on a robot's timer (the simulated cell stands for arms and cameras) runs episode after episode. In it
the chunk executor ticks at 50 Hz, and the same node once more, on topics of its own, ticked by a plain rclpy timer. The
learner's updates run at full load in another process, or do not: ten minutes each with the executor's real-time
`priority`, and two beside the learner without. QUICK=1 takes 20 s each and re-reads the goals.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from encoding import two_updates
from harness.busy_learner import busy_learner
from harness.fault_graph import EXECUTOR, FaultyGraph
from harness.recording_runner import RecordingRunner, Script
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed
from harness.tick_times import figures, lateness_s, share
from harness.untrained_run import on_a_timer, prepare

from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_common import topics
from rlt_common.config import load_robot
from rlt_rl_node.agent import AgentConfig

NAME = "control"
SEED = 0
SECONDS, DEFAULT_SECONDS, QUICK_SECONDS = 600.0, 120.0, 20.0
PRIORITY = 50
SETTLE_S = 5.0
X_DIM = 96
"""Width of the learner's input on the simulated robot: RL token and proprioception."""
PLAIN = "plain_timer"
LOADED, ALONE = "learner at full load", "no learner"
OWN_TOPICS = (
    topics.EXECUTED_ACTION,
    topics.CHUNK_REQUEST,
    topics.CONTROL_STATE,
    topics.ACTION_CHUNK,
    topics.ESTOP,
    topics.SERVICE_RESET_ESTOP,
)
"""Of the plain timer: nothing it says reaches the graph, and no chunk is answered twice. It holds, step by step."""


def scripts(folder: Path, command_topic: str) -> dict[str, Script]:
    """The executor and the plain timer, with a record of their ticks in `folder`."""
    return {
        name: Script("tick_recorder.py", ("--loop", loop, "--out", str(folder / f"{name}.ticks")), apart)
        for name, loop, apart in ((EXECUTOR, "executor", ()), (PLAIN, "timer", (*OWN_TOPICS, command_topic)))
    }


def run_graph(folder: Path, priority: int, loads: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Run the graph once; two rows (executor, plain timer) for each of `loads`, one after the other."""
    run = folder / f"run_{priority}"
    task = prepare(run)
    resolved = resolve(GraphOptions(task=str(task), robot=str(on_a_timer(run)), run=str(run), mode="train"))
    robot = load_robot(resolved.robot_file)
    nodes = describe(resolved)
    executor = next(node for node in nodes if node.name == EXECUTOR)
    nodes[nodes.index(executor)] = replace(executor, parameters={**executor.parameters, "priority": priority})
    nodes.append(replace(executor, name=PLAIN))
    spans = {}
    runner = partial(RecordingRunner, scripts(run, robot.command_topics[0]))
    work = partial(two_updates, X_DIM, AgentConfig())
    with (
        busy_learner(work, updates_per_call=2) as learner,
        FaultyGraph(nodes, run, robot.command_topics[0], runner=runner) as graph,
    ):
        graph.until_moving()
        for load in loads:
            with learner.at_work() if load == LOADED else nullcontext():
                graph.spin(SETTLE_S)
                begin, steps = time.monotonic(), graph.seen.steps
                while time.monotonic() < begin + seconds:
                    graph.spin(min(30.0, begin + seconds - time.monotonic()))
                    print(f"control: {load}, priority {priority}: {time.monotonic() - begin:.0f} s", flush=True)
                spans[load] = (begin, time.monotonic(), graph.seen.steps - steps, os.getloadavg()[0])
        policies = {name: os.sched_getscheduler(graph.runner.pid(name)) for name in (EXECUTOR, PLAIN)}
        rate = learner.updates_per_s() if LOADED in loads else 0.0
    rows = []
    for load, (begin, end, steps, load_average) in spans.items():
        for name in (EXECUTOR, PLAIN):
            ticks = np.fromfile(run / f"{name}.ticks").reshape(-1, 2)
            taken = ticks[(ticks[:, 1] >= begin) & (ticks[:, 1] <= end)]
            rows.append(
                {
                    "load": load,
                    "loop": name,
                    "priority": priority if name == EXECUTOR else 0,
                    "real_time": policies[name] == os.SCHED_FIFO,
                    "seconds": seconds,
                    **figures(lateness_s(taken, robot.period_s)),
                    "episode_steps": steps,
                    "learner_updates_per_s": rate if load == LOADED else None,
                    "load_average": load_average,
                }
            )
    return rows


def measure(seconds: float) -> list[dict[str, Any]]:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="rlt_control_") as name:
        folder = Path(name)
        return [
            *run_graph(folder, PRIORITY, (LOADED, ALONE), seconds),
            *run_graph(folder, 0, (LOADED,), min(seconds, DEFAULT_SECONDS)),
        ]


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue: the executor with its priority beside the learner, and the timer in the same run."""
    own, timer = _pair(rows, LOADED, PRIORITY)
    missed = 100 * share(own)
    fewer = share(timer) / share(own) if own["over_5_ms"] else float(timer["over_5_ms"])
    return [
        Goal("minutes beside the learner", own["seconds"] / 60, ">= 10", own["seconds"] >= SECONDS),
        Goal("% of ticks started over 5 ms late", missed, "<= 0.1", missed <= 0.1),
        Goal("ticks started over 20 ms late", own["over_20_ms"], "0", own["over_20_ms"] == 0),
        Goal("times fewer misses than the timer (its misses where there are none)", fewer, ">= 10", fewer >= 10),
    ]


def _pair(rows: Sequence[Mapping[str, Any]], load: str, priority: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The executor's row, and the plain timer's of the same run."""
    for own, timer in zip(rows[::2], rows[1::2], strict=True):
        if own["load"] == load and own["priority"] == priority:
            return own, timer
    raise ValueError(f"no row: {load}, priority {priority}")


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    header = ("beside", "loop", "scheduling", "ticks", "over 5 ms", "over 20 ms", "p50", "p99", "p99.9", "max, ms late")
    body = []
    for row in rows:
        late = (f"{row['late_ms'][name]:.2f}" for name in ("p50", "p99", "p99.9", "max"))
        scheduling = f"SCHED_FIFO {row['priority']}" if row["real_time"] else "default"
        misses = f"{row['over_5_ms']} ({100 * share(row):.2f} %)"
        body.append(
            (row["load"], row["loop"], scheduling, f"{row['ticks']:,}", misses, str(row["over_20_ms"]), *late),
        )
    return markdown_table(header, body)


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    rows, machine = document["rows"], document["machine"]
    loaded = next(row for row in rows if row["load"] == LOADED)
    averages = ", ".join(f"{row['load_average']:.1f}" for row in rows[::2])
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['platform']}; {loaded['seconds'] / 60:.0f} minutes per pair of rows; the learner made "
        f"{loaded['learner_updates_per_s']:.0f} updates per s; load averages {averages}."
    )
    return f"{head}\n\n{lines(rows)}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Measure, or show the path with QUICK=1."""
    if quick():
        rows = measure(float(os.environ.get("SECONDS_EACH", QUICK_SECONDS)))
        print(lines(rows))
        print(goal_table([vars(goal) for goal in goals(rows)]))
        show_committed(NAME, f"{len(rows)} rows of {rows[0]['ticks']} ticks")
        return
    rows = measure(SECONDS)
    publish(NAME, table, command="make bench-control", seeds=[SEED], n=rows[0]["ticks"], rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
