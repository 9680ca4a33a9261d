"""`make bench-safety`: how often the watchdogs stop a robot at which nothing is wrong, and how soon when something is.

The executor's core runs on a simulated clock, with inputs and ticks that come as unevenly as `JITTERS` says. No part
needs real time, so the figures do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from harness.clean_runs import CAMERA, CleanRun, Jitter
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed

from rlt_common.config import RobotConfig, load_robot
from rlt_control.inputs import CAMERAS, HUMAN, JOINT_STATES, MANAGER, make_watchdog
from rlt_vla_node.synchroniser import input_watchdog

NAME = "safety"
SEEDS = (0, 1, 2)
HOURS = 1.0
JITTERS = (
    Jitter("quiet machine", spread_s=0.0005, delay_s=0.0005, stall_every_s=60.0, stall_s=0.02),
    Jitter("loaded machine", spread_s=0.002, delay_s=0.002, stall_every_s=10.0, stall_s=0.06),
    Jitter("overloaded machine", spread_s=0.005, delay_s=0.005, stall_every_s=5.0, stall_s=0.15),
)
"""Made up; the last one stalls for longer than the time-out of 100 ms now and then, and has to be stopped."""
CLEAN = ("quiet machine", "loaded machine")
SILENCED = (JOINT_STATES, MANAGER, HUMAN, "wrench", "pose", CAMERAS, CAMERA + "base")
"""The last one is one camera's images, which camera_ingest misses and tells the executor of."""
SILENCES = 20
WARM_S = (3.0, 8.0)
TAKEN_OVER_S = (13.5, 15.5)
"""When an input falls silent: in the first episode's base phase; a human's commands while one is in control."""


def robot() -> RobotConfig:
    """The simulated cell's arms on a robot's timer, each with a force sensor and a measured pose; drivers obey."""
    cell = load_robot(get_package_share_directory("rlt_bringup") + "/config/robots/sim.yaml")
    sensors = {"max_force": 30.0, "max_torque": 3.0}
    arms = (
        replace(arm, wrench_topic=f"{arm.name}/wrench", pose_topic=f"{arm.name}/pose", **sensors) for arm in cell.arms
    )
    drivers = (replace(driver, ready_topic="ready") for driver in cell.drivers)
    return replace(cell, tick="timer", arms=tuple(arms), drivers=tuple(drivers))


def clean(jitter: Jitter, seeds: tuple[int, ...], hours: float) -> dict[str, Any]:
    """Clean runs of `hours` for each seed."""
    tallies = [CleanRun(robot(), jitter, seed).run(3600.0 * hours) for seed in seeds]
    moving_h = sum(tally.moving_s for tally in tallies) / 3600.0
    stops = sum((tally.stops for tally in tallies), start=type(tallies[0].stops)())
    names = tallies[0].worst_age_ms
    return {
        "jitter": asdict(jitter),
        "moving_h": moving_h,
        "ticks": sum(tally.ticks for tally in tallies),
        "stops": dict(stops),
        "stops_per_h": stops.total() / moving_h,
        "late_chunks_per_h": sum(tally.late_chunks for tally in tallies) / moving_h,
        "worst_age_ms": {name: max(tally.worst_age_ms.get(name, 0.0) for tally in tallies) for name in names},
    }


def silence(name: str, count: int) -> dict[str, Any]:
    """How long after an input fell silent the arms held, on the loaded machine."""
    jitter = next(jitter for jitter in JITTERS if jitter.name == "loaded machine")
    table = {row.name.partition(".")[0]: row.timeout_s for row in make_watchdog(robot()).table(0.0)}
    table |= {CAMERA + row.name: row.timeout_s for row in input_watchdog(robot()).table(0.0)}
    took = []
    for seed in range(count):
        began = float(np.random.default_rng(seed).uniform(*(TAKEN_OVER_S if name == HUMAN else WARM_S)))
        run = CleanRun(robot(), jitter, seed, silent=(name, began))
        run.run(began + 10.0)
        took.append((run.held_s - began) * 1e3 if run.held_s is not None else float("inf"))
    return {
        "input": name,
        "timeout_ms": table[name] * 1e3,
        "n": count,
        "median_ms": float(np.median(took)),
        "worst_ms": max(took),
    }


def goals(rows: Mapping[str, Any]) -> list[Goal]:
    """No false stop where nothing stalls for as long as a time-out; every true one in time."""
    found = [
        Goal(
            f"false stops per hour of motion, {row['jitter']['name']}", row["stops_per_h"], "0", row["stops_per_h"] == 0
        )
        for row in rows["clean"]
        if row["jitter"]["name"] in CLEAN
    ]
    for row in rows["silence"]:
        late = row["worst_ms"] - row["timeout_ms"]
        found.append(Goal(f"ms from the time-out of {row['input']} to the hold, worst", late, "<= 100", late <= 100.0))
    return found


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    (rows,) = document["rows"]
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`; simulated clock, seeds {document['seeds']}, "
        f"{document['n']} h each; episodes of 19 s of motion with a take-over; jitter as in `benchmarks/safety.py`."
    )
    runs = [
        (
            row["jitter"]["name"],
            f"{row['jitter']['stall_s'] * 1e3:.0f} ms every {row['jitter']['stall_every_s']:.0f} s",
            f"{row['moving_h']:.2f}",
            f"{row['stops_per_h']:.1f}",
            ", ".join(f"{name} {count}" for name, count in sorted(row["stops"].items())) or "none",
            f"{row['late_chunks_per_h']:.1f}",
            ", ".join(f"{name} {row['worst_age_ms'][name]:.0f}" for name in (JOINT_STATES, MANAGER)),
        )
        for row in rows["clean"]
    ]
    clean_table = markdown_table(
        (
            "clean runs",
            "stalls of each source, up to",
            "h of motion",
            "false stops per h",
            "by",
            "late chunks per h",
            "oldest input, ms",
        ),
        runs,
    )
    silences = [
        (row["input"], f"{row['timeout_ms']:.0f}", str(row["n"]), f"{row['median_ms']:.0f}", f"{row['worst_ms']:.0f}")
        for row in rows["silence"]
    ]
    silence_table = markdown_table(("silent input", "time-out, ms", "n", "held after, median ms", "worst ms"), silences)
    return f"{head}\n\n{clean_table}\n\n{silence_table}\n\n{goal_table(document['goals'])}"


def measure(seeds: tuple[int, ...], hours: float, silences: int) -> dict[str, Any]:
    """All clean runs and all silences."""
    found: dict[str, Any] = {"clean": [], "silence": []}
    for jitter in JITTERS:
        found["clean"].append(clean(jitter, seeds, hours))
        print(f"safety: {jitter.name}: {found['clean'][-1]['stops_per_h']:.1f} false stops per hour", flush=True)
    for name in SILENCED:
        found["silence"].append(silence(name, silences))
        print(f"safety: {name} silent: held after {found['silence'][-1]['worst_ms']:.0f} ms at worst", flush=True)
    return found


def main() -> None:
    """Measure, write the result and the table."""
    if quick():
        show_committed(NAME, str(measure(SEEDS[:1], 0.05, 3)))
        return
    rows = measure(SEEDS, HOURS, SILENCES)
    publish(NAME, table, command="make bench-safety", seeds=list(SEEDS), n=HOURS, rows=[rows], goals=goals(rows))


if __name__ == "__main__":
    main()
