"""Command `encode`: what the frozen VLA makes of demonstrations, for the learner's replay. `adapt` ends with it too.

    encode --robot sim.yaml --task screw.yaml --demonstrations DIR --checkpoint DIR [--output DIR] \\
           [--seed N] [--threads N]

Reads the successful episodes of `mode:=collect`, writes <checkpoint>/demonstrations, where the learner finds them, or
another folder. What is there already is kept, what is there of another VLA is replaced. `flow_steps` and `group_size`
are those of the task file's `nodes: vla:`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from rlt_common.config import RobotConfig, TaskConfig, load_named
from rlt_common.parameters import ParameterError
from rlt_vla_node.backend import BackendError
from rlt_vla_node.checkpoint import CheckpointError, load_checkpoint
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.demonstration_encoding import FOLDER, encode_demonstrations
from rlt_vla_node.encoding import encoding_of
from rlt_vla_node.inference import LayoutError

PROGRESS_S = 5.0


def encode(
    robot: RobotConfig, task: TaskConfig, demonstrations: Path, checkpoint: Path, seed: int, output: Path | None = None
) -> None:
    """Encode `demonstrations` into `output`, by default a folder of `checkpoint`, with progress on the terminal.

    Raises DatasetError, CheckpointError, LayoutError or ParameterError.
    """
    config = encoding_of(task, seed)
    start = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= PROGRESS_S:
            last = now
            print(f"encode: {done}/{total}, about {(now - start) / done * (total - done):.0f} s left", flush=True)

    target = output or checkpoint / FOLDER
    count = encode_demonstrations(demonstrations, target, robot, task, load_checkpoint(checkpoint), config, progress)
    print(f"encode: {count} demonstrations in {target}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_vla_node encode`."""
    parser = argparse.ArgumentParser(prog="encode", description="encode demonstrations for the learner's replay")
    parser.add_argument("--robot", required=True, help="robot name, or path of a robot file")
    parser.add_argument("--task", required=True, help="task name, or path of a task file")
    parser.add_argument("--demonstrations", required=True, type=Path, help="folder of episode files")
    parser.add_argument("--checkpoint", required=True, type=Path, help="folder of the frozen VLA and RL token")
    parser.add_argument("--output", type=Path, help=f"folder for the encodings (default <checkpoint>/{FOLDER})")
    parser.add_argument("--seed", type=int, default=0, help="of the flow noise of the references")
    parser.add_argument("--threads", type=int, default=1, help="of torch; another number gives other last digits")
    options = parser.parse_args(arguments)
    if options.threads < 1 or options.seed < 0:
        sys.exit("encode: --threads must be at least 1 and --seed not negative")
    torch.set_num_threads(options.threads)
    try:
        robot, task = load_named(options.robot, options.task)
        encode(robot, task, options.demonstrations, options.checkpoint, options.seed, options.output)
    except (ParameterError, DatasetError, CheckpointError, LayoutError, BackendError, OSError) as error:
        sys.exit(f"encode: {error}")
    except KeyboardInterrupt:
        sys.exit("encode: interrupted; the same command goes on")


if __name__ == "__main__":
    main()
