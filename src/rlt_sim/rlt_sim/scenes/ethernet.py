"""Ethernet: the right hand's plug must enter a recessed port, whose long guide lets it in only when every angle fits,
and be pushed home until its spring latch snaps behind the port's ridge.

The plug is an RJ45 plug at 1.2 times its true width and 1.5 times its height, so that 64 px show the gap. The latch is
a body of its own on a sprung hinge near the tip; the ridge at the mouth presses it down on the way in, and it springs
up behind the ridge.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from rlt_sim import mjcf
from rlt_sim.arms import HAND_TO_GRIP, TOOL_LENGTH
from rlt_sim.expert import Expert, InsertionExpert, Sight, Temperament
from rlt_sim.task_scene import Depths, SceneOptions, SceneParts, TaskScene, TaskState

PORT_POSITION = (0.0, 0.0, 0.12)
"""Nominal position of the port's mouth, m."""
_TEAL, _IVORY, _DARK = "0.45 0.62 0.70", "0.95 0.95 0.92", "0.10 0.10 0.12"
_AMBER, _LATCH, _HOOD, _BLACK = "0.98 0.62 0.10", "0.85 0.10 0.30", "0.20 0.45 0.85", "0.1 0.1 0.1"


@dataclass(frozen=True)
class EthernetSpec:
    """Sizes of plug and port, m, and the latch's spring.

    Attributes:
        half_width, half_height: of the plug.
        taper: how much narrower, on each side, the plug is at its very tip than `taper_length` behind it.
        taper_length: length of the tapered end.
        clearance: gap between plug and guide on each side when centred.
        depth: length of the guide, from the mouth to its floor.
        sink: how far the mouth lies below the block's face.
        latch_hinge: the latch's hinge lies this far behind the tip.
        latch_length, latch_height: its length, and how far its free end stands out at rest.
        latch_thickness: its thickness.
        latch_stiffness: of its spring, N m per rad.
        ridge: thickness of the ridge along the guide.
        ridge_gap: free height between plug and ridge when centred.
    """

    half_width: float = 0.0070
    half_height: float = 0.0050
    taper: float = 0.0016
    taper_length: float = 0.004
    clearance: float = 0.0006
    depth: float = 0.0205
    sink: float = 0.004
    latch_hinge: float = 0.005
    latch_length: float = 0.0125
    latch_height: float = 0.0028
    latch_thickness: float = 0.0010
    latch_stiffness: float = 0.12
    ridge: float = 0.0015
    ridge_gap: float = 0.0020

    @property
    def latch_rest(self) -> float:
        """Angle of the latch at rest, rad; 0 when it lies flat on the plug."""
        return float(np.arcsin(self.latch_height / self.latch_length))


@dataclass(frozen=True)
class EthernetOptions(SceneOptions):
    """What a reset randomises, see SceneOptions, and what counts as what. SI units.

    Attributes:
        seated_depth: the plug must be this deep, m,
        latched_share: and its latch must stand at this share of its angle at rest.
    """

    position_range: float = 0.010
    yaw_range: float = 0.12
    pitch_range: float = 0.08
    roll_range: float = 0.12
    slip: float = 0.0012
    start_range: float = 0.008
    start_angle: float = 0.08
    full_distance: float = 0.035
    hand_off_distance: float = 0.050
    seated_depth: float = 0.0185
    latched_share: float = 0.6


@dataclass(frozen=True)
class EthernetState(TaskState):
    """Privileged state, see TaskState.

    Attributes:
        latched: the latch has snapped up behind the ridge.
    """

    latched: bool


