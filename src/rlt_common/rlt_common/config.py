"""Robot and task files (YAML) as frozen, validated dataclasses. An unknown or missing key is an error.

Errors name the file and the key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlt_common.parameters import ParameterError, from_mapping, param, validate
from rlt_common.reading import read_limited

BLOCKS = ("joint_position", "joint_velocity", "joint_effort", "ee_pose")
ARM_ACTION_DIM = 7
MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ArmConfig:
    """One arm: its joints, gripper and tool, and the home pose that `ee_pose` is relative to."""

    name: str = param(description="arm name, e.g. left")
    joints: tuple[str, ...] = param(description="joint names from base to tool")
    gripper: str = param(description="gripper joint name, m")
    tip: str = param(description="site or body of the tool tip in the kinematics model")
    home_position: tuple[float, ...] = param(description="m, world frame: origin of ee_pose")
    home_rotation: tuple[float, ...] = param(description="rad, rotation vector, world frame: origin of ee_pose")
    workspace_min: tuple[float, ...] = param(description="m, world frame: the tool tip stays above this corner")
    workspace_max: tuple[float, ...] = param(description="m, world frame: the tool tip stays below this corner")
    tool_min: tuple[float, ...] = param(
        (0.0, 0.0, 0.0), "m, tool frame: lowest corner of what the tool holds; its whole box stays in the workspace"
    )
    tool_max: tuple[float, ...] = param((0.0, 0.0, 0.0), "m, tool frame: highest corner, likewise")
    wrench_topic: str = param("", "geometry_msgs/WrenchStamped of the arm's force sensor, relative; empty: none")
    max_force: float = param(0.0, "N: above it the arms hold; needs wrench_topic", minimum=0.0, maximum=1000.0)
    max_torque: float = param(0.0, "N m: above it the arms hold; needs wrench_topic", minimum=0.0, maximum=1000.0)

    def __post_init__(self) -> None:
        validate(self)
        for name in ("home_position", "home_rotation", "workspace_min", "workspace_max", "tool_min", "tool_max"):
            if len(getattr(self, name)) != 3:
                raise ParameterError(f"arm {self.name}: {name} needs 3 values")
        if any(low >= high for low, high in zip(self.workspace_min, self.workspace_max, strict=True)):
            raise ParameterError(f"arm {self.name}: workspace_min must be below workspace_max in every axis")
        if any(not low <= 0.0 <= high for low, high in zip(self.tool_min, self.tool_max, strict=True)):
            raise ParameterError(f"arm {self.name}: the tip (0, 0, 0) must lie between tool_min and tool_max")
        if bool(self.wrench_topic) != (self.max_force > 0.0 and self.max_torque > 0.0):
            raise ParameterError(
                f"arm {self.name}: wrench_topic, max_force (N) and max_torque (N m) belong together: give all three, "
                "both limits above 0, or none"
            )


@dataclass(frozen=True)
class CameraConfig:
    """One camera: where its images come from and what the VLA takes."""

    name: str = param(description="camera name, e.g. base")
    topic: str = param(description="image topic, relative")
    width: int = param(description="pixels, width the VLA takes", minimum=8, maximum=4096)
    height: int = param(description="pixels, height the VLA takes", minimum=8, maximum=4096)
    compressed: bool = param(False, "the topic carries sensor_msgs/CompressedImage")
    rate_hz: float = param(25.0, "Hz, at which the camera publishes", minimum=0.1, maximum=1000.0)
    encoding: str = param("jpeg", "encoding inside an observation", choices=("png", "jpeg"))

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class LimitsConfig:
    """Motion limits. The executor enforces them; nothing else may command the arms."""

    step_translation: float = param(0.005, "m per control step and axis", minimum=1e-6, maximum=0.05)
    step_rotation: float = param(0.05, "rad per control step and axis", minimum=1e-6, maximum=0.5)
    step_gripper: float = param(0.005, "m per control step", minimum=1e-6, maximum=0.05)
    leash_translation: float = param(
        0.02,
        "m the commanded tool may be away from the measured one: bounds contact force",
        minimum=1e-4,
        maximum=0.2,
    )
    leash_rotation: float = param(0.25, "rad, likewise", minimum=1e-3, maximum=1.5)
    joint_velocity: float = param(
        10.0,
        "rad/s, of every arm joint that joint_velocity_limits does not name; times the control period it bounds the "
        "step of a joint's target",
        minimum=1e-3,
        maximum=50.0,
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class RobotConfig:
    """A robot: two arms in one common frame, cameras, the command topic and how time runs."""

    name: str = param(description="robot name")
    joint_names: tuple[str, ...] = param(description="all joints, in the order of the command topic")
    arms: tuple[ArmConfig, ...] = param(description="in the order of the action vector")
    cameras: tuple[CameraConfig, ...] = param(description="in the order of an observation's images")
    kinematics: str = param(description="MJCF or URDF file of the arms, relative to the robot file")
    command_topic: str = param(description="std_msgs/Float64MultiArray of absolute joint targets, relative")
    control_hz: float = param(50.0, "Hz", minimum=1.0, maximum=1000.0)
    frame: str = param("world", "common frame of both arms")
    tick: str = param("timer", "what starts a control step", choices=("timer", "joint_states"))
    reset: str = param("operator", "who resets the scene", choices=("operator", "service"))
    camera_tolerance_s: float = param(
        0.02, "s, images this close to the robot state make one observation", minimum=0.0, maximum=1.0
    )
    camera_timeout_frames: int = param(
        2,
        "frames of a camera that may be missing before it counts as stalled, or repeat its image before it counts as "
        "frozen; either ends the observations, and so the motion",
        minimum=1,
        maximum=1000,
    )
    state_timeout_s: float = param(0.1, "s without joint states before the arms hold", minimum=0.01, maximum=10.0)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    joint_limits: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Joint -> [lowest, highest], rad or m: narrows the range of the kinematics model."""
    joint_velocity_limits: Mapping[str, float] = field(default_factory=dict)
    """Arm joint -> rad/s, in place of limits.joint_velocity."""
    folder: str = param("", "folder of the robot file; filled in when it is read")

    def __post_init__(self) -> None:
        validate(self)
        known = set(self.joint_names)
        if len(known) != len(self.joint_names):
            raise ParameterError(f"robot {self.name}: joint_names has a name twice")
        for arm in self.arms:
            for joint in (*arm.joints, arm.gripper):
                if joint not in known:
                    raise ParameterError(f"robot {self.name}: arm {arm.name} names joint {joint!r}, not in joint_names")
        for kind, names in (("arm", [a.name for a in self.arms]), ("camera", [c.name for c in self.cameras])):
            if not names or len(set(names)) != len(names):
                raise ParameterError(f"robot {self.name}: needs at least one {kind}, each name once, got {names}")
        self._check_joints("joint_limits", self.joint_limits, known)
        self._check_joints(
            "joint_velocity_limits", self.joint_velocity_limits, {j for a in self.arms for j in a.joints}
        )
        ranges = {joint: _numbers(self, "joint_limits", joint, value, 2) for joint, value in self.joint_limits.items()}
        speeds = {
            joint: _numbers(self, "joint_velocity_limits", joint, [value], 1)[0]
            for joint, value in self.joint_velocity_limits.items()
        }
        for joint, (low, high) in ranges.items():
            if not low < high:
                raise ParameterError(f"robot {self.name}: joint_limits: {joint}: {low} is not below {high}")
        for joint, speed in speeds.items():
            if not speed > 0.0:
                raise ParameterError(
                    f"robot {self.name}: joint_velocity_limits: {joint}: {speed} must be above 0 rad/s"
                )
        object.__setattr__(self, "joint_limits", ranges)
        object.__setattr__(self, "joint_velocity_limits", speeds)

    def _check_joints(self, key: str, given: Any, known: set[str]) -> None:
        if not isinstance(given, Mapping):
            raise ParameterError(f"robot {self.name}: {key}: expected a mapping from joint names, got {given!r}")
        unknown = sorted(set(map(str, given)) - known)
        if unknown:
            raise ParameterError(
                f"robot {self.name}: {key}: unknown joint {unknown[0]!r}; known: {', '.join(sorted(known))}"
            )

    @property
    def action_dim(self) -> int:
        """d: 7 per arm (translation m, rotation vector rad, gripper m)."""
        return ARM_ACTION_DIM * len(self.arms)

    @property
    def period_s(self) -> float:
        """Control period, s."""
        return 1.0 / self.control_hz

    @property
    def step_limit(self) -> np.ndarray:
        """(d,) largest change of the commanded pose per control step: m, rad, m."""
        one = [self.limits.step_translation] * 3 + [self.limits.step_rotation] * 3 + [self.limits.step_gripper]
        return np.array(one * len(self.arms))

    @property
    def block_sizes(self) -> dict[str, int]:
        """Size of each proprioception block that this robot offers."""
        joints = len(self.joint_names)
        return {
            "joint_position": joints,
            "joint_velocity": joints,
            "joint_effort": joints,
            "ee_pose": 6 * len(self.arms),
        }

    @property
    def kinematics_path(self) -> Path:
        """Path of the kinematics model."""
        return Path(self.folder) / self.kinematics


