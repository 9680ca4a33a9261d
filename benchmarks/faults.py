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
from harness.fault_graph import EXECUTOR, GIVE_UP_S, FaultError, FaultyGraph
from harness.fault_inputs import FAULTS, CameraRelay, behind_relay, fill, remount, small_disk
from harness.pad import Pad
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed
from harness.untrained_run import SHORT, on_a_timer, prepare

from rlt_bringup.graph import GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.runner import GraphRunner
from rlt_common.config import RobotConfig, TaskConfig, load_robot
from rlt_control.inputs import HUMAN_TIMEOUT_S, MANAGER_TIMEOUT_S

NAME = "faults"
SEED = 0
KILLS, TIMED_KILLS = 100, 12
QUICK_KILLS, QUICK_TIMED_KILLS = 6, 1
LEARNER_PAUSE_S, CAMERA_FAULT_S, DISK_FAULT_S = 30.0, 5.0, 15.0
QUICK_LEARNER_PAUSE_S, QUICK_CAMERA_FAULT_S, QUICK_DISK_FAULT_S = 5.0, 3.0, 6.0
PARTITION_S, QUICK_PARTITION_S = 20.0, 5.0
DISK_MB = 48
CHUNK_PRODUCERS = ("camera_ingest", "vla", "rl_policy")
TICKS = 2
"""Control periods from the end of a time-out to the hold."""
BY_HAND = {
    **SHORT,
    "max_critical_steps": 5000,
    "nodes": {**SHORT["nodes"], "joy_operator": {"silence_s": 2.0}},
}
"""Episodes that a person drives: long, and the bench's own process may be late with the pad's state."""
SETTLE_S, STEADY_S = 3.0, 0.2
TICK_S = 0.1
"""How often the bench looks; the scripted graph's steps are 20 ms apart."""
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
    in_time: int | None = None
    """On a timer: times in which the last step that moved came within `bound_s` of the kill."""
    bound_s: float | None = None
    hold_median_s: float | None = None
    """From the kill to the last step that moved."""
    hold_worst_s: float | None = None


@dataclass(frozen=True)
class Guarded:
    """What ends motion when one of `victims` is killed on a timer, and within which time."""

    victims: tuple[str, ...]
    bound_s: float
    why: str
    words: str = ""


def guarded(robot: RobotConfig, task: TaskConfig) -> tuple[Guarded, ...]:
    """The executor's watchdogs by whose silence they see: each in the time that it states, and two ticks.

    A chunk's producer is not watched by the executor itself: the rows that it has are played to their end.
    """
    ticks = TICKS * robot.period_s
    rows = task.execute_steps * robot.period_s
    return (
        Guarded(CHUNK_PRODUCERS, rows + robot.state_timeout_s, "the rows of a chunk and state_timeout_s"),
        Guarded(("episode_manager",), MANAGER_TIMEOUT_S + ticks, "manager_timeout_s and two ticks"),
        Guarded(("sim_robot",), robot.state_timeout_s + ticks, "state_timeout_s and two ticks", ", joint states"),
    )


def in_take_over(robot: RobotConfig) -> Guarded:
    """The watchdog of a person's commands."""
    bound = HUMAN_TIMEOUT_S + TICKS * robot.period_s
    return Guarded(("joy_operator",), bound, "human_timeout_s and two ticks", " while a person drives")


