"""`make bench-soak`: two hours of lockstep with learning and recording: do memory, file handles and latency stay flat?

Resident memory, handles and DDS's shared memory of every process are sampled every 10 s, with the time that the VLA
takes per boundary observation, the time from each chunk's request to the chunk, and the steps per second. What the
learner's replay stores is taken off its memory. The first sixth is warm-up. MINUTES=n runs another length;
QUICK=1 three minutes, of which nothing is judged, and re-reads the goals from the committed result.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from harness.fault_graph import FaultError, FaultyGraph
from harness.process_samples import Slope, flat, sample_process, shared_memory_mb, slope
from harness.results import FOLDER, Goal, goal_table, markdown_table, publish, quick, show_committed
from harness.untrained_run import prepare
from rclpy.node import Node

from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_common import topics
from rlt_common.config import load_robot
from rlt_msgs.msg import ActionChunk, ChunkRequest, TrainingStatus, VlaOutput

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NAME = "soak"
SEED = 0
MINUTES, QUICK_MINUTES = 120.0, 3.0
EVERY_S, QUICK_EVERY_S = 10.0, 5.0
WARM_UP = 1 / 6
STANDSTILL_S = 60.0
"""Without a step or an update for so long the graph hangs."""
BEARABLE = {"rss_mb": 4.0, "handles": 0.5, "shm_mb": 1.0, "inference_ms": 0.5, "chunk_ms": 1.0}
"""Growth per hour that a day of work bears: 100 MB, 12 handles."""
LEARNER = "rl_learner"
"""Its memory holds the replay, which grows with the episodes, up to its capacity."""


class Listener(Node):
    """Hears how long chunks take and how much the replay stores."""

    def __init__(self) -> None:
        super().__init__("soak_listener")
        self.inference_ms: list[float] = []
        self.chunk_ms: list[float] = []
        self.replay_mb = float("nan")
        self.updates = 0
        self._asked: dict[int, float] = {}
        self.create_subscription(VlaOutput, topics.VLA_OUTPUT, self._on_output, topics.QOS_STREAM)
        self.create_subscription(ChunkRequest, topics.CHUNK_REQUEST, self._on_request, topics.QOS_CONTROL)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, topics.QOS_CHUNK)
        self.create_subscription(TrainingStatus, topics.TRAINING_STATUS, self._on_training, topics.QOS_LATCHED_READER)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, 10)

    def _on_request(self, message: ChunkRequest) -> None:
        self._asked.setdefault(message.request_id, time.monotonic())

    def _on_chunk(self, message: ActionChunk) -> None:
        now = time.monotonic()
        if (asked := self._asked.pop(message.chunk_id, None)) is not None:
            self.chunk_ms.append((now - asked) * 1e3)
        self._asked = {key: at for key, at in self._asked.items() if now - at < STANDSTILL_S}

    def _on_training(self, message: TrainingStatus) -> None:
        self.updates = message.updates

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for entry in status.values:
                if entry.key == "replay_mb":
                    self.replay_mb = float(entry.value)

    def _on_output(self, message: VlaOutput) -> None:
        if message.is_boundary:
            self.inference_ms.append(message.inference_s * 1e3)

    def take(self) -> dict[str, float]:
        """Medians since the last call, NaN when nothing came; and the replay's size."""
        taken = {"inference_ms": self.inference_ms, "chunk_ms": self.chunk_ms}
        self.inference_ms, self.chunk_ms = [], []
        medians = {key: float(np.median(values)) if values else float("nan") for key, values in taken.items()}
        return {**medians, "replay_mb": self.replay_mb}


def measure(minutes: float, every_s: float) -> list[dict[str, Any]]:
    """One row per process, with its samples; one for the whole graph."""
    with tempfile.TemporaryDirectory(prefix="rlt_soak_") as folder:
        run = Path(folder) / "run"
        task = prepare(run)
        resolved = resolve(GraphOptions(task=str(task), run=str(run), mode="train"))
        nodes, robot = describe(resolved), load_robot(resolved.robot_file)
        samples: dict[str, list[dict[str, float]]] = {node.name: [] for node in nodes}
        whole: list[dict[str, float]] = []
        with FaultyGraph(nodes, run, robot.command_topics[0]) as graph:
            listener = Listener()
            graph.executor.add_node(listener)
            graph.until_moving()
            begun = moved = time.monotonic()
            while (passed := time.monotonic() - begun) < 60.0 * minutes:
                steps, updates = graph.seen.steps, listener.updates
                graph.spin(every_s)
                moved = time.monotonic() if (graph.seen.steps, listener.updates) != (steps, updates) else moved
                if time.monotonic() - moved > STANDSTILL_S:
                    raise FaultError(
                        f"no step and no update for {STANDSTILL_S:g} s, after {steps} steps: {graph.seen.health}; "
                        f"logs: {_keep_logs(run)}"
                    )
                for name, taken in samples.items():
                    taken.append(sample_process(graph.runner.pid(name)))
                pids = [graph.runner.pid(name) for name in samples]
                rate = (graph.seen.steps - steps) / every_s
                values = {"hours": passed / 3600, "shm_mb": shared_memory_mb(pids), "steps_per_s": rate}
                whole.append({**values, **listener.take()})
                if len(whole) % 30 == 0:
                    print(f"soak: {passed / 60:.0f} of {minutes:.0f} min, {graph.seen.steps} steps", flush=True)
            if restarted := [node.name for node in nodes if graph.runner.restarts(node.name)]:
                raise FaultError(f"restarted meanwhile: {', '.join(restarted)}")
            facts = {"steps": graph.seen.steps, "labelled": len(graph.seen.labelled), "lost": len(graph.lost())}
            graph.executor.remove_node(listener)
            listener.destroy_node()
    rows: list[dict[str, Any]] = [{"process": name, "samples": taken} for name, taken in samples.items()]
    return [*rows, {"process": "graph", "samples": whole, "minutes": minutes, **facts}]


