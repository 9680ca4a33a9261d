"""`make bench-latency`: from an observation to the command that comes of it, with three 640x480 cameras at 30 Hz.

The whole graph on a robot's timer: simulated arms, and a process that publishes three raw 640x480 images 30 times a
second; the VLA takes them at 224x224 as JPEG. Every process notes when messages came and went. The latency of a chunk
is the time from its observation (or its request, if that came later) to its first command, both published, without the
model's work and without the wait for the tick that its first row is planned for. Ten minutes without more learning
than the graph's own and ten beside a learner at full load; then two minutes each with no priority but the executor's.
QUICK=1 takes 30 s each, without the last two, and re-reads the goals.
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

from encoding import two_updates
from harness.busy_learner import busy_learner
from harness.chunk_latency import figures, latencies, read_records
from harness.fault_graph import EXECUTOR, FaultyGraph
from harness.recording_runner import RecordingRunner, Script
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed
from harness.untrained_run import on_a_timer, prepare

from rlt_bringup.graph import GraphOptions, NodeSpec, describe, resolve
from rlt_common.config import load_robot
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.learner_node import LearnerParameters

NAME = "latency"
SEED = 0
SECONDS, COMPARISON_SECONDS, QUICK_SECONDS, SETTLE_S = 600.0, 120.0, 30.0, 5.0
PRIORITIES = {EXECUTOR: 50, "vla": 10, "rl_policy": 10}
"""As docs/robot_pc.md says."""
X_DIM = 96
"""Width of the learner's input on the simulated robot: RL token and proprioception."""
P50_MS, P99_MS = 8.0, 25.0
LOADED, ALONE = "learner at full load", "no learner"
CAMERA = {"width": 224, "height": 224, "encoding": "jpeg", "rate_hz": 30.0}
TOLERANCE_S = 0.025
"""Images at 30 Hz are up to 17 ms from a robot state, and a busy machine stamps unevenly."""
ROLES = {
    "camera_ingest": "ingest",
    "vla": "vla",
    "rl_policy": "policy",
    EXECUTOR: "executor",
    "sim_robot": "arms",
    "cameras": "cameras",
}
PARTS = (
    ("total", "**observation to command**"),
    ("to_output", "to the VLA's output"),
    ("to_chunk", "to the chunk in the executor"),
    ("to_policy", "of which output to rl_policy"),
    ("in_policy", "of which rl_policy"),
    ("to_executor", "of which rl_policy to executor"),
    ("to_command", "tick due to command"),
    ("vla_codec", "codec: decoding for the VLA"),
    ("ingest_codec", "codec: ingest"),
    ("model", "model"),
    ("group", "model, strided group begun before"),
    ("planned", "planned wait"),
)


def run_graph(folder: Path, seconds: float, priorities: Mapping[str, int]) -> list[dict[str, Any]]:
    """Run the graph once; a row without a learner and one beside it."""
    folder.mkdir(exist_ok=True)
    robot_file = on_a_timer(folder, camera=CAMERA, camera_tolerance_s=TOLERANCE_S)
    task = prepare(folder, seed=SEED, robot=str(robot_file))
    resolved = resolve(GraphOptions(task=str(task), robot=str(robot_file), run=str(folder), mode="train"))
    nodes = [
        replace(node, parameters={**node.parameters, "priority": priorities[node.name]})
        if node.name in priorities
        else node
        for node in describe(resolved)
    ]
    nodes.append(NodeSpec("rlt_sim", "sim_robot", "cameras", {"robot": str(robot_file)}))
    outs = {name: folder / f"{name}.jsonl" for name in ROLES}
    scripts = {n: Script("latency_recorder.py", ("--role", r, "--out", str(outs[n]))) for n, r in ROLES.items()}
    robot = load_robot(robot_file)
    work = partial(two_updates, X_DIM, AgentConfig())
    spans = {}
    with (
        busy_learner(work, updates_per_call=2, niceness=LearnerParameters.niceness) as learner,
        FaultyGraph(nodes, folder, robot.command_topics[0], runner=partial(RecordingRunner, scripts)) as graph,
    ):
        graph.until_moving()
        for load in (ALONE, LOADED):
            with learner.at_work() if load == LOADED else nullcontext():
                graph.spin(SETTLE_S)
                begin = time.monotonic()
                while time.monotonic() < begin + seconds:
                    graph.spin(min(30.0, begin + seconds - time.monotonic()))
                    print(f"latency: {load}: {time.monotonic() - begin:.0f} s", flush=True)
                spans[load] = (begin, time.monotonic(), os.getloadavg()[0])
    records = read_records(outs.values())
    found = latencies(records)
    return [
        {
            "load": load,
            "priorities": dict(priorities),
            "seconds": end - begin,
            **figures([one for one in found if begin <= one.at <= end]),
            **{
                f"{kind}_per_s": sum(r["kind"] == kind and begin <= r["at_s"] <= end for r in records) / (end - begin)
                for kind in ("images", "observation")
            },
            "load_average": load_average,
        }
        for load, (begin, end, load_average) in spans.items()
    ]


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue, without a learner and beside one."""
    found = []
    for row in rows:
        if row["priorities"] != PRIORITIES:
            continue
        total = row["ms"]["total"]
        found += [
            Goal(f"{row['load']}: p50, ms", total["p50"], f"< {P50_MS:g}", total["p50"] < P50_MS),
            Goal(f"{row['load']}: p99, ms", total["p99"], f"< {P99_MS:g}", total["p99"] < P99_MS),
        ]
    return found


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown: parts down, loads across."""
    header = ["p50, p99, ms", *(f"{_conditions(row)}, n = {row['chunks']}" for row in rows)]
    body = [[title, *(f"{row['ms'][p]['p50']:.1f}, {row['ms'][p]['p99']:.1f}" for row in rows)] for p, title in PARTS]
    rates = [f"{row['images_per_s']:.1f}, {row['observation_per_s']:.1f}" for row in rows]
    return markdown_table(header, [*body, ["images of each camera, observations, per s", *rates]])


def _conditions(row: Mapping[str, Any]) -> str:
    return row["load"] if row["priorities"] == PRIORITIES else f"{row['load']}, executor's priority alone"


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    machine, rows = document["machine"], document["rows"]
    minutes = ", ".join(f"{row['seconds'] / 60:.0f}" for row in rows)
    priorities = ", ".join(f"{name} {priority}" for name, priority in PRIORITIES.items())
    averages = ", ".join(f"{row['load_average']:.1f}" for row in rows)
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['platform']}; {minutes} minutes; SCHED_FIFO: {priorities}; load "
        f"averages {averages}."
    )
    return f"{head}\n\n{lines(rows)}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Measure, or show the path with QUICK=1."""
    with tempfile.TemporaryDirectory(prefix="rlt_latency_") as name:
        rows = run_graph(Path(name) / "priorities", QUICK_SECONDS if quick() else SECONDS, PRIORITIES)
        if not quick():
            rows += run_graph(Path(name) / "executor", COMPARISON_SECONDS, {EXECUTOR: PRIORITIES[EXECUTOR]})
    if quick():
        print(lines(rows))
        print(goal_table([vars(goal) for goal in goals(rows)]))
        show_committed(NAME, f"{rows[0]['chunks']} and {rows[1]['chunks']} chunks")
        return
    publish(NAME, table, command="make bench-latency", seeds=[SEED], n=rows[0]["chunks"], rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
