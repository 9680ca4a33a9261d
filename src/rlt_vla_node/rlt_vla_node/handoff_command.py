"""Command `handoff`: train the hand-off head from the operator's hand-offs in a run, and say how good it is.

    handoff --robot sim.yaml --task screw.yaml --run DIR [--checkpoint DIR] [--seed N] [--threads N]

Reads <run>/episodes and the frozen VLA (default <run>/vla), writes handoff.safetensors and handoff.json beside the
VLA's checkpoint, where the VLA node finds them. Every parameter of HandoffConfig is an option, and may stand in the
task file under `nodes: handoff:`; observations are encoded by the `group_size` of `nodes: vla:`. The same episodes,
seed and threads give the same head.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlt_common.config import RobotConfig, TaskConfig, load_named
from rlt_common.parameters import ParameterError
from rlt_vla_node import training_options
from rlt_vla_node.backend import BackendError
from rlt_vla_node.checkpoint import CheckpointError, load_checkpoint
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.encoding import encoding_of
from rlt_vla_node.handoff import HeadConfig, save_head
from rlt_vla_node.handoff_data import load_handoffs
from rlt_vla_node.handoff_training import (
    HandoffConfig,
    choose_threshold,
    probabilities,
    report,
    split_episodes,
    train_head,
)
from rlt_vla_node.inference import LayoutError


def train(
    config: HandoffConfig, robot: RobotConfig, task: TaskConfig, episodes: Path, checkpoint: Path, seed: int
) -> dict[str, Any]:
    """Train on `episodes` and write the head beside `checkpoint`. Returns its report."""
    started = time.monotonic()
    model = load_checkpoint(checkpoint).fitted(robot, task)
    steps, size = (config.window_steps, config.sparse_steps), encoding_of(task).group_size
    data = load_handoffs(episodes, model, robot.period_s, *steps, size, _reading_progress)
    split = split_episodes(len(data.files), config, seed)
    _say(f"{len(data.inputs)} observations, {int((data.after < 0).sum())} of them before the hand-off")
    spec = model.backend.spec
    shape = HeadConfig(embed_dim=spec.embed_dim, state_dim=spec.state_dim, hidden=config.hidden)
    head = train_head(data, split.train, shape, config, seed, lambda step, loss: _training_progress(config, step, loss))
    probability = probabilities(head, data)
    head.threshold = choose_threshold(data, probability, split.validation, config.window_steps)
    figures = report(
        data,
        probability,
        split,
        head.threshold,
        config,
        execute_steps=task.execute_steps,
        outputs=task.handoff_outputs,
    )
    figures["seconds"] = round(time.monotonic() - started, 1)
    parts = dataclasses.asdict(split)
    facts = {
        "report": figures,
        "task": task.name,
        "seed": seed,
        "training": dataclasses.asdict(config),
        "files": {name: [data.files[i] for i in indices] for name, indices in parts.items()},
    }
    save_head(checkpoint, head, model.hash, facts)
    return figures


def format_report(figures: Mapping[str, Any]) -> str:
    """The report as lines of text."""
    timing, tested = figures["timing_error"], figures["tested_observations"]
    quantiles = ", ".join(f"{q} %: {_steps(value)}" for q, value in timing["quantiles"].items())
    return "\n".join(
        [
            f"episodes: {', '.join(f'{count} {name}' for name, count in figures['episodes'].items())}; threshold "
            f"{figures['threshold']:.3f}, {figures['outputs_in_a_row']} outputs in a row",
            f"precision {_share(figures['precision'])}, recall {_share(figures['recall'])} over {tested['base']} "
            f"observations before and {tested['critical']} after the hand-off of the test episodes",
            f"timing error in control steps, early is negative: {quantiles}; mean of the absolute "
            f"{_steps(timing['mean_absolute'])}",
            f"premature (over {figures['premature_steps']} steps early): {figures['premature_share']:.0%}; missing "
            f"(none within {figures['window_steps']} steps after): {figures['missing_share']:.0%} of the test episodes",
        ]
    )


def build_config(task: TaskConfig, options: Mapping[str, Any]) -> HandoffConfig:
    """The task file's `nodes: handoff:` with the given options on top. Raises ParameterError."""
    return training_options.configure(HandoffConfig, task, "handoff", options)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; every parameter of HandoffConfig is an option without a default of its own."""
    parser = argparse.ArgumentParser(
        prog="handoff", description="train the hand-off head from the operator's hand-offs"
    )
    parser.add_argument("--run", required=True, help="run directory; its episodes are read")
    parser.add_argument("--checkpoint", help="frozen VLA and RL token (default <run>/vla)")
    seed_help = "of every random draw, the split of the episodes included"
    training_options.add_options(parser, HandoffConfig, seed_help)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_vla_node handoff`."""
    options = parse_arguments(arguments)
    given = training_options.apply(options, "handoff")
    run = Path(options.run)
    checkpoint = Path(options.checkpoint) if options.checkpoint else run / "vla"
    try:
        robot, task = load_named(options.robot, options.task)
        figures = train(build_config(task, given), robot, task, run / "episodes", checkpoint, options.seed)
    except (ParameterError, DatasetError, CheckpointError, LayoutError, BackendError, OSError) as error:
        sys.exit(f"handoff: {error}")
    except KeyboardInterrupt:
        sys.exit("handoff: interrupted; nothing was written")
    for line in format_report(figures).splitlines():
        _say(line)
    _say(f"the head is in {checkpoint}, trained in {figures['seconds']:.0f} s")


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _steps(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _say(text: str) -> None:
    print(f"handoff: {text}", flush=True)


def _reading_progress(done: int, total: int) -> None:
    if done == total or done % 20 == 0:
        _say(f"reading and encoding episodes {done}/{total}")


def _training_progress(config: HandoffConfig, step: int, loss: float) -> None:
    _say(f"training: step {step}/{config.steps}, loss {loss:.4f}")


if __name__ == "__main__":
    main()