class EthernetScene(TaskScene):
    """The port, its block and the plug."""

    name = "ethernet"
    options_type = EthernetOptions

    def __init__(self, spec: EthernetSpec | None = None) -> None:
        self.spec = spec or EthernetSpec()

    def parts(self) -> SceneParts:
        """See TaskScene."""
        right = mjcf.camera("right_wrist", (0.060, 0.0, 0.100), (0.146, 0.0, 0.0), 32) + mjcf.box(
            (0.033, -0.014, 0.095), (0.057, 0.014, 0.115), _BLACK, 'mass="0.02"'
        )
        left = mjcf.camera("left_wrist", (0.010, 0.120, 0.065), (0.150, 0.022, 0.0), 20) + mjcf.box(
            (-0.018, 0.115, 0.061), (0.006, 0.139, 0.085), _BLACK, 'mass="0.02"'
        )
        base = mjcf.camera("base", (0.085, -0.150, 0.235), (0.009, 0.0, 0.120), 18)
        s = self.spec
        taper = mjcf.frustum(
            "taper",
            (TOOL_LENGTH - s.taper_length, s.half_width, s.half_height),
            (TOOL_LENGTH, s.half_width - s.taper, s.half_height - s.taper),
        )
        return SceneParts(left, right, "", _plug(s), base + _port(s), taper)

    def bind(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """See TaskScene."""
        super().bind(model, data)
        self._latch_qpos = model.joint("latch").qposadr[0]

    def place(self, options: EthernetOptions, rng: np.random.Generator) -> None:
        """See TaskScene; the latch is at rest."""
        super().place(options, rng)
        self.data.qpos[self._latch_qpos] = self.spec.latch_rest

    def depths(self) -> Depths:
        """See TaskScene."""
        return Depths(inside=self.spec.depth, far=0.09, aside=0.022, play=self.spec.clearance)

    def place_inserted(self, options: EthernetOptions, depth: float, rng: np.random.Generator) -> None:
        """The ridge presses the latch down unless the latch is before or behind it."""
        s = self.spec
        free_end = s.latch_hinge + s.latch_length
        if depth > free_end + s.ridge:
            return
        inside = max(depth - s.latch_hinge, 1e-6)
        angle = np.arctan2(s.ridge_gap - s.latch_thickness, min(inside, s.latch_length))
        self.data.qpos[self._latch_qpos] = min(s.latch_rest, angle)

    def state(self, options: EthernetOptions) -> EthernetState:
        """See TaskScene."""
        tip, tilt, roll = self.relative_pose()
        s = self.spec
        inside = bool(np.abs(tip[1:]).max() < s.half_height)
        angle = float(self.data.qpos[self._latch_qpos])
        behind = -tip[0] > s.latch_hinge + s.latch_length * np.cos(angle) + s.ridge
        latched = bool(inside and behind and angle > options.latched_share * s.latch_rest)
        return EthernetState(
            tip_error_m=tip,
            tilt_rad=tilt,
            roll_error_rad=roll,
            progress=float(np.clip(-tip[0] / s.depth, 0.0, 1.0)) if inside else 0.0,
            success=bool(latched and -tip[0] > options.seated_depth),
            hand_off_ready=bool(np.linalg.norm(tip) < options.hand_off_distance),
            latched=latched,
        )

    def expert(self, sight: Sight, rng: np.random.Generator, temperament: Temperament | None = None) -> Expert:
        """See TaskScene."""
        return EthernetExpert(sight, rng, temperament)


class EthernetExpert(InsertionExpert):
    """Takes its time over the angles, then pushes until the latch snaps."""

    temperament = Temperament(speed=0.00045, patience=1.5, max_probes=2)


def _plug(s: EthernetSpec) -> str:
    """The plug with its latch, in the frame of the right hand; the hood is what the fingers hold."""
    w, h, length = s.half_width, s.half_height, s.latch_length
    hinge = TOOL_LENGTH - s.latch_hinge
    body = mjcf.box((0.012, -w, -h), (TOOL_LENGTH - s.taper_length, w, h), _AMBER, 'class="contact" mass="0.02"')
    hood = mjcf.box((-0.010, -0.009, -0.007), (0.0125, 0.009, 0.007), _HOOD, 'mass="0.02"')
    stripes = "".join(  # contacts at the tip, seen through the plug
        mjcf.box((TOOL_LENGTH - 0.010, y - 0.0005, h - 0.0002), (TOOL_LENGTH - 0.0045, y + 0.0005, h + 0.0001), _DARK)
        for y in (-0.005, 0.005)
    )
    lever = mjcf.box((-length, -0.0028, 0.0), (0.0, 0.0028, s.latch_thickness), _LATCH, 'class="contact" mass="0.001"')
    return f"""
    <body name="tool" gravcomp="1" pos="{HAND_TO_GRIP} 0 0">
     {body}{hood}{stripes}
     <geom class="contact" type="mesh" mesh="taper" rgba="{_AMBER} 1" mass="0.002"/>
     <site name="tip" pos="{TOOL_LENGTH} 0 0"/>
     <body name="latch" gravcomp="1" pos="{hinge} 0 {h}">
      <joint name="latch" axis="0 1 0" range="-0.02 {s.latch_rest + 0.05}" springref="{s.latch_rest}"
       stiffness="{s.latch_stiffness}" damping="0.002" armature="0.00002"/>
      {lever}
     </body>
    </body>"""


def _port(s: EthernetSpec) -> str:
    """The work piece: a block with a square bore, and the port whose mouth lies `sink` below the block's face."""
    w, h, deep = s.half_width + s.clearance, s.half_height + s.clearance, s.depth
    outer, bore, side, back, slot = 0.0125, 0.016, 0.027, -0.032, 0.0045
    ridge, ceiling = s.half_height + s.ridge_gap, s.half_height + s.latch_height + 3 * s.latch_thickness
    touch = 'class="contact"'
    walls = [
        ((-deep, w, -outer), (0.0, outer, outer)),
        ((-deep, -outer, -outer), (0.0, -w, outer)),
        ((-deep, -w, -outer), (0.0, w, -h)),
        ((-deep, slot, h), (0.0, w, outer)),
        ((-deep, -w, h), (0.0, -slot, outer)),
        ((-deep - 0.003, -outer, -outer), (-deep, outer, outer)),
        ((-deep, -slot, ceiling), (0.0, slot, outer)),
        ((-s.ridge, -slot, ridge), (0.0, slot, ceiling)),
    ]
    face = [  # a bright rim around the dark opening
        ((0.0, w, -outer), (0.0003, outer, outer)),
        ((0.0, -outer, -outer), (0.0003, -w, outer)),
        ((0.0, -w, -outer), (0.0003, w, -h)),
        ((0.0, slot, h), (0.0003, w, outer)),
        ((0.0, -w, h), (0.0003, -slot, outer)),
        ((0.0, -slot, ridge), (0.0003, slot, outer)),
    ]
    geoms = [mjcf.box(low, high, _DARK, touch) for low, high in walls]
    geoms += [mjcf.box(low, high, _IVORY) for low, high in face]
    geoms.append(mjcf.frame((back, s.sink), (bore, bore), (side, side), _TEAL, touch))
    geoms.append(mjcf.box((back, -bore, -bore), (-0.010, bore, bore), "0.25 0.25 0.27"))
    geoms.append(mjcf.box((-0.030, -0.016, -side - 0.09), (0.002, 0.016, -side), "0.5 0.3 0.2"))
    x, y, z = PORT_POSITION
    return f'<body name="work" pos="{x} {y} {z}">{"".join(geoms)}<site name="mouth"/></body>'
