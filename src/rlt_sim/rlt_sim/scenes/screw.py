"""Screw: the right hand's driver, a square bit held with a small unknown slip, must enter the square recess of a screw
whose block stands a little off and askew, and then turn the screw. Torque reaches the screw through contact only.

The screw's mouth is the centre of its head's face; it does not turn with the screw. The joint `screw` turns the screw
about its axis, positive when tightened.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from rlt_sim import mjcf
from rlt_sim.arms import HAND_TO_GRIP, TOOL_LENGTH
from rlt_sim.expert import Expert, Phase, Sight, Temperament
from rlt_sim.task_scene import Depths, SceneOptions, SceneParts, TaskScene, TaskState

SCREW_POSITION = (0.0, 0.0, 0.12)
"""Nominal position of the screw's mouth, m."""
_TAPER_LENGTH = 0.003
_BRASS = 'rgba="0.95 0.80 0.10 1"'
_QUARTER = np.pi / 2.0


@dataclass(frozen=True)
class ScrewSpec:
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


@dataclass(frozen=True)
class ScrewOptions(SceneOptions):
    """What a reset randomises, see SceneOptions, and what counts as what. SI units.

    Attributes:
        seated_depth: depth in the recess from which the bit counts as engaged, m.
        turn_angle: the screw must be turned by this much, rad.
    """

    position_range: float = 0.010
    yaw_range: float = 0.12
    pitch_range: float = 0.08
    roll_range: float = 0.20
    slip: float = 0.0015
    start_range: float = 0.008
    start_angle: float = 0.08
    full_distance: float = 0.035
    hand_off_distance: float = 0.050
    seated_depth: float = 0.005
    turn_angle: float = 0.85


@dataclass(frozen=True)
class ScrewState(TaskState):
    """Privileged state, see TaskState; the roll error is modulo a quarter turn, in [-pi/4, pi/4].

    Attributes:
        turned_rad: how far the screw has been turned since the reset, rad, positive when tightened.
        engaged: the bit is seated in the recess.
    """

    turned_rad: float
    engaged: bool


