"""A robot file as a frozen, validated dataclass: arms, cameras, limits and how time runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlt_common.arm_config import ArmConfig, LimitsConfig
from rlt_common.camera_config import CameraConfig
from rlt_common.driver_config import DriverConfig, StateConfig, check_cover
from rlt_common.driver_launch import DriverLaunch
from rlt_common.parameters import ParameterError, param, validate

BLOCKS = ("joint_position", "joint_velocity", "joint_effort", "ee_pose")
"""Blocks of proprioception that a robot offers."""
ARM_ACTION_DIM = 7
TOOL_AXES = ("x", "y", "z", "rx", "ry", "rz")


@dataclass(frozen=True)
class RobotConfig:
    """A robot: its arms in one common frame, their drivers, cameras, limits and how time runs."""

    name: str = param(description="robot name")
    joint_names: tuple[str, ...] = param(description="all joints, in the order of the command topic")
    arms: tuple[ArmConfig, ...] = param(description="in the order of the action vector")
    cameras: tuple[CameraConfig, ...] = param(description="in the order of an observation's images")
    kinematics: str = param(description="MJCF or URDF file of the arms, relative to the robot file")
    drivers: tuple[DriverConfig, ...] = param(description="how the arms are commanded: every joint by one of them")
    control_hz: float = param(50.0, "Hz", minimum=1.0, maximum=1000.0)
    frame: str = param("world", "common frame of both arms")
    tick: str = param("timer", "what starts a control step", choices=("timer", "joint_states"))
    actions: str = param(
        "tool_pose",
        "what a policy's action changes: each tool's pose (m and rad, 6 per arm) or each arm's joints (rad), and then "
        "its gripper (m). A human's hand always moves tools",
        choices=("tool_pose", "joints"),
    )
    relative_to: str = param(
        "commanded",
        "what a policy's action is added to: the pose or the joints that were commanded last, or the measured ones. Of "
        "a gripper it is always the commanded one",
        choices=("commanded", "measured"),
    )
    states: tuple[StateConfig, ...] = param(
        (StateConfig("joint_states"),),
        "where the joints' states come from: every joint from one of them. A topic that several drivers share is in "
        "several of them",
    )
    reset: str = param("operator", "who resets the scene", choices=("operator", "service"))
    camera_tolerance_s: float = param(
        0.02, "s, images this close to the robot state make one observation", minimum=0.0, maximum=1.0
    )
    camera_timeout_frames: int = param(
        2,
        "frames of a camera that may be missing before it counts as stalled, or repeat its image before it counts as "
        "frozen; either holds the arms and ends the observations",
        minimum=1,
        maximum=1000,
    )
    state_timeout_s: float = param(0.1, "s without joint states before the arms hold", minimum=0.01, maximum=10.0)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    joint_limits: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Joint -> [lowest, highest], rad or m: narrows the range of the kinematics model."""
    joint_velocity_limits: Mapping[str, float] = field(default_factory=dict)
    """Arm joint -> rad/s, in place of limits.joint_velocity."""
    launch: tuple[DriverLaunch, ...] = param((), "launch files of the drivers of arms and cameras")
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
        self._check_drivers()
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

    def _check_drivers(self) -> None:
        arms = {arm.name: arm for arm in self.arms}
        if unknown := [driver.arm for driver in self.drivers if driver.arm and driver.arm not in arms]:
            raise ParameterError(f"robot {self.name}: drivers: unknown arm {unknown[0]!r}; known: {', '.join(arms)}")
        commanded = [driver.topic for driver in self.drivers]
        if not commanded or len(set(commanded)) != len(commanded):
            raise ParameterError(f"robot {self.name}: drivers: needs at least one, each topic once, got {commanded}")
        if not self.states:
            raise ParameterError(f"robot {self.name}: states: needs at least one")
        for state in self.states:
            joints = state.joints or self.joint_names
            if unknown := [m for m in state.missing if "." in m and m.partition(".")[2] not in joints]:
                raise ParameterError(
                    f"robot {self.name}: states of {state.topic}: missing: {unknown[0]!r}: no such joint; it has: "
                    f"{', '.join(joints)}"
                )
        moved = [(driver.topic, self.joints_of(driver)) for driver in self.drivers]
        check_cover(self.name, "drivers", self.joint_names, moved)
        told = [(state.topic, state.joints or self.joint_names) for state in self.states]
        check_cover(self.name, "states", self.joint_names, told)
        for entry in (*self.drivers, *self.states):
            self.units_of(entry)

    def joints_of(self, driver: DriverConfig) -> tuple[str, ...]:
        """The joints that a driver moves, in its order."""
        for arm in self.arms:
            if arm.name == driver.arm:
                return arm.joints
        return driver.joints or self.joint_names

    def units_of(self, entry: DriverConfig | StateConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(scale, offset) of the joints of a driver or of a topic of states, `gripper_units` of its arms among them.

        Raises ParameterError for a gripper whose units are given in both places.
        """
        joints = self.joints_of(entry) if isinstance(entry, DriverConfig) else entry.joints or self.joint_names
        scale = list(entry.scale or (1.0,) * len(joints))
        offset = list(entry.offset or (0.0,) * len(joints))
        for arm in self.arms:
            units = arm.gripper_units
            line = units.line(units.command if isinstance(entry, DriverConfig) else units.state)
            if arm.gripper not in joints or line == (1.0, 0.0):
                continue
            at = joints.index(arm.gripper)
            if (scale[at], offset[at]) != (1.0, 0.0):
                raise ParameterError(
                    f"robot {self.name}: {entry.topic}: {arm.gripper} has units in gripper_units of arm {arm.name} and "
                    "in scale and offset here: give them in one place"
                )
            scale[at], offset[at] = line
        return tuple(scale), tuple(offset)

    @property
    def state_topics(self) -> tuple[str, ...]:
        """Topics of joint states, each once."""
        return tuple(dict.fromkeys(state.topic for state in self.states))

    @property
    def state_inputs(self) -> tuple[str, ...]:
        """The entries of `states` as inputs of the watchdogs: by topic, and where several share one by a joint too."""
        shared = [state.topic for state in self.states]
        return tuple(
            state.topic if shared.count(state.topic) == 1 else f"{state.topic}:{(state.joints or self.joint_names)[0]}"
            for state in self.states
        )

    @property
    def sensor_topics(self) -> tuple[str, ...]:
        """What arms and drivers report beside joint states: wrenches, measured poses, whether they obey."""
        arms = [topic for arm in self.arms for topic in (arm.wrench_topic, arm.pose_topic) if topic]
        return tuple(dict.fromkeys([*arms, *(driver.ready_topic for driver in self.drivers if driver.ready_topic)]))

    @property
    def command_topics(self) -> tuple[str, ...]:
        """Topics on which the executor, and nothing else, commands the arms."""
        return tuple(driver.topic for driver in self.drivers)

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
        """d: per arm 7 (translation m, rotation vector rad, gripper m), or its joints (rad) and gripper (m)."""
        return self.step_limit.size

    @property
    def action_names(self) -> tuple[str, ...]:
        """(d,) names of an action's values: `left.x` ... `left.rz` or the arm's joints, and the gripper's joint."""
        found: list[str] = []
        for arm in self.arms:
            moves = arm.joints if self.actions == "joints" else [f"{arm.name}.{axis}" for axis in TOOL_AXES]
            found += [*moves, arm.gripper]
        return tuple(found)

    @property
    def period_s(self) -> float:
        """Control period, s."""
        return 1.0 / self.control_hz

    @property
    def step_limit(self) -> np.ndarray:
        """(d,) largest change by an action per control step: m, rad, m; of joints rad, m."""
        if self.actions == "tool_pose":
            return self.hand_step_limit
        limits = self.limits
        return np.concatenate([[limits.step_joint] * len(arm.joints) + [limits.step_gripper] for arm in self.arms])

    @property
    def hand_step_limit(self) -> np.ndarray:
        """(7 per arm,) largest change of the commanded tool poses per control step by a human's hand: m, rad, m."""
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