def _numbers(robot: RobotConfig, key: str, joint: str, value: Any, count: int) -> tuple[float, ...]:
    """`count` finite numbers of a limit. Raises ParameterError naming robot, key and joint."""
    numbers = value if isinstance(value, list | tuple) else ()
    good = [n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool) and np.isfinite(n)]
    if len(good) != count or len(numbers) != count:
        raise ParameterError(f"robot {robot.name}: {key}: {joint}: expected {count} finite numbers, got {value!r}")
    return tuple(map(float, good))


@dataclass(frozen=True)
class CurriculumStage:
    """One stage of the curriculum of training episodes (Sec. V)."""

    start_in: str = param(description="where its episodes start", choices=("full", "critical"))
    episodes: int = param(0, "training episodes of this stage; 0, in the last stage only: all that follow", minimum=0)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class TaskConfig:
    """A task: chunk sizes, time-outs, which proprioception goes where, and parameters of single nodes."""

    name: str = param(description="task name")
    instruction: str = param(description="language instruction for VLAs that take one")
    vla_state: tuple[str, ...] = param(description="proprioception blocks the VLA takes")
    rl_state: tuple[str, ...] = param(description="proprioception blocks of the RL state x = (z_rl, s^p), Sec. IV-B")
    max_base_steps: int = param(description="control steps, time-out of the BASE phase", minimum=1, maximum=1_000_000)
    max_critical_steps: int = param(
        description="control steps, time-out of the CRITICAL phase", minimum=1, maximum=1_000_000
    )
    horizon: int = param(50, "H, rows of a reference chunk (1 s at 50 Hz)", minimum=1, maximum=1000)
    chunk_length: int = param(10, "C, rows of an RL chunk (App. B)", minimum=1, maximum=1000)
    stride: int = param(2, "control steps between observations (App. B)", minimum=1, maximum=100)
    execute_steps: int = param(10, "rows executed before replanning while the VLA drives", minimum=1, maximum=1000)
    prefetch_steps: int = param(
        0, "d, control steps between an observation and row 0 of its chunk", minimum=0, maximum=1000
    )
    start_in: str = param("full", "where episodes start that do not say it themselves", choices=("full", "critical"))
    curriculum: tuple[CurriculumStage, ...] = param(
        (), "stages of the training episodes, in order, in place of start_in; empty: no curriculum"
    )
    handoff_outputs: int = param(
        1,
        "boundary outputs in a row that must call for the hand-off before it is automatic",
        minimum=1,
        maximum=100,
    )
    nodes: Mapping[str, Any] = field(default_factory=dict)
    simulation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        validate(self)
        for name in (*self.vla_state, *self.rl_state):
            if name not in BLOCKS:
                raise ParameterError(
                    f"task {self.name}: unknown proprioception block {name!r}; known: {', '.join(BLOCKS)}"
                )
        for name in ("chunk_length", "execute_steps", "prefetch_steps"):
            if getattr(self, name) % self.stride:
                raise ParameterError(f"task {self.name}: {name} must be a multiple of stride {self.stride}")
        for name in ("chunk_length", "execute_steps"):
            if getattr(self, name) + self.prefetch_steps > self.horizon:
                raise ParameterError(
                    f"task {self.name}: {name} + prefetch_steps must fit into the horizon {self.horizon}"
                )
        *stages, last = self.curriculum or (None,)
        if any(stage.episodes == 0 for stage in stages) or (last is not None and last.episodes != 0):
            raise ParameterError(
                f"task {self.name}: curriculum: every stage but the last needs a number of episodes, and the last has "
                "none: it goes on to the end"
            )

    def training_start(self, episodes_done: int) -> str:
        """Where the next training episode starts, after `episodes_done` of the run: the curriculum stage."""
        for stage in self.curriculum:
            if episodes_done < stage.episodes or stage.episodes == 0:
                return stage.start_in
            episodes_done -= stage.episodes
        return self.start_in


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


def read_yaml(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Mapping[str, Any]:
    """The mapping in a YAML file. Raises ParameterError naming a file that is missing, too large or no YAML."""
    try:
        data = yaml.safe_load(read_limited(path, max_bytes).decode())
    except OSError as error:
        raise ParameterError(f"{path}: {error.strerror}") from error
    except RecursionError as error:
        raise ParameterError(f"{path}: nested too deeply") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ParameterError(f"{path}: expected a mapping at the top")
    return data
