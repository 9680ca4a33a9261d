"""A VLA file: where a VLA comes from, what it sees and takes, and how its actions are to be read.

A VLA was trained on somebody's vectors: joints in an order, poses in a frame, grippers from 0 to 1. `state` and
`actions` name what stands in them, part by part, so that nothing has to be guessed (`rlt_vla_node.vector_layout`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlt_common.config import read_yaml
from rlt_common.parameters import ParameterError, from_mapping, param, validate
from rlt_common.robot_config import RobotConfig

ABSOLUTE, FROM_OBSERVATION, PER_STEP = "absolute", "from_observation", "per_step"
NO_CAMERA = "none"


@dataclass(frozen=True)
class GripperScale:
    """The policy's number for a gripper is `scale` times the robot's m, plus `offset`."""

    scale: float = param(1.0, "policy units per m", minimum=-1e6, maximum=1e6)
    offset: float = param(0.0, "policy units at 0 m", minimum=-1e6, maximum=1e6)

    def __post_init__(self) -> None:
        validate(self)
        if self.scale == 0.0:
            raise ParameterError("gripper: scale 0 leaves nothing of the gripper: give policy units per m")


@dataclass(frozen=True)
class VlaConfig:
    """A VLA behind this suite."""

    backend: str = param(
        description="lerobot (pi0, pi0.5, SmolVLA, ACT in this process), openpi or gr00t (a policy server), or one of "
        "your own that is installed (docs/backends.md)"
    )
    source: str = param(description="folder of the policy, relative to this file, or address of the server, host:port")
    control_hz: float = param(description="rows of the policy's chunk per second", minimum=0.1, maximum=1000.0)
    state: tuple[str, ...] = param(description="what the policy's state vector holds, in order: parts of the robot")
    actions: tuple[str, ...] = param(description="what a row of the policy's chunk holds, in order: parts of the robot")
    action_kind: str = param(
        description="what the numbers of a row are: absolute; from_observation: differences to what was measured in "
        "the observation; per_step: differences to the row before",
        choices=(ABSOLUTE, FROM_OBSERVATION, PER_STEP),
    )
    cameras: Mapping[str, str] = field(default_factory=dict)
    """The policy's name of a camera -> the robot's, or `none` where the robot has no such camera."""
    always_absolute: tuple[str, ...] = param((), "parts of `actions` that are absolute whatever action_kind says")
    relative_rotation: str = param(
        "world",
        "of tool poses that are no absolute ones: differences along the axes of the world (or of the arm's frame), or "
        "of the tool",
        choices=("world", "tool"),
    )
    frames: Mapping[str, str] = field(default_factory=dict)
    """Arm -> body of the kinematics model in whose frame the policy's poses of it are; the robot's frame otherwise."""
    gripper: GripperScale = field(default_factory=GripperScale)
    """What the policy counts grippers in."""
    instruction: str = param("", "language instruction in the policy's words; empty: the task's")
    tokens: str = param(
        "image",
        "which embeddings the RL token reads: those of the images, or all but language's (the paper drops language, "
        "Sec. IV-A, footnote 1)",
        choices=("image", "all"),
    )
    options: Mapping[str, object] = field(default_factory=dict)
    """The backend's own keys (device, dtype, compile, timeout_s, ...); an unknown one is an error."""
    folder: str = param("", "folder of the VLA file; filled in when it is read")

    def __post_init__(self) -> None:
        validate(self)
        for key in ("cameras", "frames", "options"):
            given = getattr(self, key)
            if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
                raise ParameterError(f"{key}: expected a mapping from names, got {given!r}")
        for key in ("cameras", "frames"):
            if not all(isinstance(value, str) for value in getattr(self, key).values()):
                raise ParameterError(f"{key}: expected names, got {getattr(self, key)!r}")
        if not self.state or not self.actions:
            raise ParameterError("state and actions need at least one part each")
        if stray := [part for part in self.always_absolute if part not in self.actions]:
            raise ParameterError(f"always_absolute: {stray[0]!r} is no part of actions")

    @property
    def seen_cameras(self) -> tuple[str, ...]:
        """The robot's cameras that the policy sees, in the policy's order."""
        return tuple(camera for camera in self.cameras.values() if camera != NO_CAMERA)

    def check_robot(self, robot: RobotConfig) -> None:
        """Raise ParameterError for a camera or an arm that the robot does not have."""
        known = {camera.name for camera in robot.cameras}
        for name, camera in self.cameras.items():
            if camera != NO_CAMERA and camera not in known:
                raise ParameterError(
                    f"cameras: {name}: robot {robot.name} has no camera {camera!r}; it has {', '.join(sorted(known))}; "
                    f"or say {NO_CAMERA}"
                )
        arms = {arm.name for arm in robot.arms}
        if stray := sorted(set(self.frames) - arms):
            raise ParameterError(
                f"frames: robot {robot.name} has no arm {stray[0]!r}; it has {', '.join(sorted(arms))}"
            )


def load_vla(path: Path | str) -> VlaConfig:
    """Read a VLA file. Raises ParameterError naming the file and the key."""
    path = Path(path)
    values = dict(read_yaml(path))
    if "folder" in values:
        raise ParameterError(f"{path}: unknown key 'folder'")
    try:
        return from_mapping(VlaConfig, {**values, "folder": str(path.resolve().parent)}, str(path))
    except ParameterError as error:
        raise ParameterError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
