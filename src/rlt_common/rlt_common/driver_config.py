"""How a robot's arm drivers are spoken to and heard: `drivers` and `states` of a robot file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlt_common.parameters import ParameterError, param, validate

JOINT_DRIVERS = ("joint_positions", "joint_trajectory", "joint_state", "interbotix_group", "interbotix_single")
TOOL_DRIVERS = ("tool_pose", "tool_twist")
NAMED = ("joint_positions", "joint_trajectory", "joint_state")
GROUPED = ("interbotix_group", "interbotix_single")
MEASURED = ("velocity", "effort")
"""What a driver may not measure of a joint; a position it must."""


@dataclass(frozen=True)
class DriverConfig:
    """One command topic of an arm driver, and which joints or which arm it moves."""

    type: str = param(
        description="joint_positions: std_msgs/Float64MultiArray (ros2_control forward_command_controller, as of UR); "
        "joint_trajectory: trajectory_msgs/JointTrajectory of one point (joint_trajectory_controller); joint_state: "
        "sensor_msgs/JointState (crisp target_joint); interbotix_group, interbotix_single: "
        "interbotix_xs_msgs/JointGroupCommand, JointSingleCommand; tool_pose: geometry_msgs/PoseStamped (crisp "
        "target_pose); tool_twist: geometry_msgs/TwistStamped (MoveIt Servo)",
        choices=(*JOINT_DRIVERS, *TOOL_DRIVERS),
    )
    topic: str = param(description="command topic, relative; nothing but the executor may publish there")
    joints: tuple[str, ...] = param(
        (), "joints in the driver's order; empty: all of the robot, of a tool driver all of its arm"
    )
    names: tuple[str, ...] = param(
        (),
        "what the driver calls these joints, where it is told names; of joint_positions, whose messages have none, "
        "what check_robot compares with the controller's `joints`; empty: the same",
    )
    group: str = param("", "of the interbotix drivers: the group's or the joint's name, e.g. arm, gripper")
    scale: tuple[float, ...] = param((), "per joint: the driver takes scale * position + offset; empty: 1")
    offset: tuple[float, ...] = param((), "per joint, in the driver's unit; empty: 0")
    point_time_s: float = param(
        0.0, "s, of joint_trajectory: when its point is to be reached; 0: two control periods", minimum=0.0, maximum=1.0
    )
    arm: str = param("", "of the tool drivers: which arm")
    frame: str = param(
        "",
        "of the tool drivers: body of the kinematics model in whose frame the tool's pose or speed is said, and the "
        "frame_id; empty: the robot's frame",
    )
    ready_topic: str = param(
        "",
        "latched std_msgs/Bool in which the driver says whether it obeys (UR: robot_program_running): while it is "
        "false or was never heard, all arms hold; empty: none",
    )

    def __post_init__(self) -> None:
        validate(self)
        what = f"driver of {self.topic} ({self.type})"
        tool = self.type in TOOL_DRIVERS
        if not self.topic:
            raise ParameterError(f"{what}: topic is empty: name the driver's command topic")
        if bool(self.group) != (self.type in GROUPED):
            raise ParameterError(f"{what}: group belongs to {' and '.join(GROUPED)}, and they need it")
        if self.type == "interbotix_single" and len(self.joints) != 1:
            raise ParameterError(f"{what}: joints: names one joint, the gripper's, got {list(self.joints)}")
        if tool != bool(self.arm):
            raise ParameterError(f"{what}: arm belongs to {' and '.join(TOOL_DRIVERS)}, and they need it")
        given = [key for key in ("scale", "offset", "joints", "names") if tool and getattr(self, key)]
        given += [key for key in ("frame",) if not tool and self.frame]
        given += ["names"] if self.names and self.type not in NAMED else []
        given += ["point_time_s"] if self.point_time_s and self.type != "joint_trajectory" else []
        if given:
            raise ParameterError(f"{what}: {given[0]} means nothing to it: leave it out")
        for key in ("names", "scale", "offset"):
            values = getattr(self, key)
            if values and len(values) != len(self.joints):
                raise ParameterError(f"{what}: {key} has {len(values)} values for the {len(self.joints)} in joints")
        if not np.isfinite([*self.scale, *self.offset]).all() or 0.0 in self.scale:
            raise ParameterError(f"{what}: scale and offset must be finite, and no scale 0")


@dataclass(frozen=True)
class StateConfig:
    """One sensor_msgs/JointState topic, and what it says about which of the robot's joints."""

    topic: str = param(description="topic of sensor_msgs/JointState, relative")
    joints: tuple[str, ...] = param((), "the robot's joints that it tells of; empty: all")
    names: tuple[str, ...] = param((), "what the messages call these joints; empty: the same")
    scale: tuple[float, ...] = param((), "per joint: position = (value - offset) / scale, as in drivers; empty: 1")
    offset: tuple[float, ...] = param((), "per joint, in the driver's unit; empty: 0")
    missing: tuple[str, ...] = param(
        (),
        "what this driver does not measure, read as 0: velocity or effort of all these joints; velocity.<joint> or "
        "effort.<joint> of one, as a joint_state_broadcaster says nan where an interface does not exist",
    )

    def __post_init__(self) -> None:
        validate(self)
        for key in ("names", "scale", "offset"):
            values = getattr(self, key)
            if values and len(values) != len(self.joints):
                raise ParameterError(
                    f"states of {self.topic}: {key} has {len(values)} values for the {len(self.joints)} in joints"
                )
        if not np.isfinite([*self.scale, *self.offset]).all() or 0.0 in self.scale:
            raise ParameterError(f"states of {self.topic}: scale and offset must be finite, and no scale 0")
        for entry in self.missing:
            field, _, joint = entry.partition(".")
            if field not in MEASURED or entry.endswith(".") or (joint and self.joints and joint not in self.joints):
                raise ParameterError(
                    f"states of {self.topic}: missing: {entry!r}: choose one of {', '.join(MEASURED)}, alone or with a "
                    f"dot and one of its joints, as in {MEASURED[-1]}.gripper"
                )

    def lacks(self, field: str, joint: str) -> bool:
        """Whether the driver is said not to measure `field` (velocity, effort) of one of its joints."""
        return field in self.missing or f"{field}.{joint}" in self.missing


