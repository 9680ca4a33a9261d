"""`ros2 run rlt_rl_node metrics --run <run>`: the figures of a run, in the terminal, in TensorBoard, or in W&B.

A process of its own, beside a learner that runs, on whatever machine has the run directory: it only reads metrics.jsonl
of the run and of its VLA. Without ROS installed: `python -m rlt_rl_node.metrics_command`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from rlt_common.advice import advise
from rlt_common.episode_file import EpisodeFileError
from rlt_common.metrics_log import read_metrics
from rlt_common.reading import read_json
from rlt_rl_node.metrics_curves import LEARNING, read_curves
from rlt_rl_node.metrics_writers import TensorBoardWriter, WandbWriter, WriterError

SHOWN = (
    ("success_of_20", "episode/success_of_20", "{:.2f}"),
    ("steps", "episode/critical_steps", "{:.0f}"),
    ("|pi - reference|", "learning/reference_distance", "{:.2f}"),
    ("Q", "learning/q_mean", "{:.2f}"),
    ("return", "episode/episode_return", "{:.2f}"),
    ("critic_loss", "learning/critic_loss", "{:.3g}"),
    ("owed", "work/owed", "{:.0f}"),
)
"""What a line in the terminal says of an episode."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_rl_node metrics`."""
    options = _options(arguments)
    run = Path(options.run)
    if not run.is_dir():
        sys.exit(f"metrics: no run directory {run}")
    vla = Path(options.vla) if options.vla else run / "vla"
    writers: list[TensorBoardWriter | WandbWriter] = []
    try:
        with ExitStack() as opened:
            if options.tensorboard:
                writers.append(opened.enter_context(closing(TensorBoardWriter(run))))
            if options.wandb:
                writers.append(opened.enter_context(closing(WandbWriter(run, options.wandb))))
            _follow(run, vla, writers, options)
    except (WriterError, OSError, EpisodeFileError) as error:
        sys.exit(f"metrics: {error}")
    except KeyboardInterrupt:
        pass


def _follow(
    run: Path, vla: Path, writers: Sequence[TensorBoardWriter | WandbWriter], options: argparse.Namespace
) -> None:
    shown, said, warned = 0, None, set()
    while True:
        curves, problems = read_curves(run, vla)
        for problem in problems:
            if problem not in warned:
                warned.add(problem)
                print(f"metrics: {problem}", file=sys.stderr)
        for writer in writers:
            if written := writer.write(curves):
                print(f"{type(writer).__name__.removesuffix('Writer')}: {written} entries", flush=True)
        entries = curves[LEARNING]
        for entry in entries[min(shown, len(entries)) if options.follow and shown else -1 :]:
            figures = (f"{name} {form.format(entry.values[tag])}" for name, tag, form in SHOWN if tag in entry.values)
            print(f"episode {entry.step}: {', '.join(figures)}", flush=True)
        shown = len(entries)
        advice = advise(read_metrics(run).rows, _figures(vla))
        if (words := [(each.text, each.why) for each in advice if entries]) != said:
            said = words
            for text, why in words:
                print(f"advice: {text} ({why})", flush=True)
        if not options.follow:
            if not entries and not curves["adaptation"]:
                sys.exit(f"metrics: {run} has no metrics.jsonl yet, nor has {vla}")
            return
        time.sleep(options.every)


def _figures(vla: Path) -> dict[str, object]:
    try:
        figures = read_json(vla / "metrics.json")
    except (OSError, ValueError):
        return {}
    return figures if isinstance(figures, dict) else {}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="metrics", description="the figures of a run, and where to see them")
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--vla", default="", help="folder of the adapted VLA (default: <run>/vla)")
    parser.add_argument("--follow", action="store_true", help="go on as the run does, until Ctrl-C")
    parser.add_argument("--tensorboard", action="store_true", help="write event files into <run>/tensorboard")
    parser.add_argument("--wandb", default="", metavar="PROJECT", help="send to W&B (`pip install wandb` first)")
    parser.add_argument("--every", type=float, default=2.0, help="s between two looks, with --follow (default: 2)")
    options = parser.parse_args(arguments)
    if not 0.1 <= options.every <= 3600.0:
        parser.error("--every must be 0.1 to 3600")
    return options


if __name__ == "__main__":
    main()
