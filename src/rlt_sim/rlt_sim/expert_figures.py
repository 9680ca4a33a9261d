"""Command `expert_figures`: how long the scripted tele-operator of each scene takes, and how long a sure hand would.

`python -m rlt_sim.expert_figures --count 100` prints the table of docs/simulation.md: control steps of the critical
phase, without a time limit to speak of. The operator starts with the full task, the sure hand (expert.BRISK) at the
critical phase.
"""

from __future__ import annotations

import argparse

import numpy as np

from rlt_sim.cell import Cell
from rlt_sim.collect import demonstrate
from rlt_sim.expert import BRISK, Temperament
from rlt_sim.scenes import SCENES

MAX_STEPS = 3000


def figures(scene: str, count: int, seed: int, start_in: str, temperament: Temperament | None) -> tuple[int, list[int]]:
    """Successes, and the 10th, 50th and 90th percentile of the critical phase's control steps, of `count` resets."""
    cell = Cell(SCENES[scene]())
    runs = [
        demonstrate(cell, one, stride=0, max_steps=MAX_STEPS, start_in=start_in, temperament=temperament)
        for one in range(seed, seed + count)
    ]
    steps = [len(run.actions) - run.hand_off_step for run in runs]
    return sum(run.success for run in runs), [round(value) for value in np.percentile(steps, [10, 50, 90])]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m rlt_sim.expert_figures`."""
    parser = argparse.ArgumentParser(prog="expert_figures", description="how long the scripted tele-operators take")
    parser.add_argument("--scene", choices=sorted(SCENES), default="", help="one scene only (default: all)")
    parser.add_argument("--count", type=int, default=100, help="resets per row")
    parser.add_argument("--seed", type=int, default=10_000, help="first reset seed")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.seed < 0:
        parser.error("--count must be at least 1 and --seed not negative")
    print("| scene | hand | successes | 10 % | median | 90 % |\n|---|---|---|---|---|---|")
    for scene in [options.scene] if options.scene else SCENES:
        for hand, start_in, temperament in (("tele-operator", "full", None), ("sure", "critical", BRISK)):
            successes, (low, median, high) = figures(scene, options.count, options.seed, start_in, temperament)
            print(f"| {scene} | {hand} | {successes}/{options.count} | {low} | {median} | {high} |", flush=True)


if __name__ == "__main__":
    main()