@dataclass(frozen=True)
class GripperUnits:
    """A gripper's joint in the kinematics model against what its driver counts in: the line through two points."""

    model: tuple[float, ...] = param((), "two positions of the model's joint, m, such as closed and open")
    command: tuple[float, ...] = param((), "what the driver is to be sent for them; empty: the same")
    state: tuple[float, ...] = param((), "what the joint states say of them; empty: the same")

    def __post_init__(self) -> None:
        validate(self)
        for key in ("model", "command", "state"):
            points = getattr(self, key)
            if points and (len(points) != 2 or points[0] == points[1]):
                raise ParameterError(f"gripper_units: {key} needs two different values, got {list(points)}")
        if bool(self.model) != bool(self.command or self.state):
            raise ParameterError("gripper_units: give model, and command or state or both")

    def line(self, points: tuple[float, ...]) -> tuple[float, float]:
        """(scale, offset): `points` = scale * model + offset."""
        if not points:
            return 1.0, 0.0
        scale = (points[1] - points[0]) / (self.model[1] - self.model[0])
        return scale, points[0] - scale * self.model[0]


def check_cover(robot: str, what: str, joints: Sequence[str], told: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raise ParameterError unless every joint of the robot is in exactly one of `told` (topic, joints)."""
    for topic, names in told:
        if unknown := [name for name in names if name not in joints]:
            raise ParameterError(f"robot {robot}: {what}: {topic}: joint {unknown[0]!r} is not in joint_names")
    for joint in joints:
        owners = [topic for topic, names in told for name in names if name == joint]
        if len(owners) != 1:
            says = "is in none of them" if not owners else f"is in {' and in '.join(owners)}"
            raise ParameterError(f"robot {robot}: {what}: joint {joint!r} {says}: it must be in exactly one")
