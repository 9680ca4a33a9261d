"""`make bench-faults`: kills, pauses, broken cameras, a full disk and a torn journal, while the arms are driven.

Every fault happens to real processes over real DDS, on the simulated cell with a VLA of random weights, with recording.
QUICK=1 tries each fault once or a few times and re-reads the goals from the committed result. Full disk and read-only
directory take root (a file system of their own); without it they are left out, and the row says so.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness import partition
from harness.fault_graph import EXECUTOR, FaultError, FaultyGraph
from harness.fault_inputs import FAULTS, CameraRelay, behind_relay, fill, remount, small_disk
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed
from harness.untrained_run import on_a_timer, prepare

from rlt_bringup.graph import GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.runner import GraphRunner
from rlt_common.config import RobotConfig, TaskConfig, load_robot

NAME = "faults"
SEED = 0
KILLS, TIMED_KILLS = 100, 12
QUICK_KILLS, QUICK_TIMED_KILLS = 6, 2
LEARNER_PAUSE_S, CAMERA_FAULT_S, DISK_FAULT_S = 30.0, 5.0, 15.0
QUICK_LEARNER_PAUSE_S, QUICK_CAMERA_FAULT_S, QUICK_DISK_FAULT_S = 5.0, 3.0, 6.0
PARTITION_S, QUICK_PARTITION_S = 20.0, 5.0
DISK_MB = 48
CHUNK_PRODUCERS = ("camera_ingest", "vla", "rl_policy")
SETTLE_S = 3.0
LATE_CHUNK_S = 0.5
"""So long a chunk may come by after its first step."""


@dataclass(frozen=True)
class Row:
    """One fault: how often it was tried, what came of it."""

    fault: str
    tried: int
    held: int
    """Times in which every step is explained by a chunk of its episode and epoch."""
    went_on: int
    """Times after which the run went on."""
    lost: int
    """Episodes with a confirmed label and without a whole file."""
    median_s: float | None = None
    """From the fault, or its end, to the next step."""
    worst_s: float | None = None
    note: str = ""


class Bench:
    """The faults, one method each. Every method starts a graph of its own in a run directory of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._rng = folder, random.Random(seed)
        self._count = 0

    def _nodes(self, run: Path, timer: bool = False) -> tuple[list[NodeSpec], RobotConfig, TaskConfig]:
        task = prepare(run)
        robot = str(on_a_timer(run)) if timer else "sim"
        resolved = resolve(GraphOptions(task=str(task), robot=robot, run=str(run), mode="train"))
        return describe(resolved), load_robot(resolved.robot_file), resolved.task

    def _run(self) -> Path:
        self._count += 1
        return self._folder / f"run{self._count}"

    def kills(self, count: int) -> list[Row]:
        """SIGKILL at random moments, of every process in turn, in lockstep."""
        run = self._run()
        nodes, robot, _ = self._nodes(run)
        names = [node.name for node in nodes]
        self._rng.shuffle(names)
        times: dict[str, list[float]] = {name: [] for name in names}
        with FaultyGraph(nodes, run, robot.command_topics[0]) as graph:
            graph.until_moving()
            for i in range(count):
                graph.spin(self._rng.uniform(0.2, 3.0))
                name = names[i % len(names)]
                before = graph.discards
                graph.kill(name)
                if name == EXECUTOR:
                    self._nobody_moves(graph)
                    graph.runner.start_again(EXECUTOR)
                graph.spin(0.2)
                times[name].append(graph.until_moving())
                helped = f", {graph.discards - before} discarded by hand" if graph.discards > before else ""
                say(f"kill {i + 1} of {count}: {name}, on after {times[name][-1]:.1f} s{helped}")
            graph.until(lambda: graph.watch.phase in (0, 1), 60.0)
            graph.spin(SETTLE_S)
            unexplained, lost, discards = graph.watch.unexplained(), graph.lost(), graph.discards
        every = [value for values in times.values() for value in values]
        note = (
            f"{len(graph.seen.labelled)} labels confirmed, {len(graph.seen.refused)} episodes told to be lost, "
            f"{discards} discarded by the person"
        )
        bad = len(unexplained)
        words = "; ".join([note, *unexplained[:2], *lost[:3]])
        return [
            Row("SIGKILL, any process", count, count - min(count, bad), len(every), len(lost), *spread(every), words)
        ]

    def _nobody_moves(self, graph: FaultyGraph) -> None:
        """While the executor is dead nothing reaches the arms. Raises FaultError."""
        graph.spin(0.3)
        commands = graph.seen.commands
        graph.spin(1.0)
        if graph.seen.commands != commands:
            raise FaultError("something commanded the arms while the executor was dead")

    def hold_times(self, count: int) -> list[Row]:
        """On a timer, as a robot runs: from the kill of what a chunk needs to the last step that played one."""
        run = self._run()
        nodes, robot, task = self._nodes(run, timer=True)
        bound = task.execute_steps * robot.period_s + robot.state_timeout_s
        times = []
        with FaultyGraph(nodes, run, robot.command_topics[0]) as graph:
            for i in range(count):
                driven = graph.seen.last_driven_s
                if not graph.until(lambda last=driven: graph.seen.last_driven_s > last, 90.0):
                    raise FaultError(f"on a timer nothing moved: {graph.seen.health}")
                graph.kill(CHUNK_PRODUCERS[i % len(CHUNK_PRODUCERS)])
                begun = time.monotonic()
                while time.monotonic() - begun < 2 * bound:  # not respawned before that
                    graph.executor.spin_once(timeout_sec=0.02)
                times.append(max(0.0, graph.seen.last_driven_s - begun))
                say(f"on a timer, kill {i + 1} of {count}: the arms held after {times[-1]:.2f} s (bound {bound:.2f})")
                graph.spin(1.0)
            graph.spin(SETTLE_S)
            unexplained = graph.watch.unexplained()
        held = sum(value <= bound for value in times) if not unexplained else 0
        note = f"bound {bound:.2f} s: the rows of a chunk and the watchdog; {'; '.join(unexplained[:2])}".rstrip("; ")
        return [
            Row(
                "on a timer: SIGKILL of camera_ingest, vla, rl_policy", count, held, len(times), 0, *spread(times), note
            )
        ]

    def learner_paused(self, seconds: float) -> list[Row]:
        """SIGSTOP of the learner for a while."""
        return [self._one(f"learner paused {seconds:g} s", lambda graph: graph.pause("rl_learner", seconds))]

    def chunks_again(self, seconds: float) -> list[Row]:
        """Chunks come twice and in the wrong order."""

        def fault(graph: FaultyGraph) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for chunk in reversed(graph.watch.last_chunks):
                    graph.watch.chunks_again.publish(chunk)
                graph.spin(0.1)

        return [self._one("action chunks twice and out of order", fault)]

    def cameras(self, seconds: float) -> list[Row]:
        """What a camera can do."""
        run = self._run()
        nodes, robot, _ = self._nodes(run)
        nodes, topic = behind_relay(nodes, run)
        rows = []
        with FaultyGraph(nodes, run, robot.command_topics[0]) as graph:
            relay = CameraRelay(topic)
            graph.executor.add_node(relay)
            graph.until_moving()
            for name in FAULTS:
                before, known = graph.watch.unexplained(), len(graph.seen.errors)
                stops = name != FAULTS[-1]  # repeated and late images are ignored, the others must stop the arms
                relay.fault = name
                begun = graph.seen.steps
                graph.spin(seconds)
                steps = graph.seen.steps if stops else begun
                graph.spin(1.0)
                moved = graph.seen.steps - steps
                relay.fault = ""
                took = graph.until_moving()
                graph.spin(LATE_CHUNK_S)
                unexplained = [words for words in graph.watch.unexplained() if words not in before]
                held = not unexplained and bool(moved) != stops
                said = [words for words in graph.seen.errors[known:] if "camera_ingest" in words]
                note = "goes on meanwhile" if moved else "the arms held"
                words = "; ".join([note, *said[:1], *unexplained[:2]])
                rows.append(Row(f"camera {name}", 1, int(held), 1, 0, took, took, words))
                say(f"camera {name}: {rows[-1].note}")
            graph.executor.remove_node(relay)
            relay.destroy_node()
        return rows

    def disk(self, seconds: float) -> list[Row]:
        """A disk that is full, then one that is read-only, for a while; afterwards the run goes on."""
        names = ("full disk", "read-only run directory")
        if os.geteuid() != 0:
            return [Row(name, 0, 0, 0, 0, note="not tried: takes root") for name in names]
        rows = []
        for name in names:
            run = self._run()
            nodes, robot, _ = self._nodes(run)
            vla = self._folder / f"vla{self._count}"
            shutil.move(run / "vla", vla)
            with small_disk(run / "disk", DISK_MB) as disk:
                nodes = [_moved(node, run, disk, vla) for node in nodes]
                # A log that is open for writing would keep the file system writable.
                logs = run / "log" if name == names[1] else None
                spoil = partial(_spoil, disk=disk, how=name, seconds=seconds)
                rows.append(self._one(name, spoil, disk, nodes, robot, logs))
        return rows

    def partition(self, seconds: float) -> list[Row]:
        """The cable between the robot's side and the GPU's side is cut for a while."""
        name = f"DDS partition for {seconds:g} s, GPU's side from robot's side"
        if not partition.possible():
            return [Row(name, 0, 0, 0, 0, note="not tried: takes root and ip")]
        stepped: list[int] = []

        def fault(graph: FaultyGraph) -> None:
            cable.cut()
            graph.spin(1.0)
            steps = graph.seen.steps
            graph.spin(seconds)
            stepped.append(graph.seen.steps - steps)
            cable.plug()

        run = self._run()
        nodes, robot, _ = self._nodes(run)
        with partition.two_machines() as cable:
            row = self._one(name, fault, run, nodes, robot, runner=partition.split_runner(cable))
        if stepped != [0]:
            return [replace(row, held=0, note=f"{stepped[0]} steps while cut; {row.note}")]
        return [row]

    def torn_journal(self) -> list[Row]:
        """The newest episode file loses its end while the learner is away, and with it what was encoded of it."""

        def fault(graph: FaultyGraph) -> None:
            if not graph.until(lambda: len(list((graph.run / "episodes").glob("*.mcap"))) >= 2, 90.0):
                raise FaultError("no second episode file came")
            graph.kill("rl_learner")
            newest = max((graph.run / "episodes").glob("*.mcap"))
            os.truncate(newest, newest.stat().st_size * 2 // 3)
            (graph.run / "encoded" / f"{newest.stem}.safetensors").unlink(missing_ok=True)
            graph.seen.labelled.pop(int(newest.stem), None)
            graph.kill("episode_manager")
            graph.spin(3.0)

        return [self._one("torn journal, learner and manager restarted", fault)]

    def _one(
        self,
        name: str,
        fault: Callable[[FaultyGraph], None],
        run: Path | None = None,
        nodes: list[NodeSpec] | None = None,
        robot: RobotConfig | None = None,
        logs: Path | None = None,
        runner: type[GraphRunner] = GraphRunner,
    ) -> Row:
        """One fault in a graph of its own, in lockstep."""
        if run is None:
            run = self._run()
            nodes, robot, _ = self._nodes(run)
        with FaultyGraph(nodes, run, robot.command_topics[0], logs, runner) as graph:
            graph.until_moving()
            pids = {node.name: graph.runner.pid(node.name) for node in nodes}
            known = len(graph.seen.errors)
            fault(graph)
            took = graph.until_moving()
            graph.until(lambda: graph.watch.phase in (0, 1), 60.0)
            graph.spin(SETTLE_S)
            ended = [name for name, pid in pids.items() if graph.runner.pid(name) != pid]
            unexplained, lost = graph.watch.unexplained(), graph.lost()
            said = graph.seen.errors[known:]
        words = [f"restarted: {', '.join(ended)}"] if ended else []
        note = "; ".join([*words, *said[:2], *unexplained[:2], *lost[:2]])[:400]
        say(f"{name}: on after {took:.1f} s; {note}")
        return Row(name, 1, int(not unexplained), 1, len(lost), took, took, note)


def _partition(folder: Path, seconds: float) -> list[Row]:
    """In a process of its own: DDS keeps the network interfaces that it found first."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(Bench(folder / "partition", SEED).partition, seconds).result()


def _moved(node: NodeSpec, run: Path, disk: Path, vla: Path) -> NodeSpec:
    """The node with the run directory on the small disk and the VLA where there is room."""
    places = {str(run): str(disk), str(run / "vla"): str(vla)}
    parameters = {key: places.get(str(value), value) for key, value in node.parameters.items()}
    return NodeSpec(node.package, node.executable, node.name, parameters, node.respawn)


def _spoil(graph: FaultyGraph, disk: Path, how: str, seconds: float) -> None:
    if how == "full disk":
        ballast = fill(disk)
        graph.spin(seconds)
        ballast.unlink()
        return
    # A file that is open for writing keeps a file system writable: wait until none is, between two episodes.
    end = time.monotonic() + 60.0
    while True:
        try:
            remount(disk, "ro")
            break
        except subprocess.CalledProcessError:
            if time.monotonic() > end:
                raise
            graph.spin(0.05)
    graph.spin(seconds)
    remount(disk, "rw")


def spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Median and worst."""
    return (statistics.median(values), max(values)) if values else (None, None)


def say(words: str) -> None:
    """Progress."""
    print(f"faults: {words}", flush=True)


def measure(small: bool, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per fault; of those in `only`, where it names any."""
    with tempfile.TemporaryDirectory(prefix="rlt_faults_") as folder:
        bench = Bench(Path(folder), SEED)
        camera_s = QUICK_CAMERA_FAULT_S if small else CAMERA_FAULT_S
        faults: dict[str, Callable[[], list[Row]]] = {
            "kills": lambda: bench.kills(QUICK_KILLS if small else KILLS),
            "hold_times": lambda: bench.hold_times(QUICK_TIMED_KILLS if small else TIMED_KILLS),
            "learner": lambda: bench.learner_paused(QUICK_LEARNER_PAUSE_S if small else LEARNER_PAUSE_S),
            "chunks": lambda: bench.chunks_again(camera_s),
            "cameras": lambda: bench.cameras(camera_s),
            "disk": lambda: bench.disk(QUICK_DISK_FAULT_S if small else DISK_FAULT_S),
            "partition": lambda: _partition(Path(folder), QUICK_PARTITION_S if small else PARTITION_S),
            "journal": bench.torn_journal,
        }
        rows = [row for name, fault in faults.items() if not only or name in only for row in fault()]
    return [asdict(row) for row in rows]


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue."""
    killed = sum(row["tried"] for row in rows if "SIGKILL" in row["fault"])
    tried, held, went_on = (sum(row[key] for row in rows) for key in ("tried", "held", "went_on"))
    lost = sum(row["lost"] for row in rows)
    left_out = sum(row["tried"] == 0 for row in rows)
    return [
        Goal("kills", killed, f">= {KILLS}", killed >= KILLS),
        Goal("faults without unlabelled motion, and within the watchdog's time", held, f"all {tried}", held == tried),
        Goal("faults after which the run went on", went_on, f"all {tried}", went_on == tried),
        Goal("episodes with a confirmed label lost", lost, "0", lost == 0),
        Goal("faults left out", left_out, "0", left_out == 0),
    ]


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    machine = document["machine"]

    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    lines = [
        (
            row["fault"],
            str(row["tried"]),
            str(row["held"]),
            str(row["went_on"]),
            str(row["lost"]),
            f"{seconds(row['median_s'])} ({seconds(row['worst_s'])})",
            row["note"].replace("|", "/").replace("\n", " "),
        )
        for row in document["rows"]
    ]
    header = ("fault", "tried", "held", "went on", "confirmed labels lost", "s until on, median (worst)", "note")
    head = f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores."
    return f"{head}\n\n{markdown_table(header, lines)}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Measure, or show the path with QUICK=1."""
    parser = argparse.ArgumentParser(description="the graph under faults")
    parser.add_argument("--only", nargs="+", default=(), help="with QUICK=1: some of the faults, by name")
    given = parser.parse_args()
    if quick():
        rows = measure(True, given.only)
        print(table({"rows": rows, "goals": [], "command": "", "commit": "", "machine": {"cpu": "", "cores": ""}}))
        show_committed(NAME, f"{sum(row['tried'] for row in rows)} faults tried")
        bad = [goal.name for goal in goals(rows)[1:4] if not goal.met]
        if bad:
            sys.exit(f"faults: missed: {'; '.join(bad)}")
        return
    if given.only:
        parser.error("--only is for QUICK=1: a full result has every fault")
    rows = measure(False)
    publish(NAME, table, command="make bench-faults", seeds=[SEED], n=KILLS, rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
