"""The robot of the simulated cell: two arms of primitive shapes, their joints, homes, kinematics and motion limits.

Lengths in m, angles in rad, world frame: x from the left arm to the right arm, z up. The right tool points along -x at
home and the left one along -y, so that both tips meet near (0, 0, 0.12); turning a tool about its own axis is the
wrist_rotate joint. All tasks use these same arms, which config/robots/sim.yaml describes to everyone else; what the
hands hold and what stands between them is the scene's, see task_scene.py.
"""

from __future__ import annotations

import mujoco
import numpy as np

from rlt_common.kinematics import ArmChain, ArmKinematics
from rlt_control.delta_pose import DeltaPoseIntegrator, MotionLimits
from rlt_sim import mjcf

ARMS = ("left", "right")
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
JOINT_NAMES = tuple(f"{arm}_{joint}" for arm in ARMS for joint in (*ARM_JOINTS, "gripper"))
"""The 14 joints in the robot's order: per arm six revolute joints (rad) and the gripper (m)."""
GRIPPER_JOINTS = tuple(f"{arm}_gripper" for arm in ARMS)
CAMERAS = ("base", "left_wrist", "right_wrist")
CHAINS = tuple(ArmChain(tuple(f"{arm}_{joint}" for joint in ARM_JOINTS), f"{arm}_tip") for arm in ARMS)
HOME_JOINTS = (0.0, -0.35, 0.85, 0.0, -0.5, 0.0)
"""Arm joints from which the home poses are solved (rad), the same for both arms."""

RIGHT_FACING = np.diag([-1.0, -1.0, 1.0])
"""Orientation of the right tool at home: its x axis, the tool's axis, points along -x of the world."""
HOME_POSITIONS = {"left": (-0.015, 0.050, 0.125), "right": (0.045, 0.0, 0.12)}
"""Tip positions at home, m, world frame. Proprioception gives tool poses relative to these."""
LEFT_FACING = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""Orientation of the left tool at home: it points along -y of the world, at the side of the work piece."""
HOME_ROTATIONS = {"left": LEFT_FACING, "right": RIGHT_FACING}

HAND_TO_GRIP = 0.10
"""From the hand's frame to the place between the fingers where a tool is held, m, along the hand's x."""
TOOL_LENGTH = 0.044
"""From the grip to the nominal tip of what the right hand holds, m."""
TIP_REACH = {"left": 0.11, "right": HAND_TO_GRIP + TOOL_LENGTH}
"""From the hand's frame to the nominal tool tip (sites `left_tip`, `right_tip`), m, along the hand's x."""


def arms_xml() -> str:
    """MJCF of the two arms alone, joints named JOINT_NAMES; sites `left_tip`, `right_tip` are the nominal tips."""
    return mjcf.document(arm_xml("left") + arm_xml("right"), "")


def make_kinematics() -> ArmKinematics:
    """Kinematics of the cell's arms, for the integrator and for tool poses."""
    return ArmKinematics(mujoco.MjModel.from_xml_string(arms_xml()), JOINT_NAMES, CHAINS)


def make_limits() -> MotionLimits:
    """Motion limits of the cell's arms: boxes around the work space, joint limits of the model."""
    kinematics = make_kinematics()
    return MotionLimits(
        workspace=(((-0.10, 0.0, 0.05), (0.10, 0.20, 0.25)), ((-0.05, -0.10, 0.05), (0.16, 0.10, 0.22))),
        joint_lower=tuple(kinematics.lower.tolist()),
        joint_upper=tuple(kinematics.upper.tolist()),
    )


def make_integrator() -> DeltaPoseIntegrator:
    """The integrator of the cell's two arms: what the chunk executor uses on the same robot."""
    return DeltaPoseIntegrator(make_kinematics(), GRIPPER_JOINTS, make_limits())


def arm_xml(name: str, mount: str = "", tool: str = "") -> str:
    """One 6-joint arm with a parallel gripper; `mount` and `tool` are MJCF in its hand's frame, around the fingers.

    Every body carries gravcomp: position control must not sag.
    """
    x, yaw = (-0.46, 0.0) if name == "left" else (0.53, np.pi)
    shell = 'rgba="0.25 0.25 0.28 1"'
    return f"""
<body name="{name}_base" gravcomp="1" pos="{x} 0 0" euler="0 0 {yaw}">
 <geom type="cylinder" size="0.05 0.06" pos="0 0 0.06" {shell}/>
 <body gravcomp="1" pos="0 0 0.127"><joint name="{name}_waist" axis="0 0 1" range="-3 3"/>
 <geom type="capsule" size="0.035" fromto="0 0 -0.02 0 0 0.02" {shell} mass="0.8"/>
 <body gravcomp="1"><joint name="{name}_shoulder" axis="0 1 0" range="-1.85 1.3"/>
 <geom type="capsule" size="0.025" fromto="0 0 0 0.06 0 0.30" {shell} mass="0.6"/>
 <body gravcomp="1" pos="0.06 0 0.30"><joint name="{name}_elbow" axis="0 1 0" range="-1.8 1.7"/>
 <geom type="capsule" size="0.022" fromto="0 0 0 0.20 0 0" {shell} mass="0.4"/>
 <body gravcomp="1" pos="0.20 0 0"><joint name="{name}_forearm_roll" axis="1 0 0" range="-3.1 3.1"/>
 <geom type="capsule" size="0.020" fromto="0 0 0 0.10 0 0" {shell} mass="0.3"/>
 <body gravcomp="1" pos="0.10 0 0"><joint name="{name}_wrist_angle" axis="0 1 0" range="-2.2 2.2"/>
 <geom type="capsule" size="0.020" fromto="0 0 0 0.07 0 0" {shell} mass="0.2"/>
 <body name="{name}_hand" gravcomp="1" pos="0.07 0 0"><joint name="{name}_wrist_rotate" axis="1 0 0" range="-3.1 3.1"/>
 <geom type="box" size="0.02 0.04 0.02" pos="0.02 0 0" rgba="0.1 0.1 0.1 1" mass="0.2"/>
 <site name="{name}_tip" pos="{TIP_REACH[name]} 0 0"/>
 {mount}
 <body gravcomp="1" pos="0.07 0 0"><joint name="{name}_gripper" type="slide" axis="0 1 0" range="0 0.04"/>
 <geom type="box" size="0.035 0.004 0.01" pos="0 0.012 0" rgba="0.15 0.15 0.6 1" mass="0.05"/></body>
 <body gravcomp="1" pos="0.07 0 0"><joint name="{name}_finger" type="slide" axis="0 -1 0" range="0 0.04"/>
 <geom type="box" size="0.035 0.004 0.01" pos="0 -0.012 0" rgba="0.15 0.15 0.6 1" mass="0.05"/></body>
 {tool}
 </body></body></body></body></body></body></body>"""


def actuators_xml() -> str:
    """Position servos, ordered left arm, right arm; the second finger of each gripper mirrors the gripper joint."""
    gains = zip(
        (*ARM_JOINTS, "gripper", "finger"),
        (120, 120, 120, 40, 40, 20, 100, 100),
        (8, 8, 8, 2, 2, 1, 5, 5),
        (30, 30, 30, 10, 10, 5, 20, 20),
        strict=True,
    )
    rows = list(gains)
    return "".join(
        f'<position name="{arm}_{joint}" joint="{arm}_{joint}" kp="{kp}" kv="{kv}" forcerange="-{force} {force}"/>'
        for arm in ARMS
        for joint, kp, kv, force in rows
    )