class Bench:
    """The faults, one method each. Every method starts a graph of its own in a run directory of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._rng = folder, random.Random(seed)
        self._count = 0

    def _nodes(
        self, run: Path, timer: bool = False, by_hand: bool = False
    ) -> tuple[list[NodeSpec], RobotConfig, TaskConfig]:
        task = prepare(run, changes=BY_HAND if by_hand else SHORT)
        robot = str(on_a_timer(run)) if timer else "sim"
        operator = {"operator": "human", "joy": "keyboard"} if by_hand else {}
        resolved = resolve(GraphOptions(task=str(task), robot=robot, run=str(run), mode="train", **operator))
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
            Row(
                "in lockstep: SIGKILL of any process",
                count,
                count - min(count, bad),
                len(every),
                len(lost),
                *spread(every),
                words,
            )
        ]

    def _nobody_moves(self, graph: FaultyGraph) -> None:
        """While the executor is dead nothing reaches the arms. Raises FaultError."""
        graph.spin(0.3)
        commands = graph.seen.commands
        graph.spin(1.0)
        if graph.seen.commands != commands:
            raise FaultError("something commanded the arms while the executor was dead")

    def hold_times(self, count: int) -> list[Row]:
        """On a timer, as a robot runs: from a kill to the last step that played a chunk, per watchdog."""
        run = self._run()
        nodes, robot, task = self._nodes(run, timer=True)
        table = guarded(robot, task)
        held: list[list[float]] = [[] for _ in table]
        on: list[list[float]] = [[] for _ in table]
        with FaultyGraph(nodes, run, robot.command_topics[0]) as graph:
            graph.watch.leash_step = robot.step_limit

            def driven() -> float:
                return graph.seen.last_driven_s

            for i in range(count):
                for own, times, ways in zip(table, held, on, strict=True):
                    _until_steady(graph, driven, lambda: graph.until_moving(driven))
                    times.append(_hold_time(graph, own.victims[i % len(own.victims)], own.bound_s, driven))
                    ways.append(graph.until_moving(driven))
            unexplained, lost = self._end(graph)
        return [
            _timed_row(own, times, ways, unexplained, lost if own is table[0] else [])
            for own, times, ways in zip(table, held, on, strict=True)
        ]

    def take_over(self, count: int) -> list[Row]:
        """On a timer, a person drives with the enable button held: the joystick node is killed."""
        run = self._run()
        nodes, robot, _ = self._nodes(run, timer=True, by_hand=True)
        own = in_take_over(robot)
        times, ways, moved = [], [], []
        with FaultyGraph(nodes, run, robot.command_topics[0]) as graph:
            graph.watch.leash_step = robot.step_limit
            pad = Pad()
            graph.executor.add_node(pad)

            def driven() -> float:
                return graph.seen.last_human_s

            for i in range(count):
                _until_steady(graph, driven, lambda: pad.drive(graph))
                times.append(_hold_time(graph, own.victims[0], own.bound_s, driven))
                last = driven()
                pid = graph.runner.pid(own.victims[0])
                if not graph.until(lambda old=pid: graph.runner.pid(own.victims[0]) != old, 30.0):
                    raise FaultError("joy_operator was not started again")
                # The button is still held: that must not count before it was let go.
                if not graph.until(lambda: pad.heard, 30.0):
                    raise FaultError("joy_operator came back and does not listen")
                graph.spin(1.0)
                if driven() != last:
                    moved.append(f"kill {i + 1}: the arms moved again with the button never let go")
                ways.append(pad.drive(graph))
            pad.held = set()
            pad.press(graph, "discard")
            graph.executor.remove_node(pad)
            pad.destroy_node()
            unexplained, lost = self._end(graph)
        return [_timed_row(own, times, ways, [*moved, *unexplained], lost)]

    def _end(self, graph: FaultyGraph) -> tuple[list[str], list[str]]:
        """Wait for the end of the episode. Returns steps without explanation, and what was lost."""
        graph.until(lambda: graph.watch.phase in (0, 1), 60.0)
        graph.spin(SETTLE_S)
        return graph.watch.unexplained(), graph.lost()

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

    def journals(self) -> list[Row]:
        """The newest episode file is torn, or damaged, while the learner is away; what was encoded of it is gone."""

        def fault(graph: FaultyGraph, spoil: Callable[[Path], None]) -> None:
            if not graph.until(lambda: len(list((graph.run / "episodes").glob("*.mcap"))) >= 2, 90.0):
                raise FaultError("no second episode file came")
            graph.kill("rl_learner")
            newest = max((graph.run / "episodes").glob("*.mcap"))
            spoil(newest)
            (graph.run / "encoded" / f"{newest.stem}.safetensors").unlink(missing_ok=True)
            graph.seen.labelled.pop(int(newest.stem), None)
            graph.kill("episode_manager")
            graph.spin(3.0)

        return [
            self._one(f"{name}, learner and manager restarted", partial(fault, spoil=spoil))
            for name, spoil in (("torn journal", tear), ("damaged journal", damage))
        ]

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
        told = "; ".join([*words, *said[:2], *unexplained[:2], *lost[:2]])
        note = told.replace(str(run), "<run>")[:400]
        say(f"{name}: on after {took:.1f} s; {note}")
        return Row(name, 1, int(not unexplained), 1, len(lost), took, took, note)


def _until_steady(graph: FaultyGraph, driven: Callable[[], float], again: Callable[[], object]) -> None:
    """Until the arms have been driven for a while without a pause, so that what ends motion is the fault.

    `again` waits for motion, at first and after a pause. Raises FaultError when there is no end of pauses.
    """
    again()
    begun = last = driven()
    give_up = time.monotonic() + GIVE_UP_S
    while last - begun < STEADY_S:
        if time.monotonic() > give_up:
            raise FaultError(f"on a timer the arms move in fits and starts only: {graph.seen.health}")
        graph.spin(TICK_S)
        if driven() == last:
            again()
            begun = driven()
        last = driven()


def _hold_time(graph: FaultyGraph, name: str, bound_s: float, driven: Callable[[], float]) -> float:
    """Kill it. Seconds from then to the last step that moved; it is not started again before twice the bound."""
    graph.kill(name)
    begun_s, end = time.time(), time.monotonic() + 2 * bound_s
    while time.monotonic() < end:
        graph.executor.spin_once(timeout_sec=0.02)
    held = max(0.0, driven() - begun_s)
    say(f"on a timer, {name} killed: the arms held after {held:.2f} s (bound {bound_s:.2f})")
    return held


def _timed_row(
    own: Guarded, held: Sequence[float], on: Sequence[float], unexplained: Sequence[str], lost: Sequence[str]
) -> Row:
    """What came of the kills on a timer of one watchdog's sources."""
    tried = len(held)
    return Row(
        f"on a timer: SIGKILL of {', '.join(own.victims)}{own.words}",
        tried,
        tried - min(tried, len(unexplained)),
        len(on),
        len(lost),
        *spread(on),
        "; ".join([f"bound: {own.why}", *unexplained[:2], *lost[:2]]),
        sum(value <= own.bound_s for value in held),
        own.bound_s,
        *spread(held),
    )