class ScrewScene(TaskScene):
    """The screw, its block and the driver."""

    name = "screw"
    options_type = ScrewOptions

    def __init__(self, spec: ScrewSpec | None = None) -> None:
        self.spec = spec or ScrewSpec()

    def parts(self) -> SceneParts:
        """See TaskScene."""
        half, shank = self.spec.bit_half_width, (TOOL_LENGTH - _TAPER_LENGTH) / 2
        bit = f"""
    <body name="tool" gravcomp="1" pos="{HAND_TO_GRIP} 0 0">
     <geom class="contact" type="box" size="{shank} {half} {half}" pos="{shank} 0 0" {_BRASS} mass="0.03"/>
     <geom class="contact" type="mesh" mesh="taper" {_BRASS} mass="0.001"/>
     <geom type="cylinder" size="0.009 0.008" pos="0.004 0 0" euler="0 1.5707963 0" rgba="0.75 0.30 0.10 1"
      mass="0.02"/>
     <site name="tip" pos="{TOOL_LENGTH} 0 0"/>
    </body>"""
        right_camera = mjcf.camera("right_wrist", (0.060, 0.0, 0.100), (0.144, 0.0, 0.0), 36) + (
            '<geom type="box" size="0.012 0.014 0.010" pos="0.045 0 0.105" rgba="0.1 0.1 0.1 1" mass="0.02"/>'
        )
        left_camera = mjcf.camera("left_wrist", (0.010, 0.085, 0.075), (0.150, 0.022, 0.0), 24) + (
            '<geom type="box" size="0.012 0.012 0.012" pos="-0.006 0.092 0.083" rgba="0.1 0.1 0.1 1" mass="0.02"/>'
            '<geom type="capsule" size="0.004" fromto="0.01 0.03 0.02 -0.006 0.092 0.083" rgba="0.1 0.1 0.1 1"'
            ' mass="0.01"/>'
        )
        base_camera = mjcf.camera("base", (0.085, -0.150, 0.235), (0.009, 0.0, 0.120), 24)
        narrow = half - self.spec.taper
        taper = mjcf.frustum("taper", (TOOL_LENGTH - _TAPER_LENGTH, half, half), (TOOL_LENGTH, narrow, narrow))
        return SceneParts(left_camera, right_camera, "", bit, base_camera + _block(self.spec), taper)

    def bind(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """See TaskScene."""
        super().bind(model, data)
        self._screw_qpos = model.joint("screw").qposadr[0]
        self._screw_start = 0.0

    def place_roll(self, askew: np.ndarray, roll: float) -> None:
        """The block is askew; the roll is the screw's own."""
        mujoco.mju_mat2Quat(self.model.body_quat[self._work], askew.reshape(-1))
        self._screw_start = roll
        self.data.qpos[self._screw_qpos] = roll

    def opening_angle(self) -> float:
        """Angle of the recess about the screw's axis, rad."""
        return float(self.data.qpos[self._screw_qpos])

    def turn_screw(self, angle: float) -> None:
        """Turn the screw by `angle` rad from where it is, without physics."""
        self.data.qpos[self._screw_qpos] += angle
        mujoco.mj_forward(self.model, self.data)

    def depths(self) -> Depths:
        """See TaskScene."""
        return Depths(inside=self.spec.recess_depth, far=0.09, aside=0.022, play=self.spec.clearance)

    def place_inserted(self, options: ScrewOptions, depth: float, rng: np.random.Generator) -> None:
        """The screw may be turned already."""
        self.turn_screw(rng.uniform(-0.1, options.turn_angle) if rng.random() < 0.7 else 0.0)

    def state(self, options: ScrewOptions) -> ScrewState:
        """See TaskScene."""
        tip, tilt, roll = self.relative_pose()
        turned = self.opening_angle() - self._screw_start
        inner = self.spec.bit_half_width + self.spec.clearance
        engaged = bool(tip[0] < -options.seated_depth and np.abs(tip[1:]).max() < inner)
        return ScrewState(
            tip_error_m=tip,
            tilt_rad=tilt,
            roll_error_rad=float((roll + _QUARTER / 2.0) % _QUARTER - _QUARTER / 2.0),
            progress=float(np.clip(turned / options.turn_angle, 0.0, 1.0)),
            success=bool(engaged and turned >= options.turn_angle),
            hand_off_ready=bool(np.linalg.norm(tip) < options.hand_off_distance),
            turned_rad=turned,
            engaged=engaged,
        )

    def expert(self, sight: Sight, rng: np.random.Generator, temperament: Temperament | None = None) -> Expert:
        """See TaskScene."""
        return ScrewExpert(sight, rng, temperament, self.spec.recess_depth)


class ScrewExpert(Expert):
    """Pushes the bit to the floor of the recess, then turns, stopping now and then to look."""

    turns_tool = True

    def __init__(
        self, sight: Sight, rng: np.random.Generator, temperament: Temperament | None, recess_depth: float
    ) -> None:
        super().__init__(sight, rng, temperament)
        self._floor = -recess_depth - 0.0005
        self._rests = [0.45 / 0.85, 2.0]  # of the turn, then never again

    def push(self, state: TaskState, seen: np.ndarray) -> np.ndarray:
        """See Expert."""
        depth = state.tip_error_m[0]
        self._note_progress(depth)
        if depth < -0.0068:
            self.phase = Phase.FINISH
            self._pause(8, 25)
        elif self._stuck > 8 or (self._probes > 0 and abs(seen[0]) < 0.001):
            self._back_off()
        return np.array([-0.008, -0.5 * seen[1], -0.5 * seen[2]])

    def finish(self, state: TaskState, seen: np.ndarray) -> tuple[np.ndarray, float]:
        """See Expert: turn."""
        if state.tip_error_m[0] > -0.003:
            self._back_off()
            return np.zeros(3), 0.0
        if state.progress > self._rests[0]:  # a person stops to look, now and then
            self._rests.pop(0)
            self._pause(8, 25)
        return np.array([self._floor - state.tip_error_m[0], -0.3 * seen[1], -0.3 * seen[2]]), self._turn_speed


def _block(spec: ScrewSpec) -> str:
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
<body name="work" pos="{SCREW_POSITION[0]} {SCREW_POSITION[1]} {SCREW_POSITION[2]}">
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
