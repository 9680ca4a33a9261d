"""Zip tie: the left hand holds the tie's head, the right hand its strap some centimetres behind the tip; the tip must
go into the head's slot and the strap be pushed through until a length of it has passed.

Both hands move the two parts. The strap is a chain of links on sprung hinges: it bends sideways, is curled a little
differently in each episode, and buckles when it is pushed off the slot. Head and strap are about 1.5 times a common tie
of 4.8 mm, and the strap is twice as thick, so that 64 px show the gap. Nothing holds the strap back in the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from rlt_common.kinematics import Pose
from rlt_common.rotations import rotation_matrix
from rlt_sim import mjcf
from rlt_sim.arms import HAND_TO_GRIP, HOME_POSITIONS, HOME_ROTATIONS, RIGHT_FACING, TOOL_LENGTH
from rlt_sim.expert import Expert, InsertionExpert, Phase, Sight, Temperament
from rlt_sim.task_scene import Depths, PlaceArms, SceneOptions, SceneParts, TaskScene, TaskState

HEAD_IN_HAND = (0.160, 0.015, -0.005)
"""Nominal position of the slot's mouth in the frame of the left hand, m: near (0, 0, 0.12) with the hand at home."""
_SLOT, _HEAD, _LIP = "0.08 0.08 0.10", "0.30 0.55 0.62", "0.95 0.95 0.92"
_STRAP, _TIP, _BLACK = "0.98 0.62 0.10", "0.85 0.10 0.45", "0.1 0.1 0.1"
_STRAP_TOUCHES, _HEAD_TOUCHES = 'contype="1" conaffinity="0"', 'contype="0" conaffinity="1"'


@dataclass(frozen=True)
class ZipTieSpec:
    """Sizes of strap and head, m, and the strap's springs.

    Attributes:
        links: number of links between grip and tip.
        link_length: length of each.
        half_thickness, half_height: of the strap, along y (it bends that way) and z.
        stiffness: of the spring at each hinge, N m per rad.
        taper_length: length of the pointed end.
        taper_thickness, taper_height: how much narrower, on each side, the strap is at its very tip.
        clearance: gap between strap and slot on each side when centred.
        head: thickness of the head along the slot.
        lip: the slot's rim is flared over this length, to both sides by as much.
    """

    links: int = 6
    link_length: float = 0.006
    half_thickness: float = 0.0012
    half_height: float = 0.0038
    stiffness: float = 0.05
    taper_length: float = 0.004
    taper_thickness: float = 0.0006
    taper_height: float = 0.0013
    clearance: float = 0.0007
    head: float = 0.007
    lip: float = 0.0010

    @property
    def free_length(self) -> float:
        """From the grip to the tip, m."""
        return self.links * self.link_length


@dataclass(frozen=True)
class ZipTieOptions(SceneOptions):
    """What a reset randomises, see SceneOptions, and what counts as what. SI units. The work piece is the head: its
    position and angles are those in the left hand.

    Attributes:
        curl: the strap's tip is bent by up to this at rest, rad.
        passed_length: the tip must be this far behind the mouth, m.
    """

    position_range: float = 0.0015
    yaw_range: float = 0.08
    pitch_range: float = 0.08
    roll_range: float = 0.10
    slip: float = 0.0012
    start_range: float = 0.010
    start_angle: float = 0.10
    full_distance: float = 0.035
    hand_off_distance: float = 0.050
    curl: float = 0.16
    passed_length: float = 0.018


