"""A run directory whose VLA has random weights: all that a graph needs to run, in a second instead of an adaptation.

What is measured on it does not depend on how well the arms move: faults, hostile messages, memory over hours. Training
episodes begin in the critical phase, since such a VLA never gets there by itself, and are short.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlt_bringup.graph import config_file
from rlt_common.config import load_robot, load_task
from rlt_vla_node.adapt import vla_config
from rlt_vla_node.adapt_config import AdaptConfig
from rlt_vla_node.builtin import build_vla
from rlt_vla_node.checkpoint import save_checkpoint
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token

TASK_FILE, ROBOT_FILE = "task.yaml", "robot.yaml"
EPISODE_STEPS = 100
SHORT = {
    "start_in": "critical",
    "max_critical_steps": 2 * EPISODE_STEPS,
    "nodes": {
        "scripted_operator": {"operator": {"patience_steps": EPISODE_STEPS}},
        "rl_learner": {
            "demonstrations": 0,
            "checkpoint_every": 2,
            "agent": {"hidden": [32, 32], "batch_size": 32, "critics": 2, "actor_objective": "min"},
            "budget": {
                "warmup_episodes": 2,
                "min_transitions": 40,
                "initial_updates": 50,
                "max_updates_per_episode": 40,
            },
        },
    },
}
"""What differs from the task: short episodes and few, cheap updates."""


def prepare(
    run: Path, task: str = "screw", seed: int = 0, changes: Mapping[str, Any] = SHORT, robot: str = "sim"
) -> Path:
    """Write <run>/vla and <run>/task.yaml, the task with `changes` merged into it, and return the latter's path."""
    run.mkdir(parents=True, exist_ok=True)
    values = yaml.safe_load(config_file("tasks", task).read_text(encoding="utf-8"))
    file = run / TASK_FILE
    file.write_text(yaml.safe_dump(_merged(values, changes)), encoding="utf-8")
    write_untrained_vla(run / "vla", file, seed, robot)
    return file


def on_a_timer(run: Path, robot: str = "sim", camera: Mapping[str, Any] | None = None, **changes: Any) -> Path:
    """The robot's file with `tick: timer`: as a real robot runs, by wall time. Returns its path.

    `changes` are merged into the file, `camera` into each of its cameras.
    """
    source = config_file("robots", robot)
    values = yaml.safe_load(source.read_text(encoding="utf-8"))
    values |= {"tick": "timer", "kinematics": str(source.parent / values["kinematics"]), **changes}
    values["cameras"] = [{**own, **(camera or {})} for own in values["cameras"]]
    run.mkdir(parents=True, exist_ok=True)
    file = run / ROBOT_FILE
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def write_untrained_vla(folder: Path, task_file: Path, seed: int, robot_name: str = "sim") -> None:
    """A checkpoint of the shape that `adapt` makes for the robot (name or file) and the task, with random weights."""
    robot, task = load_robot(config_file("robots", robot_name)), load_task(task_file)
    vla = build_vla(vla_config(robot, task), seed)
    shape = RlTokenConfig(embed_dim=vla.config.width, max_tokens=vla.config.tokens, token_dim=AdaptConfig().token_dim)
    blocks = [(name, robot.block_sizes[name]) for name in task.vla_state]
    facts = {"statistics": {"action_spread": np.asarray(robot.step_limit / 4, float).tolist()}}
    save_checkpoint(folder, vla, build_rl_token(shape, seed + 1), blocks, facts, {})


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
