"""`make bench-parity`: is a recorded run the run that was, and does recording cost the control loop anything?

A run of the whole graph in simulation, in lockstep, with a learner that trains (its VLA is untrained: random weights
cost and repeat the same), every episode recorded. ALL its files are then played back through VLA node and policy
node, and the learner's work is done again from them alone. Then the graph runs on a timer, and a recorder is
started and stopped in turns: how late do the executor's ticks start with and without it? QUICK=1 takes fewer episodes
and shorter turns, and re-reads the goals.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_prefix
from harness.fault_graph import EXECUTOR, FaultError, FaultyGraph
from harness.recording_runner import RecordingRunner, Script
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed
from harness.tick_times import figures, lateness_s
from harness.untrained_run import SHORT, on_a_timer, prepare

from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_bringup.replay_nodes import Pace, play_all
from rlt_bringup.replay_plan import BOUNDARY, CHUNK, STRIDED, compare
from rlt_bringup.replay_source import Wanted
from rlt_bringup.replay_source import prepare as prepare_replay
from rlt_common.config import load_robot
from rlt_rl_node import checkpoint, offline

NAME = "parity"
SEED = 0
PRIORITY = 50


@dataclass(frozen=True)
class Scale:
    """How much is measured: episodes of the run in lockstep, turns of the recorder, s of each."""

    episodes: int
    turns: int
    seconds: float


FULL, QUICK = Scale(20, 6, 30.0), Scale(4, 1, 10.0)
SETTLE_S = 6.0
"""After the recorder was started or stopped: its own start is not what is measured."""
PATIENCE_S = 240.0
EPISODE_STEPS = 60
KINDS = {BOUNDARY: "boundary", STRIDED: "strided", CHUNK: "chunks"}


def changes() -> dict[str, Any]:
    """Of the task: short episodes, and a checkpoint of every actor that drove."""
    nodes = {
        **SHORT["nodes"],
        "rl_learner": {**SHORT["nodes"]["rl_learner"], "checkpoint_every": 1, "keep_checkpoints": 1000},
        "scripted_operator": {"operator": {"patience_steps": EPISODE_STEPS}},
    }
    return {**SHORT, "nodes": nodes, "max_critical_steps": 2 * EPISODE_STEPS}


def record(run: Path, episodes: int) -> dict[str, Any]:
    """Train in lockstep until so many episodes are labelled and learned from. Returns what was recorded."""
    task = prepare(run, seed=SEED, changes=changes())
    resolved = resolve(GraphOptions(task=str(task), run=str(run), mode="train", seed=SEED))
    robot = load_robot(resolved.robot_file)
    begun = time.monotonic()
    with FaultyGraph(describe(resolved), run, robot.command_topics[0]) as graph:
        graph.until_moving()
        said = 0
        while len(graph.seen.labelled) < episodes:
            if not graph.until(lambda: len(graph.seen.labelled) > said, PATIENCE_S):  # noqa: B023
                raise FaultError(f"no episode ended for {PATIENCE_S:g} s: {graph.seen.health}")
            said = len(graph.seen.labelled)
            print(f"parity: {said} of {episodes} episodes recorded, {time.monotonic() - begun:.0f} s", flush=True)
        # The next episode begins when the last one's updates are paid.
        if not graph.until(lambda: graph.seen.episode > max(graph.seen.labelled), PATIENCE_S):
            raise FaultError(f"the last episode was not learned from: {graph.seen.health}")
    bags = sorted((run / "episodes").glob("*.mcap"))
    return {"bags": len(bags), "megabytes": sum(bag.stat().st_size for bag in bags) / 1e6}


def play(run: Path) -> dict[str, Any]:
    """Play all files of the run back and count what is equal bit for bit."""
    wanted = Wanted(run=run, task=str(run / "task.yaml"))
    bags = sorted((run / "episodes").glob("*.mcap"))
    replays = [prepare_replay(bag, wanted, run / "replayed") for bag in bags]
    counts = {name: [0, 0] for name in KINDS.values()}
    robot_s = seconds = 0.0
    notes: list[str] = []
    for replay, played in zip(replays, play_all(replays, Pace()), strict=True):
        recording = replay.recording
        found = compare(recording, played.outputs, played.strided, played.chunks, replay.judgement)
        robot_s, seconds = robot_s + recording.seconds, seconds + played.seconds
        notes += [*replay.notes, *found.notes]
        for row in found.rows:
            own = counts[KINDS[row.kind]]
            own[0], own[1] = own[0] + row.equal, own[1] + 1
        print(
            f"parity: episode {recording.episode_id} played: {'the same' if found.equal else 'NOT the same'}",
            flush=True,
        )
    recorded = sum(len(replay.recording.chunks) for replay in replays)
    return {
        **{f"{name}_equal": equal for name, (equal, _) in counts.items()},
        **{name: count for name, (_, count) in counts.items()},
        "chunks_recorded": recorded,
        "refined_chunks": sum(bool(c.policy_version) for r in replays for c in r.recording.chunks.values()),
        "notes": notes,
        "robot_minutes": robot_s / 60,
        "speed": robot_s / seconds,
    }


def learn_again(run: Path, out: Path) -> dict[str, Any]:
    """The learner's work from the files alone: how many of the run's own checkpoints, one per episode, it has again."""
    words = ["--run", run, "--out", out, "--robot", "sim", "--task", run / "task.yaml", "--seed", SEED]
    given = offline.parse_arguments([*map(str, words), "--checkpoint-every", "1"])
    training = offline.build(given, lambda text: None)
    begun = time.monotonic()
    training.run()
    same = {"offline_replay": 0, "offline_weights": 0}
    online = sorted(path for path in (run / "checkpoints").iterdir() if (path / checkpoint.STATE).is_file())
    for path in online:
        if (out / "checkpoints" / path.name).is_dir():
            theirs, ours = checkpoint.read_state(path), checkpoint.read_state(out / "checkpoints" / path.name)
            same["offline_replay"] += theirs["episodes"] == ours["episodes"]
            same["offline_weights"] += theirs["sha256"] == ours["sha256"]
    return {
        "offline_updates": training.learner.agent.updates,
        "offline_seconds": time.monotonic() - begun,
        "checkpoints": len(online),
        **same,
    }


def overhead(folder: Path, trained: Path, scale: Scale) -> list[dict[str, Any]]:
    """Ticks of the executor on a timer, recorder on and off in turns; a row per turn."""
    run = folder / "timer"
    task, robot_file = prepare(run, seed=SEED, changes=changes()), on_a_timer(run)
    shutil.copytree(trained / "checkpoints", run / "checkpoints")
    options = GraphOptions(task=str(task), robot=str(robot_file), run=str(run), mode="eval", record=False, seed=SEED)
    resolved = resolve(options)
    robot = load_robot(resolved.robot_file)
    nodes = describe(resolved)
    executor = next(node for node in nodes if node.name == EXECUTOR)
    nodes[nodes.index(executor)] = replace(executor, parameters={**executor.parameters, "priority": PRIORITY})
    out = run / "executor.ticks"
    scripts = {EXECUTOR: Script("tick_recorder.py", ("--loop", "executor", "--out", str(out)))}
    spans = []
    with FaultyGraph(nodes, run, robot.command_topics[0], runner=partial(RecordingRunner, scripts)) as graph:
        graph.until_moving()
        for turn in range(scale.turns):
            # On first in every other turn: what grows over time is on both sides.
            for recording in (turn % 2 == 0, turn % 2 == 1):
                recorder = _start_recorder(run, resolved) if recording else None
                try:
                    graph.spin(SETTLE_S)
                    begin, bytes_before = time.monotonic(), _bytes(run)
                    graph.spin(scale.seconds)
                    end, load = time.monotonic(), os.getloadavg()[0]
                    written = _bytes(run) - bytes_before
                finally:
                    if recorder:
                        recorder.send_signal(signal.SIGINT)
                        recorder.wait(timeout=30)
                spans.append((turn, recording, begin, end, load, written))
                print(f"parity: turn {turn + 1}, recorder {'on' if recording else 'off'}, load {load:.1f}", flush=True)
        real_time = os.sched_getscheduler(graph.runner.pid(EXECUTOR)) == os.SCHED_FIFO
    ticks = np.fromfile(out).reshape(-1, 2)
    rows = []
    for turn, recording, begin, end, load, written in spans:
        taken = ticks[(ticks[:, 1] >= begin) & (ticks[:, 1] <= end)]
        late = figures(lateness_s(taken, robot.period_s))
        rows.append(
            {
                "turn": turn,
                "recorder": recording,
                "real_time": real_time,
                "seconds": end - begin,
                **late,
                "load_average": load,
                "bytes": written,
            }
        )
    return rows


def _start_recorder(run: Path, resolved: Any) -> subprocess.Popen:
    """The recorder as a process of its own: the manager of this graph waits for none."""
    path = Path(get_package_prefix("rlt_teleop")) / "lib" / "rlt_teleop" / "recorder"
    files = {"robot": resolved.robot_file, "task": resolved.task_file, "run_directory": run}
    words = [word for name, value in files.items() for word in ("-p", f"{name}:={value}")]
    with open(run / "recorder.log", "a", encoding="utf-8") as log:
        return subprocess.Popen([str(path), "--ros-args", *words], stdout=log, stderr=subprocess.STDOUT)


def _bytes(run: Path) -> int:
    """What finished episode files take."""
    return sum(path.stat().st_size for path in (run / "episodes").glob("*.mcap"))


def added(turns: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Misses per 10,000 ticks with the recorder minus without it: mean over the turns, and its 95 % interval.

    Each turn is one pair. The interval is a bootstrap over turns; of one turn it is all there is.
    """
    pairs = []
    for turn in sorted({row["turn"] for row in turns}):
        rate = {row["recorder"]: 1e4 * row["over_5_ms"] / row["ticks"] for row in turns if row["turn"] == turn}
        pairs.append(rate[True] - rate[False])
    values = np.array(pairs)
    draws = np.random.default_rng(SEED).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue."""
    run, turns = rows[0], rows[1:]
    chunks = 100 * run["chunks_equal"] / run["chunks_recorded"]
    outputs = 100 * run["boundary_equal"] / run["boundary"]
    _, _, high = added(turns)
    missed = sum(row["over_5_ms"] for row in turns if row["recorder"])
    again = 100 * run["offline_weights"] / run["checkpoints"]
    return [
        Goal("% of all recorded chunks equal bit for bit", chunks, "100", chunks == 100),
        Goal("% of the VLA's outputs at boundaries equal bit for bit", outputs, "100", outputs == 100),
        Goal("% of the learner's checkpoints learned again from the files bit for bit", again, "100", again == 100),
        Goal("ticks over 5 ms late while recording", missed, "0", missed == 0),
        Goal("more such ticks per 10,000 with the recorder than without, upper end of 95 %", high, "<= 0", high <= 0),
    ]


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown: the run, then the ticks."""
    run, turns = rows[0], rows[1:]

    def share(name: str) -> str:
        return f"{run[f'{name}_equal']} of {run[name]}"

    head = ("episode files", "chunks", "of these RL's", "VLA outputs at boundaries", "strided", "MB per robot minute")
    head = (*head, "replay speed", "learned again from the files")
    again = (
        f"{run['offline_weights']} of {run['checkpoints']} checkpoints (replay: {run['offline_replay']}), "
        f"{run['offline_updates']} updates"
    )
    body = (
        str(run["bags"]),
        f"{run['chunks_equal']} of {run['chunks_recorded']}",
        str(run["refined_chunks"]),
        share("boundary"),
        share("strided"),
        f"{run['megabytes'] / run['robot_minutes']:.1f}",
        f"{run['speed']:.1f} x real time",
        again,
    )
    ticks = []
    for recording in (True, False):
        own = [row for row in turns if row["recorder"] == recording]
        count, missed = sum(row["ticks"] for row in own), sum(row["over_5_ms"] for row in own)
        worst = max(row["late_ms"]["max"] for row in own)
        p99 = np.median([row["late_ms"]["p99"] for row in own])
        loads = ", ".join(f"{row['load_average']:.1f}" for row in own)
        over = f"{missed} ({1e4 * missed / count:.1f} per 10,000)"
        gross = str(sum(row["over_20_ms"] for row in own))
        ticks.append(("on" if recording else "off", f"{count:,}", over, gross, f"{p99:.2f}", f"{worst:.2f}", loads))
    names = ("recorder", "ticks", "over 5 ms", "over 20 ms", "p99 (median of turns)", "max, ms late", "load averages")
    return f"{markdown_table(head, [body])}\n\n{markdown_table(names, ticks)}"


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    rows, machine = document["rows"], document["machine"]
    mean, low, high = added(rows[1:])
    turns = len(rows[1:]) // 2
    scheduling = f"SCHED_FIFO {PRIORITY}" if rows[1]["real_time"] else "default scheduling"
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores. "
        f"Recorder: {turns} turns of {rows[1]['seconds']:.0f} s with and without it, executor at {scheduling}; it adds "
        f"{mean:+.1f} misses per 10,000 ticks, 95 % interval over turns {low:+.1f} to {high:+.1f}."
    )
    return f"{head}\n\n{lines(rows)}\n\n{goal_table(document['goals'])}"


def measure(scale: Scale) -> list[dict[str, Any]]:
    """The row of the run, then one per turn of the recorder."""
    with tempfile.TemporaryDirectory(prefix="rlt_parity_") as name:
        folder = Path(os.environ.get("KEEP", name))
        run = folder / "run"
        row = {**record(run, scale.episodes), **play(run), **learn_again(run, folder / "offline")}
        return [row, *overhead(folder, run, scale)]


def main() -> None:
    """Measure, or show the path with QUICK=1."""
    if quick():
        rows = measure(QUICK)
        print(lines(rows))
        print(goal_table([vars(goal) for goal in goals(rows)]))
        show_committed(NAME, f"{rows[0]['chunks']} chunks")
        return
    rows = measure(FULL)
    publish(
        NAME,
        table,
        command="make bench-parity",
        seeds=[SEED],
        n=rows[0]["chunks_recorded"],
        rows=rows,
        goals=goals(rows),
    )


if __name__ == "__main__":
    main()
