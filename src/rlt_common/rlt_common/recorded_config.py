"""Robot and task of an episode as they were recorded: out of the texts in its file, wherever their files are now.

The texts are all there is: a robot's kinematics model is a file of its own, which the episode does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlt_common.config import MAX_FILE_BYTES, RobotConfig, TaskConfig, config_file, parse_yaml, recorded_name
from rlt_common.episode_file import episode_configuration
from rlt_common.parameters import ParameterError, from_mapping


def robot_in(bag: Path | str) -> RobotConfig | None:
    """The robot that an episode was recorded with, its `folder` empty; None in a file of before its text was kept.

    Raises EpisodeFileError, or ParameterError saying what to give.
    """
    values = _values(bag, "robot")
    return None if values is None else _checked(RobotConfig, {**values, "folder": ""}, bag, "robot")


def task_in(bag: Path | str) -> TaskConfig | None:
    """The task that an episode was recorded with; see :func:`robot_in`."""
    values = _values(bag, "task")
    return None if values is None else _checked(TaskConfig, values, bag, "task")


def named_file(bag: Path | str, facts: Mapping[str, str], key: str, given: str = "", default: str = "") -> Path:
    """The robot or task file (`key`) that was given; else the shipped one of the name in the episode's facts.

    Raises ParameterError saying what to give.
    """
    if given:
        return config_file(f"{key}s", given)
    name = recorded_name(bag, facts, key, default)
    try:
        return config_file(f"{key}s", name)
    except ParameterError as error:
        raise ParameterError(
            f"{bag} names its {key} and does not hold its file: {error}: give it with --{key}"
        ) from error


def write_robot(bag: Path | str, path: Path, kinematics: Path) -> None:
    """Write the robot file that an episode was recorded with, for nodes to read, with this kinematics model.

    Raises EpisodeFileError, ParameterError or OSError.
    """
    path.write_text(yaml.safe_dump({**(_values(bag, "robot") or {}), "kinematics": str(kinematics)}), encoding="utf-8")


def write_task(bag: Path | str, path: Path) -> None:
    """Write the task file that an episode was recorded with. Raises EpisodeFileError or OSError."""
    path.write_text(episode_configuration(bag)["task"], encoding="utf-8")


def _values(bag: Path | str, key: str) -> Mapping[str, Any] | None:
    text = episode_configuration(bag).get(key)
    if text is None:
        return None
    if len(text) > MAX_FILE_BYTES:
        raise ParameterError(f"the {key} file in {bag}: {len(text)} characters: give it with --{key}")
    try:
        return parse_yaml(text, f"the {key} file in {bag}")
    except ParameterError as error:
        raise ParameterError(f"{error}: give it with --{key}") from error


def _checked(kind: type, values: Mapping[str, Any], bag: Path | str, key: str) -> Any:
    try:
        return from_mapping(kind, values, f"the {key} file in {bag}")
    except ParameterError as error:
        raise ParameterError(f"{error}: give it with --{key}") from error