def _keep_logs(run: Path) -> Path:
    """What the nodes said, where it outlives the run's temporary folder."""
    return Path(shutil.copytree(run / "log", Path(tempfile.mkdtemp(prefix="rlt_soak_failed_")) / "log"))


def slopes(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Slope]]:
    """Process -> what -> growth per hour after the warm-up; "graph" for what belongs to all."""
    graph = next(row for row in rows if row["process"] == "graph")
    hours = np.array([sample["hours"] for sample in graph["samples"]])
    late = hours >= WARM_UP * hours[-1]
    found: dict[str, dict[str, Slope]] = {}
    for row in rows:
        keys = ("shm_mb", "inference_ms", "chunk_ms") if row["process"] == "graph" else ("rss_mb", "handles")
        for key in keys:
            values = np.array([sample[key] for sample in row["samples"]])
            if (row["process"], key) == (LEARNER, "rss_mb"):
                values = values - np.array([sample["replay_mb"] for sample in graph["samples"]])
            use = late & np.isfinite(values)
            found.setdefault(row["process"], {})[key] = slope(hours[use], values[use])
    return found


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue."""
    graph, found = next(row for row in rows if row["process"] == "graph"), slopes(rows)
    processes = {name: own for name, own in found.items() if name != "graph"}
    result = [Goal("minutes", graph["minutes"], f">= {MINUTES:g}", graph["minutes"] >= MINUTES)]
    for what, words in (
        ("rss_mb", "memory without the replay, worst process, MB per hour"),
        ("handles", "file handles, worst process, per hour"),
    ):
        worst = max((values[what] for values in processes.values()), key=lambda each: each.per_hour)
        met = all(flat(values[what], BEARABLE[what]) for values in processes.values())
        result.append(Goal(words, worst.per_hour, f"flat: with 95 % <= {BEARABLE[what]:g}", met))
    for what, words in (
        ("shm_mb", "/dev/shm, MB per hour"),
        ("inference_ms", "VLA per boundary, ms per hour"),
        ("chunk_ms", "request to chunk, ms per hour"),
    ):
        each = found["graph"][what]
        met = flat(each, BEARABLE[what])
        result.append(Goal(words, each.per_hour, f"flat: with 95 % <= {BEARABLE[what]:g}", met))
    result.append(Goal("labelled episodes lost", graph["lost"], "0", graph["lost"] == 0))
    return result


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    rows, machine = document["rows"], document["machine"]
    graph, found = next(row for row in rows if row["process"] == "graph"), slopes(rows)
    lines = []
    for row in rows:
        if row["process"] == "graph":
            continue
        first, last = row["samples"][0], row["samples"][-1]
        own = found[row["process"]]
        lines.append(
            (
                row["process"],
                f"{first['rss_mb']:.0f}, {last['rss_mb']:.0f}",
                own["rss_mb"].words,
                f"{first['handles']:.0f}, {last['handles']:.0f}",
                own["handles"].words,
            )
        )
    header = ("process", "MB first, last", "MB per hour (95 %)", "handles first, last", "handles per hour (95 %)")
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores: "
        f"{graph['minutes']:.0f} minutes, {graph['steps']:,} control steps, {graph['labelled']} labelled episodes."
    )
    tail = (
        f"/dev/shm {found['graph']['shm_mb'].words} MB per hour; VLA per boundary "
        f"{found['graph']['inference_ms'].words} and request to chunk {found['graph']['chunk_ms'].words} ms per "
        f"hour; the replay's {graph['samples'][-1]['replay_mb']:.1f} MB are taken off the learner's growth."
        "\n\n![memory over time](results/soak.svg)"
    )
    return f"{head}\n\n{markdown_table(header, lines)}\n\n{tail}\n\n{goal_table(document['goals'])}"


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Memory of every process over the hours, relative to the end of the warm-up."""
    hours = [sample["hours"] for sample in next(r for r in rows if r["process"] == "graph")["samples"]]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for row in rows:
        if row["process"] != "graph":
            axes.plot(hours, [sample["rss_mb"] for sample in row["samples"]], label=row["process"], linewidth=1)
    axes.set(xlabel="hours", ylabel="resident memory, MB")
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Measure, or show the path with QUICK=1."""
    if quick():
        rows = measure(float(os.environ.get("MINUTES", QUICK_MINUTES)), QUICK_EVERY_S)
        graph = rows[-1]
        for name, own in slopes(rows).items():
            print(name, {what: each.words for what, each in own.items()})
        show_committed(NAME, f"{graph['minutes']:g} minutes, {graph['steps']} steps, {graph['labelled']} episodes")
        return
    rows = measure(float(os.environ.get("MINUTES", MINUTES)), EVERY_S)
    (FOLDER / "results").mkdir(exist_ok=True)
    plot(rows, FOLDER / "results" / "soak.svg")
    publish(
        NAME, table, command="make bench-soak", seeds=[SEED], n=len(rows[-1]["samples"]), rows=rows, goals=goals(rows)
    )


if __name__ == "__main__":
    main()