class ZipTieScene(TaskScene):
    """Head and strap of the tie."""

    name = "zip_tie"
    options_type = ZipTieOptions
    position_shape = (1.0, 1.0, 1.0)

    def __init__(self, spec: ZipTieSpec | None = None) -> None:
        self.spec = spec or ZipTieSpec()

    def parts(self) -> SceneParts:
        """See TaskScene."""
        right = mjcf.camera("right_wrist", (0.060, 0.0, 0.100), (0.150, 0.0, 0.0), 30) + mjcf.box(
            (0.033, -0.014, 0.095), (0.057, 0.014, 0.115), _BLACK, 'mass="0.02"'
        )
        left = mjcf.camera("left_wrist", (0.030, 0.120, 0.065), (0.158, 0.025, -0.003), 16) + mjcf.box(
            (0.002, 0.115, 0.061), (0.026, 0.139, 0.085), _BLACK, 'mass="0.02"'
        )
        base = mjcf.camera("base", (0.085, -0.150, 0.235), (0.012, 0.0, 0.122), 18)
        s = self.spec
        last = s.link_length
        taper = mjcf.frustum(
            "taper",
            (last - s.taper_length, s.half_thickness, s.half_height),
            (last, s.half_thickness - s.taper_thickness, s.half_height - s.taper_height),
        )
        return SceneParts(left, right, _head(s), _strap(s), base, taper)

    def bind(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """See TaskScene."""
        super().bind(model, data)
        names = [f"strap_{i}" for i in range(self.spec.links)]
        self._strap = np.array([model.joint(name).qposadr[0] for name in names])
        self._strap_bodies = np.array([self._tool, *(model.body(name).id for name in names)])
        self._hand_tip = model.site("right_tip").id

    def place(self, options: ZipTieOptions, rng: np.random.Generator) -> None:
        """See TaskScene; the strap is curled."""
        super().place(options, rng)
        bend = rng.uniform(-1.0, 1.0) * options.curl / self.spec.links
        self.model.qpos_spring[self._strap] = bend
        self.data.qpos[self._strap] = bend

    def start_poses(self, options: ZipTieOptions, start_in: str, rng: np.random.Generator) -> list[Pose]:
        """See TaskScene; in the full task the left hand starts further back too."""
        (left, facing), right = super().start_poses(options, start_in, rng)
        if start_in == "full":
            left = left + np.array([0.0, 0.5 * options.full_distance, 0.0])
        return [(left, facing), right]

    def random_pose(self, options: ZipTieOptions, place_arms: PlaceArms, rng: np.random.Generator) -> None:
        """See TaskScene; the mouth is where the left hand is."""
        left = np.array(HOME_POSITIONS["left"]) + rng.uniform(-1.0, 1.0, 3) * np.array([0.012, 0.018, 0.012])
        left_pose = (left, rotation_matrix(rng.uniform(-0.12, 0.12, 3)) @ HOME_ROTATIONS["left"])
        place_arms([left_pose, (np.array(HOME_POSITIONS["right"]), RIGHT_FACING)], 12)
        origin, frame = self.mouth_pose()
        offset, roll, tilt = self.random_offset(options, rng)
        rotation = frame @ rotation_matrix(np.array([0.0, *tilt])) @ rotation_matrix(np.array([roll, 0.0, 0.0]))
        place_arms([left_pose, self.hand_pose(origin + frame @ offset, rotation @ RIGHT_FACING)], 12)

    def depths(self) -> Depths:
        """See TaskScene."""
        return Depths(inside=0.018, far=0.09, aside=0.022, play=self.spec.clearance)

    def place_inserted(self, options: ZipTieOptions, depth: float, rng: np.random.Generator) -> None:
        """The slot keeps what is inside it straight."""
        inside = int(np.ceil(depth / self.spec.link_length))
        self.data.qpos[self._strap[-inside:]] = 0.0
        mujoco.mj_kinematics(self.model, self.data)

    def hand_pose(self, tip: np.ndarray, rotation: np.ndarray) -> Pose:
        """See TaskScene; with the strap bent as it is now."""
        data = self.data
        hand = data.site_xmat[self._hand_tip].reshape(3, 3)
        bent = hand.T @ data.site_xmat[self._tip].reshape(3, 3)
        reach = hand.T @ (data.site_xpos[self._tip] - data.site_xpos[self._hand_tip])
        turned = rotation @ bent.T
        return tip - turned @ reach, turned

    def state(self, options: ZipTieOptions) -> TaskState:
        """See TaskScene."""
        tip, tilt, roll = self.relative_pose()
        passed = float(np.clip(-tip[0] / options.passed_length, 0.0, 1.0)) if self._threaded(tip) else 0.0
        return TaskState(
            tip_error_m=tip,
            tilt_rad=tilt,
            roll_error_rad=roll,
            progress=passed,
            success=passed >= 1.0,
            hand_off_ready=bool(np.linalg.norm(tip) < options.hand_off_distance),
        )

    def expert(self, sight: Sight, rng: np.random.Generator, temperament: Temperament | None = None) -> Expert:
        """See TaskScene."""
        return ZipTieExpert(sight, rng, temperament)

    def _threaded(self, tip: np.ndarray) -> bool:
        """Whether the strap passes through the slot: where it crosses the plane just behind the mouth."""
        s = self.spec
        plane = -0.001
        if tip[0] > plane:
            return False
        origin, frame = self.mouth_pose()
        points = np.vstack([(self.data.xpos[self._strap_bodies] - origin) @ frame, tip])  # from the grip to the tip
        before = np.flatnonzero(points[:, 0] > plane)
        if not len(before):
            return False
        a, b = points[before[-1]], points[before[-1] + 1]
        crossing = a + (a[0] - plane) / (a[0] - b[0]) * (b - a)
        play = s.clearance + 0.0005
        return bool(abs(crossing[1]) < s.half_thickness + play and abs(crossing[2]) < s.half_height + play)


class ZipTieExpert(InsertionExpert):
    """Threads the tip with the right hand while the left hand comes to its place, then both hands move together."""

    temperament = Temperament(speed=0.00044, patience=1.6, max_probes=2)
    engaged_depth = 0.009
    tilt_tolerance = 0.08
    share = 0.3
    """The left hand's part of the speed while the strap is pushed through."""

    def left_action(self, right_velocity: np.ndarray) -> np.ndarray:
        """See Expert."""
        if self.phase in (Phase.PUSH, Phase.FINISH):
            return np.concatenate([-self.share * right_velocity, np.zeros(3)])
        return super().left_action(right_velocity)


def _strap(s: ZipTieSpec) -> str:
    """The strap, in the frame of the right hand: what the fingers hold, then a chain of links up to the tip."""
    start = TOOL_LENGTH - s.free_length
    size = (s.half_thickness, s.half_height)
    touch = f'class="contact" {_STRAP_TOUCHES} mass="0.0005"'
    held = mjcf.box((-0.030, -size[0], -size[1]), (start, *size), _STRAP, 'mass="0.005"')
    chain = ""
    for i in reversed(range(s.links)):
        end = s.link_length - (s.taper_length if i == s.links - 1 else 0.0)
        colour = _TIP if i == s.links - 1 else _STRAP
        geoms = mjcf.box((0.0, -size[0], -size[1]), (end, *size), colour, touch)
        if i == s.links - 1:
            geoms += f'<geom type="mesh" mesh="taper" rgba="{_TIP} 1" {touch}/>'
            geoms += f'<site name="tip" pos="{s.link_length} 0 0"/>'
        chain = f"""
     <body name="strap_{i}" gravcomp="1" pos="{start if i == 0 else s.link_length} 0 0">
      <joint name="strap_{i}" axis="0 0 1" range="-0.4 0.4" stiffness="{s.stiffness}" damping="0.002"
       armature="0.00003"/>
      {geoms}{chain}
     </body>"""
    return f'<body name="tool" gravcomp="1" pos="{HAND_TO_GRIP} 0 0">{held}{chain}</body>'


def _head(s: ZipTieSpec) -> str:
    """The head, in the frame of the left hand, and the stub of tie by which the hand holds it."""
    y, z = s.half_thickness + s.clearance, s.half_height + s.clearance
    wide, tall = 0.0075, 0.0090
    touch = f'class="contact" {_HEAD_TOUCHES}'
    geoms = mjcf.frame((-s.head, 0.0), (y, z), (wide, tall), _SLOT, touch + ' mass="0.002"')
    geoms += mjcf.frame((-s.head - 0.0004, -0.0006), (wide, tall), (wide + 0.0006, tall + 0.0006), _HEAD)
    geoms += mjcf.frame((0.0, 0.0003), (y + s.lip, z + s.lip), (wide, tall), _LIP)
    thin = 0.0004
    slant = s.lip * np.sqrt(2.0) / 2.0
    for side in (-1, 1):  # plates at 45 degrees from the slot's edge outwards
        half, off = s.lip / 2, thin * np.sqrt(0.5)
        geoms += (
            f'<geom type="box" size="{slant} {thin} {z}" pos="{half - off} {side * (y + half + off)} 0"'
            f' euler="0 0 {side * np.pi / 4}" rgba="{_LIP} 1" mass="0.0001" {touch}/>'
            f'<geom type="box" size="{slant} {y} {thin}" pos="{half - off} 0 {side * (z + half + off)}"'
            f' euler="0 {-side * np.pi / 4} 0" rgba="{_LIP} 1" mass="0.0001" {touch}/>'
        )
    x0, y0, z0 = HEAD_IN_HAND
    stub = (
        f'<geom type="capsule" size="0.003" fromto="0.09 0 0 {x0 - wide} {y0 - s.head / 2} {z0}" rgba="{_HEAD} 1"'
        ' mass="0.005"/>'
    )
    return f"""
    {stub}
    <body name="work" gravcomp="1" pos="{x0} {y0} {z0}" euler="0 0 {np.pi / 2}">
     {geoms}<site name="mouth"/>
    </body>"""
