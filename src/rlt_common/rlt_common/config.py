"""Robot and task files (YAML) as frozen, validated dataclasses. An unknown or missing key is an error.

What they hold is in `robot_config`, `arm_config`, `camera_config` and `task_config`; here they are read. Errors name
the file and the key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlt_common.arm_config import ArmConfig, LimitsConfig
from rlt_common.camera_config import CameraConfig
from rlt_common.parameters import ParameterError, from_mapping
from rlt_common.reading import read_limited
from rlt_common.robot_config import ARM_ACTION_DIM, BLOCKS, RobotConfig
from rlt_common.task_config import CurriculumStage, TaskConfig

__all__ = [
    "ARM_ACTION_DIM",
    "BLOCKS",
    "ArmConfig",
    "CameraConfig",
    "CurriculumStage",
    "LimitsConfig",
    "RobotConfig",
    "TaskConfig",
    "config_file",
    "config_hash",
    "kinematics_hash",
    "learning_hash",
    "load_robot",
    "load_task",
    "parse_yaml",
    "read_yaml",
    "recorded_name",
    "shipped_file",
]
MAX_FILE_BYTES = 1024 * 1024
MAX_MODEL_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_XML_NAMED = re.compile(rb"""\sfile\s*=\s*["']([^"'<>]+\.(?:xml|mjcf|urdf))["']""")


def config_file(kind: str, name: str) -> Path:
    """A file given by path, or by name in rlt_bringup's config/<kind>. Raises ParameterError naming what there is."""
    if name.endswith(".yaml"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise ParameterError(f"{kind}: no file {path}")
        return path
    from ament_index_python.packages import get_package_share_directory  # files given by path need no ROS

    folder = Path(get_package_share_directory("rlt_bringup")) / "config" / kind
    path = folder / f"{name}.yaml"
    if path.parent != folder or not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ParameterError(f"{kind}: no {name!r}; there are: {known}; or give the path of a .yaml file")
    return path


def load_named(robot: str, task: str) -> tuple[RobotConfig, TaskConfig]:
    """A robot and a task, each by path or by name (config_file). Raises ParameterError."""
    return load_robot(config_file("robots", robot)), load_task(config_file("tasks", task))


def shipped_file(kind: str, name: str) -> Path | None:
    """The file of this name in rlt_bringup's config/<kind>; None where there is none. A path is no name."""
    try:
        return config_file(kind, name) if _NAME.fullmatch(name) else None
    except ParameterError:
        return None


def recorded_name(path: Path | str, facts: Mapping[str, str], key: str, default: str = "") -> str:
    """The name of a configuration (`key`: robot or task) out of an episode file's facts, which may not name a path.

    Raises ParameterError.
    """
    name = facts.get(key, default)
    if not _NAME.fullmatch(name):
        raise ParameterError(f"{path}: its {key} {name[:80]!r} is no name: say which with --{key}")
    return name


def load_robot(path: Path | str) -> RobotConfig:
    """Read a robot file. Raises ParameterError naming the file and the key."""
    path = Path(path)
    values = dict(read_yaml(path))
    if "folder" in values:
        raise ParameterError(f"{path}: unknown key 'folder'")
    robot = from_mapping(RobotConfig, {**values, "folder": str(path.resolve().parent)}, str(path))
    if not robot.kinematics_path.is_file():
        raise ParameterError(f"{path}: kinematics: no file {robot.kinematics_path}")
    return robot


def load_task(path: Path | str) -> TaskConfig:
    """Read a task file. Raises ParameterError naming the file and the key."""
    return from_mapping(TaskConfig, read_yaml(Path(path)), str(path))


def config_hash(*configs: Any) -> str:
    """First 16 hex digits of the sha256 over the canonical JSON of dataclasses or plain data; folders left out."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            value = dataclasses.asdict(value)
            value.pop("folder", None)
        return value

    text = json.dumps([plain(c) for c in configs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kinematics_hash(robot: RobotConfig) -> str:
    """Sha256 (hex) of a robot's kinematics model: its file, and the MJCF files that it names, each once.

    Meshes are left out: they move no joint. Raises OSError for a file that cannot be read.
    """
    model = robot.kinematics_path
    digest, waiting, seen = hashlib.sha256(), [model], {model}
    while waiting:
        text = read_limited(waiting.pop(0), MAX_MODEL_BYTES)
        digest.update(hashlib.sha256(text).digest())
        # Names are relative to the first file. What does not exist is of a comment: the model loads without it.
        for path in (model.parent / os.fsdecode(name) for name in _XML_NAMED.findall(text)):
            if path not in seen and path.is_file():
                seen.add(path)
                waiting.append(path)
    return digest.hexdigest()


LEARNING_KEYS = {
    "robot": ("control_hz", "tick", "joint_names", "arms", "actions", "step_limit"),
    "task": (
        "name",
        "instruction",
        "vla_state",
        "rl_state",
        "horizon",
        "chunk_length",
        "execute_steps",
        "stride",
        "prefetch_steps",
    ),
}
"""What robots that practise for one learner must have in common. Where they stand, their drivers, cameras, workspaces
and time-outs are their own."""


def learning_hash(robot: RobotConfig, task: TaskConfig) -> str:
    """First 16 hex digits of the sha256 over LEARNING_KEYS. Of joints their number counts, not their names."""
    facts = {key: getattr(robot, key) for key in LEARNING_KEYS["robot"]}
    facts["joint_names"] = len(robot.joint_names)
    facts["arms"] = [(arm.name, len(arm.joints)) for arm in robot.arms]
    facts["step_limit"] = robot.step_limit.tolist()
    if robot.actions == "tool_pose":  # what all had before there was a choice: their runs go on
        del facts["actions"]
    return config_hash(facts, {key: getattr(task, key) for key in LEARNING_KEYS["task"]})


def read_yaml(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Mapping[str, Any]:
    """The mapping in a YAML file. Raises ParameterError naming a file that is missing, too large or no YAML."""
    try:
        return parse_yaml(read_limited(path, max_bytes).decode(), str(path))
    except OSError as error:
        raise ParameterError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from error


def parse_yaml(text: str, where: str) -> Mapping[str, Any]:
    """The mapping in a YAML text. Raises ParameterError naming `where`."""
    try:
        data = yaml.safe_load(text)
    except RecursionError as error:
        raise ParameterError(f"{where}: nested too deeply") from error
    except yaml.YAMLError as error:
        raise ParameterError(f"{where}: not valid YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ParameterError(f"{where}: expected a mapping at the top")
    return data
