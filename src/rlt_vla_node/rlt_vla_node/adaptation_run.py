"""What the adaptations of the built-in VLA and of any other share: what they say, write of themselves, and end with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlt_common.config import RobotConfig, TaskConfig, config_hash
from rlt_common.parameters import ParameterError
from rlt_vla_node.backend import BackendError
from rlt_vla_node.checkpoint import CheckpointError
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.inference import LayoutError
from rlt_vla_node.resume import ResumeError
from rlt_vla_node.video import VideoError

STATE_FILE = "training.safetensors"
"""From which `--resume` goes on."""


def say(text: str) -> None:
    """A line on the terminal."""
    print(f"adapt: {text}", flush=True)


def inputs_hash(robot: RobotConfig, task: TaskConfig) -> str:
    """Of robot and task, without the parameters of other nodes: those of the learner do not change the VLA."""
    return config_hash(robot, replace(task, nodes={}))


def making(identity: str, robot: RobotConfig, task: TaskConfig, seed: int, config: Any) -> dict[str, Any]:
    """What every checkpoint says of the adaptation that made it; `config` is the dataclass of its numbers."""
    return {
        "identity": identity,
        "task": task.name,
        "robot": robot.name,
        "config_hash": inputs_hash(robot, task),
        "seed": seed,
        "adapt": asdict(config),
    }


@contextmanager
def ending_in_words(output: str | Path, *more: type[Exception]) -> Iterator[None]:
    """Errors that say what to do (and those in `more`), and Ctrl-C, end the command with their words."""
    try:
        yield
    except (
        ParameterError,
        BackendError,
        DatasetError,
        VideoError,
        ResumeError,
        CheckpointError,
        LayoutError,
        FloatingPointError,
        OSError,
        *more,
    ) as error:
        sys.exit(f"adapt: {error}")
    except KeyboardInterrupt:
        sys.exit(f"adapt: interrupted; the same command with --resume goes on from {output}/{STATE_FILE}")
