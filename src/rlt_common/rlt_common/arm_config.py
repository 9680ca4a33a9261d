"""Arms and motion limits of a robot file."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlt_common.driver_config import GripperUnits
from rlt_common.parameters import ParameterError, param, validate


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

    pose_topic: str = param(
        "", "geometry_msgs/PoseStamped of the arm's measured tool, relative; it must agree with the model; empty: none"
    )
    pose_frame: str = param(
        "",
        "body of the kinematics model in whose frame that pose is said, and its frame_id; empty: the robot's frame",
    )
    pose_of: str = param("", "site or body of the kinematics model whose pose it is; empty: the tip")
    pose_tolerance: float = param(
        0.02,
        "m: further from the model's pose the arms hold. More than the tool moves between a pose and joint states",
        minimum=1e-4,
        maximum=1.0,
    )
    pose_tolerance_rotation: float = param(0.1, "rad, likewise", minimum=1e-3, maximum=3.0)
    gripper_units: GripperUnits = field(default_factory=GripperUnits)
    """What the gripper's driver counts in, where that is not the model's m."""

    def __post_init__(self) -> None:
        validate(self)
        for name in ("home_position", "home_rotation", "workspace_min", "workspace_max", "tool_min", "tool_max"):
            if len(getattr(self, name)) != 3:
                raise ParameterError(f"arm {self.name}: {name} needs 3 values")
        if any(low >= high for low, high in zip(self.workspace_min, self.workspace_max, strict=True)):
            raise ParameterError(f"arm {self.name}: workspace_min must be below workspace_max in every axis")
        if any(not low <= 0.0 <= high for low, high in zip(self.tool_min, self.tool_max, strict=True)):
            raise ParameterError(f"arm {self.name}: the tip (0, 0, 0) must lie between tool_min and tool_max")
        if not self.pose_topic and (self.pose_frame or self.pose_of):
            raise ParameterError(f"arm {self.name}: pose_frame and pose_of mean nothing without pose_topic")
        if bool(self.wrench_topic) != (self.max_force > 0.0 and self.max_torque > 0.0):
            raise ParameterError(
                f"arm {self.name}: wrench_topic, max_force (N) and max_torque (N m) belong together: give all three, "
                "both limits above 0, or none"
            )


@dataclass(frozen=True)
class LimitsConfig:
    """Motion limits. The executor enforces them; nothing else may command the arms."""

    step_translation: float = param(0.005, "m per control step and axis", minimum=1e-6, maximum=0.05)
    step_rotation: float = param(0.05, "rad per control step and axis", minimum=1e-6, maximum=0.5)
    step_gripper: float = param(0.005, "m per control step", minimum=1e-6, maximum=0.05)
    step_joint: float = param(
        0.05,
        "rad per control step, of an arm joint that an action changes (actions: joints)",
        minimum=1e-6,
        maximum=0.5,
    )
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
