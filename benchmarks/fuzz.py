"""`make bench-fuzz`: malformed and hostile messages into every node of the graph.

First 100,000 per message type straight through the handlers of the real nodes (`harness.fuzzing`): of the graph, of a
robot with every sensor that a robot file can name, of a SpaceMouse and leader arms, and of what a person starts beside
it. Executors tick in both ways and are driven meanwhile. Then 5,000 per topic, service and action over DDS into graphs
of real processes that drive the simulated arms meanwhile (`harness.fuzz_graph`); ARGS=--graph repeats this part alone
and keeps the other's rows of the last result. QUICK=1 sends a few hundred and re-reads the goals.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.fuzz_graph import attack_equipped_graph, attack_graph, reports
from harness.fuzzing import Findings, all_handlers, graph_nodes
from harness.results import Goal, goal_table, markdown_table, publish, quick, read_result, show_committed

from rlt_bringup.report import source_commit

NAME = "fuzz"
SEED = 0
PER_TYPE, PER_TOPIC = 100_000, 5_000
QUICK_PER_TYPE, QUICK_PER_TOPIC = 300, 60
DRIVEN = ("VLA", "RL", "HUMAN", "clamped")
PROCESSES = 2
STEPS_EACH = 10_000
"""Control steps that each of DRIVEN must have taken part in: else the limits were not met."""


def say(words: str) -> None:
    """Show progress."""
    print(f"fuzz: {words}", flush=True)


def measure_handlers(per_type: int) -> list[dict[str, Any]]:
    """One row per message type, and one of what happened meanwhile."""
    with tempfile.TemporaryDirectory(prefix="rlt_fuzz_") as name:
        folder = Path(name)
        findings = Findings()
        with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
            parts = [(k, PROCESSES) for k in range(PROCESSES)]
            runs = [folder / f"part{k}" for k in range(PROCESSES)]
            for found in pool.map(all_handlers, runs, [per_type] * PROCESSES, [SEED] * PROCESSES, parts):
                findings.add(found)
    return rows_of(findings)


def measure_graph(per_topic: int) -> dict[str, Any]:
    """The row of the graphs over DDS."""
    with tempfile.TemporaryDirectory(prefix="rlt_fuzz_") as name:
        folder = Path(name)
        _, training, valid = graph_nodes(folder)
        overheard = attack_graph(training, valid, folder / "log", per_topic, SEED, say)
        attack_equipped_graph(folder / "on_a_timer", per_topic, SEED + 1, say, overheard)
    return {"kind": "graph", "commit": source_commit(Path(__file__).parent), **reports(overheard)}


def rows_of(findings: Findings) -> list[dict[str, Any]]:
    """One row per message type; crashes and violations with the words that describe them."""
    rows: dict[str, dict[str, Any]] = {}
    for tally in findings.tallies.values():
        row = rows.setdefault(
            tally.type, {"kind": "handlers", "type": tally.type, "nodes": [], "sent": 0, "undecodable": 0, "crashes": 0}
        )
        row["nodes"] = sorted({*row["nodes"], tally.node})
        for key in ("sent", "undecodable", "crashes"):
            row[key] += getattr(tally, key)
    found = [row for _, row in sorted(rows.items()) if row["type"]]
    words = {"crashes": dict(findings.crashes), "violations": dict(findings.violations), "steps": dict(findings.steps)}
    return [*found, {"kind": "words", "commit": source_commit(Path(__file__).parent), **words}]


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue."""
    handlers = [row for row in rows if row["kind"] == "handlers"]
    words = next(row for row in rows if row["kind"] == "words")
    graph = next(row for row in rows if row["kind"] == "graph")
    least, over_dds = min(row["sent"] for row in handlers), min(graph["sent"].values())
    crashes, deaths = sum(words["crashes"].values()), len(graph["deaths"])
    driven = min(words["steps"].get(name, 0) for name in DRIVEN)
    moved = sum(words["violations"].values()) + sum(graph["violations"].values())
    return [
        Goal("messages per type through the handlers, fewest", least, f">= {PER_TYPE}", least >= PER_TYPE),
        Goal("messages per topic over DDS, fewest", over_dds, f">= {PER_TOPIC}", over_dds >= PER_TOPIC),
        Goal(
            "control steps by VLA, RL, a human, and clamped, fewest", driven, f">= {STEPS_EACH}", driven >= STEPS_EACH
        ),
        Goal("handlers that raised", crashes, "0", crashes == 0),
        Goal("processes that ended", deaths, "0", deaths == 0),
        Goal("commands or actions beyond a limit, or not finite", moved, "0", moved == 0),
    ]


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    rows, machine = document["rows"], document["machine"]
    graph = next(row for row in rows if row["kind"] == "graph")
    lines = [
        (
            f"`{row['type']}`",
            ", ".join(row["nodes"]),
            f"{row['sent']:,}",
            f"{row['undecodable']:,}",
            str(row["crashes"]),
        )
        for row in rows
        if row["kind"] == "handlers"
    ]
    header = ("type", "nodes", "sent", "no message of the type", "handlers that raised")
    words = next(row for row in rows if row["kind"] == "words")
    head = f"`{document['command']}`, commit `{words['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores."
    sent = Counter(graph["sent"])
    steps = ", ".join(f"{words['steps'].get(name, 0):,} {name}" for name in DRIVEN)
    driven = f"Control steps that the executors took between the messages: {steps}."
    tail = (
        f"Over DDS (commit `{graph['commit'][:10]}`): {sent.total():,} messages and requests on {len(sent)} topics and "
        "services; "
        f"{len(graph['deaths'])} processes ended; {graph['commands']:,} commands reached the arms meanwhile. On a "
        "timer: "
        f"{', '.join(f'{count:,} steps by {name}' for name, count in sorted(graph['steps'].items()))}."
    )
    return f"{head}\n\n{markdown_table(header, lines)}\n\n{driven}\n\n{tail}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Measure, or show the path with QUICK=1."""
    if quick():
        rows = [*measure_handlers(QUICK_PER_TYPE), measure_graph(QUICK_PER_TOPIC)]
        for goal in goals(rows)[2:]:
            print(f"{goal.name}: {goal.value}")
        sent = sum(row["sent"] for row in rows if row["kind"] == "handlers")
        show_committed(NAME, f"{sent} messages through the handlers, {QUICK_PER_TOPIC} per topic over DDS")
        if not goals(rows)[2].value or not all(goal.met for goal in goals(rows)[3:]):
            harm = {key: row[key] for row in rows[-2:] for key in ("crashes", "violations", "deaths") if row.get(key)}
            raise SystemExit(f"fuzz: a hostile message did harm, or none met moving arms: {harm}")
        return
    parser = argparse.ArgumentParser(prog="bench-fuzz", description=__doc__)
    parser.add_argument(
        "--graph", action="store_true", help="only over DDS; the other rows stay those of the last result"
    )
    if parser.parse_args().graph:
        handlers = [row for row in read_result(NAME)["rows"] if row["kind"] != "graph"]
    else:
        handlers = measure_handlers(PER_TYPE)
    rows = [*handlers, measure_graph(PER_TOPIC)]
    publish(NAME, table, command="make bench-fuzz", seeds=[SEED], n=PER_TYPE, rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
