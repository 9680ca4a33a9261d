"""The command line of the training commands: every parameter of a configuration is an option, on top of the task's."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from rlt_common.config import TaskConfig
from rlt_common.parameters import from_mapping

_C = TypeVar("_C")
_PREFIX = "parameter_"


def add_options(parser: argparse.ArgumentParser, config: type, seed_help: str) -> None:
    """Robot, task, seed and threads, and every field of `config`, without a default of its own."""
    parser.add_argument("--robot", required=True, help="robot name, or path of a robot file")
    parser.add_argument("--task", required=True, help="task name, or path of a task file")
    parser.add_argument("--seed", type=int, default=0, help=seed_help)
    parser.add_argument("--threads", type=int, default=1, help="of torch; another number gives other last digits")
    group = parser.add_argument_group("parameters")
    for field in dataclasses.fields(config):
        several = field.default is dataclasses.MISSING
        default = field.default_factory() if several else field.default
        if isinstance(default, bool):
            kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"type": float if several else type(default), "nargs": "+" if several else None, "metavar": "N"}
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=_PREFIX + field.name,
            help=f"{field.metadata['description']} (default {default})".replace("%", "%%"),
            **kind,
        )


def apply(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Check seed and threads, set the threads, and return the parameters (None: not given). Exits with words."""
    if options.threads < 1 or options.seed < 0:
        sys.exit(f"{command}: --threads must be at least 1 and --seed not negative")
    torch.set_num_threads(options.threads)
    return {k.removeprefix(_PREFIX): v for k, v in vars(options).items() if k.startswith(_PREFIX)}


def configure(config: type[_C], task: TaskConfig, command: str, options: Mapping[str, Any]) -> _C:
    """The task file's `nodes: <command>:` with the given options on top. Raises ParameterError."""
    own = task.nodes.get(command, {})
    given = {name: value for name, value in options.items() if value is not None}
    return from_mapping(config, {**own, **given}, f"task {task.name}: nodes: {command}")
