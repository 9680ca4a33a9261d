"""Charger: the two flat prongs of a charger in the right hand must go into the two slots of a socket that stands within
centimetres of where it is expected: it takes a look to find it, and the roll must fit.

The prongs are twice as thick as true ones, so that 64 px show the gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlt_sim import mjcf
from rlt_sim.arms import HAND_TO_GRIP, TOOL_LENGTH
from rlt_sim.expert import Expert, InsertionExpert, Sight, Temperament
from rlt_sim.task_scene import Depths, SceneOptions, SceneParts, TaskScene, TaskState

SOCKET_POSITION = (0.0, 0.0, 0.12)
"""Nominal position of the socket's mouth, the point between its slots, m."""
_WHITE, _SLOT, _STRIP = "0.93 0.93 0.90", "0.08 0.08 0.10", "0.30 0.50 0.38"
_BRASS, _BODY, _BAND, _BLACK = "0.98 0.75 0.10", "0.70 0.15 0.45", "0.85 0.35 0.60", "0.1 0.1 0.1"


@dataclass(frozen=True)
class ChargerSpec:
    """Sizes of charger and socket, m.

    Attributes:
        half_thickness, half_height: of a prong, along y and z.
        pitch: each prong lies this far from the middle.
        length: of the prongs, in front of the charger's body.
        taper_thickness, taper_height: how much narrower, on each side, a prong is at its very tip.
        taper_length: length of the tapered end.
        clearance: gap between prong and slot on each side when centred.
        depth: depth of the slots.
    """

    half_thickness: float = 0.0016
    half_height: float = 0.0040
    pitch: float = 0.0080
    length: float = 0.016
    taper_thickness: float = 0.0011
    taper_height: float = 0.0015
    taper_length: float = 0.004
    clearance: float = 0.0006
    depth: float = 0.0145


@dataclass(frozen=True)
class ChargerOptions(SceneOptions):
    """What a reset randomises, see SceneOptions, and what counts as what. SI units.

    Attributes:
        seated_depth: the prongs must be this deep, m.
    """

    position_range: float = 0.022
    yaw_range: float = 0.10
    pitch_range: float = 0.08
    roll_range: float = 0.25
    slip: float = 0.0012
    start_range: float = 0.008
    start_angle: float = 0.08
    full_distance: float = 0.035
    hand_off_distance: float = 0.060
    seated_depth: float = 0.0125


class ChargerScene(TaskScene):
    """The socket and the charger."""

    name = "charger"
    options_type = ChargerOptions
    position_shape = (0.4, 1.0, 1.0)

    def __init__(self, spec: ChargerSpec | None = None) -> None:
        self.spec = spec or ChargerSpec()

    def parts(self) -> SceneParts:
        """See TaskScene."""
        right = mjcf.camera("right_wrist", (0.060, 0.0, 0.100), (0.148, 0.0, 0.0), 38) + mjcf.box(
            (0.033, -0.014, 0.095), (0.057, 0.014, 0.115), _BLACK, 'mass="0.02"'
        )
        left = mjcf.camera("left_wrist", (0.010, 0.120, 0.065), (0.150, 0.022, 0.0), 26) + mjcf.box(
            (-0.018, 0.115, 0.061), (0.006, 0.139, 0.085), _BLACK, 'mass="0.02"'
        )
        base = mjcf.camera("base", (0.085, -0.150, 0.235), (0.009, 0.0, 0.120), 24)
        s = self.spec
        taper = mjcf.frustum(
            "taper",
            (TOOL_LENGTH - s.taper_length, s.half_thickness, s.half_height),
            (TOOL_LENGTH, s.half_thickness - s.taper_thickness, s.half_height - s.taper_height),
        )
        return SceneParts(left, right, "", _charger(s), base + _socket(s), taper)

    def depths(self) -> Depths:
        """See TaskScene."""
        return Depths(inside=self.spec.depth, far=0.10, aside=0.036, play=self.spec.clearance)

    def place_inserted(self, options: ChargerOptions, depth: float, rng: np.random.Generator) -> None:
        """Nothing else moves."""

    def state(self, options: ChargerOptions) -> TaskState:
        """See TaskScene."""
        tip, tilt, roll = self.relative_pose()
        inside = bool(np.abs(tip[1:]).max() < self.spec.half_thickness + self.spec.clearance)
        return TaskState(
            tip_error_m=tip,
            tilt_rad=tilt,
            roll_error_rad=roll,
            progress=float(np.clip(-tip[0] / options.seated_depth, 0.0, 1.0)) if inside else 0.0,
            success=bool(inside and -tip[0] > options.seated_depth),
            hand_off_ready=bool(np.linalg.norm(tip) < options.hand_off_distance),
        )

    def expert(self, sight: Sight, rng: np.random.Generator, temperament: Temperament | None = None) -> Expert:
        """See TaskScene."""
        return ChargerExpert(sight, rng, temperament)


class ChargerExpert(InsertionExpert):
    """Searches, probes, and pushes home."""

    temperament = Temperament(speed=0.0005, patience=1.5, max_probes=2)


def _charger(s: ChargerSpec) -> str:
    """The charger, in the frame of the right hand."""
    front = TOOL_LENGTH - s.length
    body = mjcf.box((-0.008, -0.015, -0.009), (front - 0.003, 0.015, 0.009), _BODY, 'mass="0.03"')
    band = mjcf.box((front - 0.003, -0.012, -0.007), (front, 0.012, 0.007), _BAND, 'mass="0.005"')
    prongs = "".join(
        mjcf.box(
            (front, y - s.half_thickness, -s.half_height),
            (TOOL_LENGTH - s.taper_length, y + s.half_thickness, s.half_height),
            _BRASS,
            'class="contact" mass="0.005"',
        )
        + f'<geom class="contact" type="mesh" mesh="taper" pos="0 {y} 0" rgba="{_BRASS} 1" mass="0.001"/>'
        for y in (-s.pitch, s.pitch)
    )
    return f"""
    <body name="tool" gravcomp="1" pos="{HAND_TO_GRIP} 0 0">
     {body}{band}{prongs}
     <site name="tip" pos="{TOOL_LENGTH} 0 0"/>
    </body>"""


def _socket(s: ChargerSpec) -> str:
    """The work piece: a power strip's end with one socket, its face at x = 0."""
    thick, high = s.half_thickness + s.clearance, s.half_height + s.clearance
    near, far = s.pitch - thick, s.pitch + thick
    wide, tall, back = 0.034, 0.026, -0.030
    plate_y, plate_z = 0.020, 0.015
    touch, skin = 'class="contact"', 0.0003
    geoms = [
        mjcf.frame((-s.depth, 0.0), (far, high), (plate_y, plate_z), _SLOT, touch),
        mjcf.box((-s.depth, -near, -high), (0.0, near, high), _SLOT, touch),
        mjcf.box((-s.depth - 0.004, -plate_y, -plate_z), (-s.depth, plate_y, plate_z), _SLOT, touch),
        mjcf.frame((back, -0.0005), (plate_y, plate_z), (wide, tall), _STRIP, touch),
        # a bright face around the dark slots
        mjcf.frame((0.0, skin), (far, high), (plate_y, plate_z), _WHITE),
        mjcf.box((0.0, -near, -high), (skin, near, high), _WHITE),
        mjcf.box((-0.030, -0.016, -tall - 0.08), (-0.004, 0.016, -tall), "0.5 0.3 0.2"),
    ]
    x, y, z = SOCKET_POSITION
    return f'<body name="work" pos="{x} {y} {z}">{"".join(geoms)}<site name="mouth"/></body>'
