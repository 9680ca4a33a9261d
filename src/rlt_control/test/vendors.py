"""What the makers' drivers say and take, from their own sources: not from our robot files, which are to fit it.

Versions that were read: Interbotix/aloha 2.0 (046dde7), interbotix_ros_core jazzy (bf127b4);
Universal_Robots_ROS2_Driver 3.8.0 (a16a268), ros2_robotiq_gripper (3b6cf8f); crisp_controllers (8093548),
crisp_controllers_demos 1.1.0 (db5a36b).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Line = Callable[[float], float]


def same(value: float) -> float:
    """The driver counts in our unit."""
    return value


def line(ours: tuple[float, float], theirs: tuple[float, float]) -> Line:
    """Our unit to theirs, through two points, and no further."""
    return lambda value: float(np.interp(value, *zip(*sorted(zip(ours, theirs, strict=True)), strict=True)))


@dataclass(frozen=True)
class Topic:
    """A JointState topic: the maker's joint -> (our joint, our unit to theirs).

    velocity, effort: "all", "none" (empty) or "nan" (the broadcaster has no such interface).
    """

    joints: Mapping[str, tuple[str, Line]]
    others: Mapping[str, float] = field(default_factory=dict)
    velocity: str = "all"
    effort: str = "all"


@dataclass(frozen=True)
class Values:
    """A command topic of values without names: (our joint, their unit to ours) in the maker's order."""

    joints: tuple[tuple[str, Line], ...]


@dataclass(frozen=True)
class Pose:
    """A command topic of tool poses, taken in this body's frame."""

    arm: str
    frame: str


@dataclass(frozen=True)
class Vendor:
    """All drivers of one cell."""

    states: Mapping[str, Topic]
    commands: Mapping[str, Values | Pose]
    poses: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Topic -> (arm, frame_id)."""
    wrenches: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()


SIDES = ("left", "right")

# Interbotix: xs_sdk, robot_update_joint_states: motors, then both fingers with speed and effort 0. ALOHA: constants.py.
XS_ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
XS_FINGER, XS_MOTOR = (0.0440, 0.0579), (0.6197, 1.6214)
ALOHA = Vendor(
    states={
        f"follower_{side}/joint_states": Topic(
            joints={
                **{j: (f"{side}_{j}", same) for j in XS_ARM},
                "gripper": (f"{side}_gripper", line(XS_FINGER, XS_MOTOR)),
            },
            others={"left_finger": 0.05, "right_finger": -0.05},
        )
        for side in SIDES
    },
    commands={
        **{f"follower_{s}/commands/joint_group": Values(tuple((f"{s}_{j}", same) for j in XS_ARM)) for s in SIDES},
        **{
            f"follower_{s}/commands/joint_single": Values(((f"{s}_gripper", line(XS_MOTOR, XS_FINGER)),)) for s in SIDES
        },
    },
)

# Universal Robots: ur_controllers.yaml, GPIOController, broadcasters; Robotiq: 2f_85.ros2_control.xacro.
UR_ARM = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint")
OPENING, KNUCKLE = (0.0, 0.085), (0.7929, 0.0)
DUAL_UR5E = Vendor(
    states={
        "joint_states": Topic(joints={f"{s}_{j}": (f"{s}_{j}", same) for s in SIDES for j in UR_ARM}),
        **{
            f"{s}_gripper/joint_states": Topic(
                joints={"robotiq_85_left_knuckle_joint": (f"{s}_gripper", line(OPENING, KNUCKLE))}, effort="nan"
            )
            for s in SIDES
        },
    },
    commands={
        **{
            f"{s}_forward_position_controller/commands": Values(tuple((f"{s}_{j}", same) for j in UR_ARM))
            for s in SIDES
        },
        **{
            f"{s}_gripper/gripper_position_controller/commands": Values(((f"{s}_gripper", line(KNUCKLE, OPENING)),))
            for s in SIDES
        },
    },
    wrenches=tuple(f"{s}_force_torque_sensor_broadcaster/wrench" for s in SIDES),
    ready=tuple(f"{s}_io_and_status_controller/robot_program_running" for s in SIDES),
)


def hand(command: float) -> float:
    """crisp_py_franka_hand_adapter.callback_command: all the way open, or closed. One finger, m."""
    return 0.04 if command > 0.5 else 0.0


# crisp: left_controllers.yaml (base_frame left_base), pose_broadcaster.cpp, crisp_py_franka_hand_adapter.py.
DUAL_FRANKA = Vendor(
    states={
        **{
            f"{s}/franka/joint_states": Topic(
                joints={f"{s}_fr3_joint{i}": (f"{s}_fr3_joint{i}", same) for i in range(1, 8)}
            )
            for s in SIDES
        },
        **{
            f"{s}/gripper/joint_states": Topic(
                joints={"gripper_joint": (f"{s}_fr3_finger_joint1", line((0.0, 0.04), (0.0, 1.0)))}, velocity="none"
            )
            for s in SIDES
        },
    },
    commands={
        **{f"{s}/target_pose": Pose(s, f"{s}_base") for s in SIDES},
        **{
            f"{s}/gripper/gripper_position_controller/commands": Values(((f"{s}_fr3_finger_joint1", hand),))
            for s in SIDES
        },
    },
    poses={f"{s}/current_pose": (s, f"{s}_base") for s in SIDES},
)

VENDORS = {"aloha": ALOHA, "dual_ur5e": DUAL_UR5E, "dual_franka": DUAL_FRANKA}
