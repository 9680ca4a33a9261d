"""The scene of the simulated cell as MJCF text: two arms of primitive shapes, a driver, a screw, three cameras.

Lengths in m, angles in rad, world frame: x from the left arm to the right arm, z up. The screw's mouth (the
centre of its head's face) faces +x, towards the right arm, whose driver points along -x. Turning the driver
about its own axis is the wrist_rotate joint. `cell_xml` is the whole plant; `arms_xml` holds the arms alone
and is the model that kinematics use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlt_common.kinematics import ArmChain

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
"""Orientation of the right tool at home: its x axis, the driver's axis, points along -x of the world."""
HOME_POSITIONS = {"left": (-0.015, 0.050, 0.125), "right": (0.045, 0.0, 0.12)}
"""Tip positions at home, m, world frame. Proprioception gives tool poses relative to these."""
LEFT_FACING = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""Orientation of the left tool at home: it points along -y of the world, at the side of the block."""
HOME_ROTATIONS = {"left": LEFT_FACING, "right": RIGHT_FACING}
SCREW_POSITION = (0.0, 0.0, 0.12)
"""Nominal position of the screw's mouth, m."""

_DRIVER_LENGTH = 0.044
_HAND_TO_GRIP = 0.10
_TAPER_LENGTH = 0.003
_TIMESTEP = 0.004
_BRASS = 'rgba="0.95 0.80 0.10 1"'


@dataclass(frozen=True)
class SceneSpec:
    """Sizes of driver and screw, m, and the screw's friction.

    Attributes:
        bit_half_width: half the width of the driver's square bit.
        taper: how much narrower, on each side, the bit is at its very tip than 3 mm behind it.
        clearance: gap between bit and recess on each side when centred.
        recess_depth: depth of the square recess in the screw's head.
        sink: how far the head lies below the block's face.
        friction_torque: dry friction of the screw about its axis, N m.
    """

    bit_half_width: float = 0.0045
    taper: float = 0.0016
    clearance: float = 0.0007
    recess_depth: float = 0.008
    sink: float = 0.004
    friction_torque: float = 0.15


def arms_xml() -> str:
    """MJCF of the two arms alone, joints named JOINT_NAMES; sites `left_tip`, `right_tip` are the nominal tips."""
    return _document(_arm("left", "", "") + _arm("right", "", ""), "")


def cell_xml(spec: SceneSpec | None = None) -> str:
    """MJCF of the whole cell.

    Bodies `bit` and `block` are placed by the cell at each reset. Joint `screw` turns the screw about its
    axis, positive when tightened. Sites: `bit_tip` (where the bit really is, grasp slip included), `mouth`
    (centre of the head's face, x outwards; it does not turn with the screw).
    """
    spec = spec or SceneSpec()
    half, shank = spec.bit_half_width, (_DRIVER_LENGTH - _TAPER_LENGTH) / 2
    bit = f"""
    <body name="bit" gravcomp="1" pos="{_HAND_TO_GRIP} 0 0">
     <geom class="contact" type="box" size="{shank} {half} {half}" pos="{shank} 0 0" {_BRASS} mass="0.03"/>
     <geom class="contact" type="mesh" mesh="bit_taper" {_BRASS} mass="0.001"/>
     <geom type="cylinder" size="0.009 0.008" pos="0.004 0 0" euler="0 1.5707963 0" rgba="0.75 0.30 0.10 1"
      mass="0.02"/>
     <site name="bit_tip" pos="{_DRIVER_LENGTH} 0 0"/>
    </body>"""
    right_camera = _camera("right_wrist", (0.060, 0.0, 0.100), (0.144, 0.0, 0.0), 36) + (
        '<geom type="box" size="0.012 0.014 0.010" pos="0.045 0 0.105" rgba="0.1 0.1 0.1 1" mass="0.02"/>'
    )
    left_camera = _camera("left_wrist", (0.010, 0.085, 0.075), (0.150, 0.022, 0.0), 24) + (
        '<geom type="box" size="0.012 0.012 0.012" pos="-0.006 0.092 0.083" rgba="0.1 0.1 0.1 1" mass="0.02"/>'
        '<geom type="capsule" size="0.004" fromto="0.01 0.03 0.02 -0.006 0.092 0.083" rgba="0.1 0.1 0.1 1"'
        ' mass="0.01"/>'
    )
    base_camera = _camera("base", (0.085, -0.150, 0.235), (0.009, 0.0, 0.120), 24)
    body = _arm("left", left_camera, "") + _arm("right", right_camera, bit) + _block(spec)
    floor = '<geom type="plane" size="1 1 0.01" rgba="0.55 0.55 0.50 1"/>'
    return _document(base_camera + floor + body, _actuators(), _taper_mesh(spec))


def _camera(name: str, position: tuple[float, ...], target: tuple[float, ...], fovy: float) -> str:
    """MJCF of a camera at `position` that looks at `target` (both in the frame of its body), z of that frame up."""
    back = np.array(position) - np.array(target)
    right = np.cross([0.0, 0.0, 1.0], back)
    axes = np.concatenate([right, np.cross(back, right)])
    numbers = " ".join(f"{value:.6f}" for value in axes / np.abs(axes).max())
    return f'<camera name="{name}" pos="{position[0]} {position[1]} {position[2]}" xyaxes="{numbers}" fovy="{fovy}"/>'