def tear(path: Path) -> None:
    """Cut off the last third."""
    os.truncate(path, path.stat().st_size * 2 // 3)


def damage(path: Path) -> None:
    """Turn a byte over in the middle, where the messages are, and one of the index at the end."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for place in (size // 2, size - 100):
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 0xFF]))


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
            "take_over": lambda: bench.take_over(QUICK_TIMED_KILLS if small else TIMED_KILLS),
            "learner": lambda: bench.learner_paused(QUICK_LEARNER_PAUSE_S if small else LEARNER_PAUSE_S),
            "chunks": lambda: bench.chunks_again(camera_s),
            "cameras": lambda: bench.cameras(camera_s),
            "disk": lambda: bench.disk(QUICK_DISK_FAULT_S if small else DISK_FAULT_S),
            "partition": lambda: _partition(Path(folder), QUICK_PARTITION_S if small else PARTITION_S),
            "journals": bench.journals,
        }
        rows = [row for name, fault in faults.items() if not only or name in only for row in fault()]
    return [asdict(row) for row in rows]


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue."""
    killed = sum(row["tried"] for row in rows if "SIGKILL" in row["fault"])
    tried, held, went_on = (sum(row[key] for row in rows) for key in ("tried", "held", "went_on"))
    timed = [row for row in rows if row.get("bound_s") is not None]
    kills, in_time = (sum(row[key] for row in timed) for key in ("tried", "in_time"))
    lost = sum(row["lost"] for row in rows)
    left_out = sum(row["tried"] == 0 for row in rows)
    return [
        Goal("kills", killed, f">= {KILLS}", killed >= KILLS),
        Goal("faults with no step but rows of their chunk, a person's, and holds", held, f"all {tried}", held == tried),
        Goal(
            "kills on a timer after which the arms held within their row's bound",
            in_time,
            f"all {kills}",
            in_time == kills > 0,
        ),
        Goal("faults after which the run went on", went_on, f"all {tried}", went_on == tried),
        Goal("episodes with a confirmed label lost", lost, "0", lost == 0),
        Goal("faults left out", left_out, "0", left_out == 0),
    ]


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    machine = document["machine"]

    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    def bounded(row: Mapping[str, Any]) -> str:
        if row.get("bound_s") is None:
            return ""
        spent = f"{row['hold_median_s']:.2f} ({row['hold_worst_s']:.2f})"
        return f"{spent}, {row['in_time']} of {row['tried']} <= {row['bound_s']:.2f}"

    lines = [
        (
            row["fault"],
            str(row["tried"]),
            str(row["held"]),
            bounded(row),
            str(row["went_on"]),
            str(row["lost"]),
            f"{seconds(row['median_s'])} ({seconds(row['worst_s'])})",
            row["note"].replace("|", "/").replace("\n", " "),
        )
        for row in document["rows"]
    ]
    header = (
        "fault",
        "tried",
        "held",
        "s until the arms held, median (worst), within bound",
        "went on",
        "confirmed labels lost",
        "s until on, median (worst)",
        "note",
    )
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
        bad = [goal.name for goal in goals(rows)[1:5] if not goal.met]
        if bad:
            sys.exit(f"faults: missed: {'; '.join(bad)}")
        return
    if given.only:
        parser.error("--only is for QUICK=1: a full result has every fault")
    rows = measure(False)
    publish(NAME, table, command="make bench-faults", seeds=[SEED], n=KILLS, rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
