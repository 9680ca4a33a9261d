"""What a task brings into the cell: the interface of a scene, and what all scenes share.

Every scene has a tool in the right hand that must go into an opening. Its MJCF names these:

- body `tool`: what is held; its position in the hand is drawn at each reset (grasp slip);
- body `work`: what holds the opening; its pose is drawn at each reset;
- site `tip`: where the tool really ends, x forwards along the tool, turned as RIGHT_FACING when it fits;
- site `mouth`: the opening, x outwards.

The state of the task is privileged: it is for the scripted expert, the scripted operator, the evaluation and the labels
of pre-training images, never for a policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import mujoco
import numpy as np

from rlt_common.kinematics import Pose
from rlt_common.rotations import rotation_matrix
from rlt_sim.arms import ARMS, HOME_POSITIONS, HOME_ROTATIONS, RIGHT_FACING

if TYPE_CHECKING:
    from rlt_sim.expert import Expert, Sight, Temperament

PlaceArms = Callable[[list[Pose], int], None]
"""Puts both tools at poses, left then right, without physics: (poses, iterations of inverse kinematics)."""


@dataclass(frozen=True)
class SceneOptions:
    """What a reset randomises (uniform in plus or minus the value) and when the critical phase begins. SI units.

    Attributes:
        position_range: position of the work piece, m, times the scene's `position_shape` along x, y and z.
        yaw_range, pitch_range: tilt of the opening's axis, rad.
        roll_range: angle of the opening about its axis, rad.
        slip: position of the tool in the grasp, per axis, m.
        start_range: position of each tool around its start, m.
        start_angle: yaw of each tool around its start, rad.
        full_distance: how much further out the right arm starts with start_in="full", m.
        hand_off_distance: the critical phase may begin when the tip is this near to the mouth, m.
    """

    position_range: float
    yaw_range: float
    pitch_range: float
    roll_range: float
    slip: float
    start_range: float
    start_angle: float
    full_distance: float
    hand_off_distance: float


@dataclass(frozen=True)
class TaskState:
    """Privileged state of a task.

    Attributes:
        tip_error_m: (3,) tool tip in the mouth's frame (x outwards), m.
        tilt_rad: (2,) rotation of the tool against the mouth's axis about the frame's y and z, rad.
        roll_error_rad: angle between tool and opening about the axis, rad.
        progress: 0 to 1, how much of what success takes is done.
        success: the task is done.
        hand_off_ready: the tip is near enough to the mouth for the critical phase to begin.
    """

    tip_error_m: np.ndarray
    tilt_rad: np.ndarray
    roll_error_rad: float
    progress: float
    success: bool
    hand_off_ready: bool

    @property
    def axis_tilt_rad(self) -> float:
        """Angle between the tool's axis and the mouth's axis, rad."""
        return float(np.hypot(*self.tilt_rad))

    @property
    def label(self) -> np.ndarray:
        """Relative pose of tool and opening, (6,): tip error x y z (m), roll error, tilt about y and z (rad)."""
        return np.concatenate([self.tip_error_m, [self.roll_error_rad], self.tilt_rad])


@dataclass(frozen=True)
class SceneParts:
    """MJCF of a scene: in the frames of the two hands, in the world, and assets. A camera per name in arms.CAMERAS."""

    left_mount: str
    right_mount: str
    left_tool: str
    right_tool: str
    world: str
    assets: str


@dataclass(frozen=True)
class Depths:
    """Where random pre-training poses lie, m: `inside` the mouth at most, `far` outside it, `aside` of its axis.

    `play` is how far the tip may be off the axis inside, per side.
    """

    inside: float
    far: float
    aside: float
    play: float


class TaskScene(ABC):
    """One task's scene. It belongs to one cell, which binds it to the compiled model."""

    name: ClassVar[str]
    options_type: ClassVar[type[SceneOptions]]
    position_shape: ClassVar[tuple[float, float, float]] = (1.0, 1.0, 0.5)

    # ---- what a task must say

    @abstractmethod
    def parts(self) -> SceneParts:
        """The scene's MJCF."""

    @abstractmethod
    def state(self, options: SceneOptions) -> TaskState:
        """The privileged state now."""

    @abstractmethod
    def depths(self) -> Depths:
        """Where random pre-training poses lie."""

    @abstractmethod
    def expert(self, sight: Sight, rng: np.random.Generator, temperament: Temperament | None) -> Expert:
        """The scripted tele-operator of one episode, which sees a cell that was just reset."""

    @abstractmethod
    def place_inserted(self, options: SceneOptions, depth: float, rng: np.random.Generator) -> None:
        """Make the scene look as it does with the tip `depth` m inside (a random pose is about to be taken there)."""

    # ---- what a task may say otherwise

    def bind(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Find the scene's bodies in the compiled model."""
        self.model, self.data = model, data
        self._tool, self._work = model.body("tool").id, model.body("work").id
        self._tool_nominal = model.body_pos[self._tool].copy()
        self._work_nominal = model.body_pos[self._work].copy()
        self._work_rotation = np.zeros(9)
        mujoco.mju_quat2Mat(self._work_rotation, model.body_quat[self._work])
        self._work_rotation = self._work_rotation.reshape(3, 3)
        self._tip, self._mouth = model.site("tip").id, model.site("mouth").id

    def place(self, options: SceneOptions, rng: np.random.Generator) -> None:
        """Draw the pose of the work piece and of the tool in the hand (before mj_forward)."""
        draw = rng.uniform(-1.0, 1.0, 9)
        self.model.body_pos[self._work] = self._work_nominal + draw[:3] * (
            np.array(self.position_shape) * options.position_range
        )
        yaw, pitch = draw[3] * options.yaw_range, draw[4] * options.pitch_range
        askew = rotation_matrix(np.array([0.0, 0.0, yaw])) @ rotation_matrix(np.array([0.0, pitch, 0.0]))
        self.place_roll(askew, draw[5] * options.roll_range)
        self.model.body_pos[self._tool] = self._tool_nominal + draw[6:] * options.slip

    def place_roll(self, askew: np.ndarray, roll: float) -> None:
        """Turn the work piece: `askew` (3, 3) tilts its axis, `roll` (rad) turns it about its axis."""
        turned = self._work_rotation @ askew @ rotation_matrix(np.array([roll, 0.0, 0.0]))
        mujoco.mju_mat2Quat(self.model.body_quat[self._work], turned.reshape(-1))

    def start_poses(self, options: SceneOptions, start_in: str, rng: np.random.Generator) -> list[Pose]:
        """Tool poses at the start of an episode, left then right."""
        away = options.full_distance if start_in == "full" else 0.0
        poses = []
        for arm in ARMS:
            shift = rng.uniform(-1.0, 1.0, 3) * options.start_range
            if arm == "right":
                shift[0] += away
            yaw = rng.uniform(-1.0, 1.0) * options.start_angle
            position = np.array(HOME_POSITIONS[arm]) + shift
            poses.append((position, rotation_matrix(np.array([0.0, 0.0, yaw])) @ HOME_ROTATIONS[arm]))
        return poses

    def random_pose(self, options: SceneOptions, place_arms: PlaceArms, rng: np.random.Generator) -> None:
        """After `place`: put both arms at random, the tip near the mouth or along the approach, without dynamics."""
        origin, frame = self.mouth_pose()
        offset, roll, tilt = self.random_offset(options, rng)
        rotation = frame @ rotation_matrix(np.array([0.0, *tilt]))
        rotation = rotation @ rotation_matrix(np.array([roll - self.opening_angle(), 0.0, 0.0])) @ RIGHT_FACING
        right = self.hand_pose(origin + frame @ offset, rotation)
        left = np.array(HOME_POSITIONS["left"]) + rng.uniform(-1.0, 1.0, 3) * 0.010
        left_rotation = rotation_matrix(np.array([0.0, 0.0, rng.uniform(-0.1, 0.1)])) @ HOME_ROTATIONS["left"]
        place_arms([(left, left_rotation), right], 12)

    def random_offset(self, options: SceneOptions, rng: np.random.Generator) -> tuple[np.ndarray, float, np.ndarray]:
        """Random tip in the mouth's frame: position (3,) m, roll rad, tilt about y and z (2,) rad; half lie near."""
        depths = self.depths()
        near = rng.random() < 0.5
        if near:
            spread = 0.002 if rng.random() < 0.5 else 0.005
            offset = np.array([rng.uniform(-depths.inside, 0.02), *rng.normal(0.0, spread, 2)])
        else:
            offset = np.array([rng.uniform(0.005, depths.far), *rng.uniform(-depths.aside, depths.aside, 2)])
        roll = rng.uniform(-0.3, 0.3)
        tilt = rng.normal(0.0, 0.03 if near else 0.12, 2)
        if offset[0] < 0.0:
            offset[1:] = np.clip(offset[1:], -depths.play, depths.play)
            roll, tilt = rng.normal(0.0, 0.05), np.clip(tilt, -0.05, 0.05)
            self.place_inserted(options, float(-offset[0]), rng)
        return offset, roll, tilt

    def hand_pose(self, tip: np.ndarray, rotation: np.ndarray) -> Pose:
        """Where the right tool pose must be for the tip to be at `tip` (3,) m, `rotation` (3, 3), in the world."""
        return tip - rotation @ self.tool_offset(), rotation

    def opening_angle(self) -> float:
        """Angle of the opening about the mouth's axis, rad, against the mouth's frame."""
        return 0.0

    # ---- what every task has

    def mouth_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m and rotation (3, 3) of the mouth in the world."""
        data = self.data
        return data.site_xpos[self._mouth].copy(), data.site_xmat[self._mouth].reshape(3, 3).copy()

    def tool_offset(self) -> np.ndarray:
        """(3,) slip of the tool in the grasp, in the hand's frame, m."""
        return self.model.body_pos[self._tool] - self._tool_nominal

    def relative_pose(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Tip in the mouth's frame: position (3,) m, tilt about y and z (2,) rad, roll against the opening rad."""
        data = self.data
        origin, frame = self.mouth_pose()
        tip = frame.T @ (data.site_xpos[self._tip] - origin)
        tool = frame.T @ data.site_xmat[self._tip].reshape(3, 3)
        tilt = np.array([tool[2, 0], -tool[1, 0]])
        return tip, tilt, float(np.arctan2(-tool[2, 1], -tool[1, 1]) + self.opening_angle())