def _taper_mesh(spec: SceneSpec) -> str:
    """The tapered end of the bit as a mesh: a square frustum, in the frame of the bit's body."""
    corners = [
        (x, side_y * half, side_z * half)
        for x, half in (
            (_DRIVER_LENGTH - _TAPER_LENGTH, spec.bit_half_width),
            (_DRIVER_LENGTH, spec.bit_half_width - spec.taper),
        )
        for side_y in (-1, 1)
        for side_z in (-1, 1)
    ]
    vertices = " ".join(f"{value:.6f}" for corner in corners for value in corner)
    return f'<asset><mesh name="bit_taper" inertia="convex" vertex="{vertices}"/></asset>'


def _document(world: str, actuators: str, assets: str = "") -> str:
    return f"""<mujoco model="rlt_cell">
<compiler angle="radian" autolimits="true"/>
<option timestep="{_TIMESTEP}" integrator="implicitfast" cone="elliptic" gravity="0 0 -9.81"/>
<visual><global offwidth="640" offheight="480"/><map znear="0.01"/></visual>
<default>
 <geom contype="0" conaffinity="0"/>
 <joint damping="1.0" armature="0.05"/>
 <default class="contact">
  <geom contype="1" conaffinity="1" friction="0.15 0.005 0.0001" solref="0.008 1" solimp="0.95 0.99 0.001"/>
 </default>
</default>
{assets}
<worldbody><light pos="0 0 1.5" dir="0 0 -1" castshadow="false"/>{world}</worldbody>
<actuator>{actuators}</actuator>
</mujoco>"""


def _arm(name: str, camera: str, tool: str) -> str:
    """One 6-joint arm with a parallel gripper. Every body carries gravcomp: position control must not sag."""
    x, yaw = (-0.46, 0.0) if name == "left" else (0.53, np.pi)
    reach = 0.11 if name == "left" else _HAND_TO_GRIP + _DRIVER_LENGTH
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
 <site name="{name}_tip" pos="{reach} 0 0"/>
 {camera}
 <body gravcomp="1" pos="0.07 0 0"><joint name="{name}_gripper" type="slide" axis="0 1 0" range="0 0.04"/>
 <geom type="box" size="0.035 0.004 0.01" pos="0 0.012 0" rgba="0.15 0.15 0.6 1" mass="0.05"/></body>
 <body gravcomp="1" pos="0.07 0 0"><joint name="{name}_finger" type="slide" axis="0 -1 0" range="0 0.04"/>
 <geom type="box" size="0.035 0.004 0.01" pos="0 -0.012 0" rgba="0.15 0.15 0.6 1" mass="0.05"/></body>
 {tool}
 </body></body></body></body></body></body></body>"""


def _block(spec: SceneSpec) -> str:
    """The work piece: a block with a square bore, and the screw whose head lies `sink` below the block's face.

    The head is a frame of four boxes around the square recess plus a floor, all on one hinge: torque reaches it through
    contact with the bit only.
    """
    inner = spec.bit_half_width + spec.clearance
    outer, bore, side = 0.0105, 0.016, 0.027
    wall, deep = (side - bore) / 2, spec.recess_depth / 2
    length = 0.016
    centre = spec.sink - length
    rim, frame = (bore + side) / 2, (outer + inner) / 2
    thick = (outer - inner) / 2
    wood, steel, dark = 'rgba="0.45 0.62 0.70 1"', 'rgba="0.92 0.92 0.95 1"', 'rgba="0.12 0.12 0.13 1"'
    skin = 0.0002
    return f"""
<body name="block" pos="{SCREW_POSITION[0]} {SCREW_POSITION[1]} {SCREW_POSITION[2]}">
 <geom class="contact" type="box" size="{length} {wall} {side}" pos="{centre} {rim} 0" {wood}/>
 <geom class="contact" type="box" size="{length} {wall} {side}" pos="{centre} {-rim} 0" {wood}/>
 <geom class="contact" type="box" size="{length} {bore} {wall}" pos="{centre} 0 {rim}" {wood}/>
 <geom class="contact" type="box" size="{length} {bore} {wall}" pos="{centre} 0 {-rim}" {wood}/>
 <geom type="box" size="0.002 {bore} {bore}" pos="{-spec.recess_depth - 0.006} 0 0" rgba="0.15 0.15 0.15 1"/>
 <geom type="box" size="0.016 0.016 0.045" pos="-0.014 0 {-side - 0.045}" rgba="0.5 0.3 0.2 1"/>
 <site name="mouth"/>
 <body name="screw">
  <joint name="screw" axis="-1 0 0" frictionloss="{spec.friction_torque}" damping="0.05" armature="0.002"
   limited="false"/>
  <geom class="contact" type="box" size="{deep} {thick} {outer}" pos="{-deep} {frame} 0" {dark} mass="0.02"/>
  <geom class="contact" type="box" size="{deep} {thick} {outer}" pos="{-deep} {-frame} 0" {dark} mass="0.02"/>
  <geom class="contact" type="box" size="{deep} {inner} {thick}" pos="{-deep} 0 {frame}" {dark} mass="0.02"/>
  <geom class="contact" type="box" size="{deep} {inner} {thick}" pos="{-deep} 0 {-frame}" {dark} mass="0.02"/>
  <geom class="contact" type="box" size="0.002 {outer} {outer}" pos="{-spec.recess_depth - 0.002} 0 0" {dark}
   mass="0.02"/>
  <geom type="box" size="{skin} {thick} {outer}" pos="0 {frame} 0" {steel} mass="0.001"/>
  <geom type="box" size="{skin} {thick} {outer}" pos="0 {-frame} 0" {steel} mass="0.001"/>
  <geom type="box" size="{skin} {inner} {thick}" pos="0 0 {frame}" {steel} mass="0.001"/>
  <geom type="box" size="{skin} {inner} {thick}" pos="0 0 {-frame}" {steel} mass="0.001"/>
 </body>
</body>"""


def _actuators() -> str:
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
