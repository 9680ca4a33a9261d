"""The plant: MuJoCo stepped at the control rate, joint position targets in, joints and images out.

The task: the right arm's driver, a square bit held with a small unknown slip, must enter the square recess
of a screw whose block stands a little off and askew, and then turn the screw. Torque reaches the screw
through contact only.

`task_state` is privileged: it is for the scripted expert, the scripted operator and the evaluation, never
for a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import mujoco
import numpy as np

from rlt_common.kinematics import ArmKinematics, Pose
from rlt_common.rotations import rotation_matrix
from rlt_control.delta_pose import MotionLimits
from rlt_sim.cameras import RayCamera
from rlt_sim.scene import (
    ARMS,
    CAMERAS,
    CHAINS,
    HOME_JOINTS,
    HOME_POSITIONS,
    HOME_ROTATIONS,
    JOINT_NAMES,
    SCREW_POSITION,
    SceneSpec,
    arms_xml,
    cell_xml,
)

CONTROL_PERIOD_S = 0.02
_QUARTER = np.pi / 2.0


@dataclass(frozen=True)
class CellOptions:
    """What a reset randomises (uniform in plus or minus the value) and what counts as what. SI units.

    Attributes:
        position_range: position of the block along x and y; half of it along z, m.
        yaw_range, pitch_range: tilt of the screw's axis, rad.
        roll_range: angle of the recess about the screw's axis, rad.
        slip: position of the bit in the grasp, per axis, m.
        start_range: position of each tool around its start, m.
        start_angle: yaw of each tool around its start, rad.
        full_distance: how much further out the right arm starts with start_in="full", m.
        hand_off_distance: the critical phase may begin when the bit is this near to the mouth, m.
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
class TaskState:
    """Privileged state of the task.

    Attributes:
        tip_error_m: (3,) bit tip in the screw's frame (x out of the recess; 0 at the face of the head), m.
        tilt_rad: (2,) rotation of the bit against the screw's axis about the frame's y and z, rad.
        roll_error_rad: angle between bit and recess about the axis, modulo a quarter turn, in [-pi/4, pi/4], rad.
        turned_rad: how far the screw has been turned since the reset, rad, positive when tightened.
        engaged: the bit is seated in the recess.
        success: the screw is turned past the angle with the bit seated.
        hand_off_ready: the bit is near enough to the mouth for the critical phase to begin.
    """

    tip_error_m: np.ndarray
    tilt_rad: np.ndarray
    roll_error_rad: float
    turned_rad: float
    engaged: bool
    success: bool
    hand_off_ready: bool

    @property
    def axis_tilt_rad(self) -> float:
        """Angle between the bit's axis and the screw's axis, rad."""
        return float(np.hypot(*self.tilt_rad))


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


class Cell:
    """The simulated cell.

    Args:
        options: randomisation and task thresholds.
        spec: sizes of driver and screw.
        image_size: width and height of the images, px.
    """

    def __init__(self, options: CellOptions | None = None, spec: SceneSpec | None = None, image_size: int = 64) -> None:
        self.options = options or CellOptions()
        self.spec = spec or SceneSpec()
        self._active = self.options
        self._model = mujoco.MjModel.from_xml_string(cell_xml(self.spec))
        self._data = mujoco.MjData(self._model)
        model = self._model
        self._substeps = round(CONTROL_PERIOD_S / model.opt.timestep)
        self._qpos = np.array([model.joint(name).qposadr[0] for name in JOINT_NAMES])
        self._dof = np.array([model.joint(name).dofadr[0] for name in JOINT_NAMES])
        self._servo = np.array([model.actuator(name).id for name in JOINT_NAMES])
        self._grippers = np.array([JOINT_NAMES.index(f"{arm}_gripper") for arm in ARMS])
        self._fingers = np.array([model.joint(f"{arm}_finger").qposadr[0] for arm in ARMS])
        self._finger_servo = np.array([model.actuator(f"{arm}_finger").id for arm in ARMS])
        self._screw_qpos = model.joint("screw").qposadr[0]
        self._block, self._bit = model.body("block").id, model.body("bit").id
        self._bit_nominal = model.body_pos[self._bit].copy()
        self._bit_tip, self._mouth = model.site("bit_tip").id, model.site("mouth").id
        self._cameras = [RayCamera(model, name, image_size) for name in CAMERAS]
        self._arms = make_kinematics()
        self._home = self._solve_home()
        self._screw_start = 0.0
        self.steps = 0
        """Control steps since the last reset."""

    def reset(
        self, seed: int, start_in: str = "full", options: Mapping[str, float] | CellOptions | None = None
    ) -> None:
        """Place block, bit and arms at random.

        Args:
            seed: the same seed, start and options give the same episode, whatever came before.
            start_in: "critical" (a few cm from the screw) or "full" (further out, with a free-space approach).
            options: replaces the cell's options until the next reset; a mapping changes the named fields only.

        Raises:
            ValueError: unknown start or unknown option.
        """
        if start_in not in ("critical", "full"):
            raise ValueError(f"start_in is '{start_in}': it must be 'critical' or 'full'")
        self._active = self._resolve(options)
        rng = np.random.default_rng(seed)
        self.place_scene(rng)
        away = self._active.full_distance if start_in == "full" else 0.0
        poses = []
        for arm in ARMS:
            shift = rng.uniform(-1.0, 1.0, 3) * self._active.start_range
            if arm == "right":
                shift[0] += away
            yaw = rng.uniform(-1.0, 1.0) * self._active.start_angle
            position = np.array(HOME_POSITIONS[arm]) + shift
            poses.append((position, rotation_matrix(np.array([0.0, 0.0, yaw])) @ HOME_ROTATIONS[arm]))
        self.place_arms(poses)
        for _ in range(2 * self._substeps):  # let contacts and servos settle
            mujoco.mj_step(self._model, self._data)
        self.steps = 0

    def place_scene(self, rng: np.random.Generator) -> None:
        """Reset the physics and draw the pose of block, screw and bit; the arms stand at home."""
        model, data, opt = self._model, self._data, self._active
        mujoco.mj_resetData(model, data)
        draw = rng.uniform(-1.0, 1.0, 9)
        spread = np.array([1.0, 1.0, 0.5]) * opt.position_range
        model.body_pos[self._block] = np.array(SCREW_POSITION) + draw[:3] * spread
        yaw, pitch = draw[3] * opt.yaw_range, draw[4] * opt.pitch_range
        askew = rotation_matrix(np.array([0.0, 0.0, yaw])) @ rotation_matrix(np.array([0.0, pitch, 0.0]))
        mujoco.mju_mat2Quat(model.body_quat[self._block], askew.reshape(-1))
        self._screw_start = draw[5] * opt.roll_range
        data.qpos[self._screw_qpos] = self._screw_start
        model.body_pos[self._bit] = self._bit_nominal + draw[6:] * opt.slip
        data.qpos[self._qpos] = self._home
        mujoco.mj_forward(model, data)

    def place_arms(self, poses: list[tuple[np.ndarray, np.ndarray]], iterations: int = 30) -> None:
        """Put the tools at the poses (position, rotation), left then right, without physics, servos holding there."""
        q = self._arms.inverse(self._home, poses, iterations)
        self._data.qpos[self._qpos] = q
        self._data.qpos[self._fingers] = q[self._grippers]
        self._data.qvel[:] = 0.0
        self._command(q)
        mujoco.mj_forward(self._model, self._data)

    def turn_screw(self, angle: float) -> None:
        """Turn the screw by `angle` rad from where it is, without physics."""
        self._data.qpos[self._screw_qpos] += angle
        mujoco.mj_forward(self._model, self._data)

    def apply(self, joint_targets: np.ndarray) -> None:
        """Advance one control step (20 ms) with joint position targets (14,), rad and m."""
        targets = np.asarray(joint_targets, dtype=np.float64)
        if targets.shape != (len(JOINT_NAMES),) or not np.isfinite(targets).all():
            raise ValueError(f"joint targets must be {len(JOINT_NAMES)} finite numbers, got {joint_targets!r}")
        self._command(targets)
        for _ in range(self._substeps):
            mujoco.mj_step(self._model, self._data)
        self.steps += 1

    def joint_state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position (rad, m), velocity (rad/s, m/s) and effort (N m, N) of the 14 joints, each (14,) float64."""
        data = self._data
        return data.qpos[self._qpos].copy(), data.qvel[self._dof].copy(), data.actuator_force[self._servo].copy()

    def tool_poses(self) -> list[Pose]:
        """Nominal tool poses of the measured joints, left then right: what proprioception knows, without the slip."""
        return self._arms.forward(self._data.qpos[self._qpos])

    def images(self) -> np.ndarray:
        """Images of the cameras in the order of scene.CAMERAS: (3, size, size, 3) uint8 RGB."""
        return np.stack([camera.render(self._data) for camera in self._cameras])

    def mouth_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m and rotation (3, 3) of the screw's frame in the world (privileged)."""
        data = self._data
        return data.site_xpos[self._mouth].copy(), data.site_xmat[self._mouth].reshape(3, 3).copy()

    def bit_offset(self) -> np.ndarray:
        """(3,) slip of the bit in the grasp, in the tool's frame, m (privileged)."""
        return self._model.body_pos[self._bit] - self._bit_nominal

    def screw_angle(self) -> float:
        """Angle of the recess about the screw's axis, rad (privileged)."""
        return float(self._data.qpos[self._screw_qpos])

    def task_state(self) -> TaskState:
        """Privileged state of the task, see TaskState."""
        data, opt = self._data, self._active
        origin, frame = self.mouth_pose()
        tip = frame.T @ (data.site_xpos[self._bit_tip] - origin)
        bit = frame.T @ data.site_xmat[self._bit_tip].reshape(3, 3)
        tilt = np.array([bit[2, 0], -bit[1, 0]])
        roll = np.arctan2(-bit[2, 1], -bit[1, 1]) + data.qpos[self._screw_qpos]
        roll_error = float((roll + _QUARTER / 2.0) % _QUARTER - _QUARTER / 2.0)
        turned = float(data.qpos[self._screw_qpos] - self._screw_start)
        inner = self.spec.bit_half_width + self.spec.clearance
        engaged = bool(tip[0] < -opt.seated_depth and np.abs(tip[1:]).max() < inner)
        return TaskState(
            tip_error_m=tip,
            tilt_rad=tilt,
            roll_error_rad=roll_error,
            turned_rad=turned,
            engaged=engaged,
            success=bool(engaged and turned >= opt.turn_angle),
            hand_off_ready=bool(np.linalg.norm(tip) < opt.hand_off_distance),
        )

    def _command(self, targets: np.ndarray) -> None:
        self._data.ctrl[self._servo] = targets
        self._data.ctrl[self._finger_servo] = targets[self._grippers]

    def _solve_home(self) -> np.ndarray:
        start = np.array([*HOME_JOINTS, 0.0] * len(ARMS))
        poses = [(np.array(HOME_POSITIONS[arm]), HOME_ROTATIONS[arm]) for arm in ARMS]
        return self._arms.inverse(start, poses, 200)

    def _resolve(self, options: Mapping[str, float] | CellOptions | None) -> CellOptions:
        if options is None:
            return self.options
        if isinstance(options, CellOptions):
            return options
        unknown = sorted(set(options) - {field.name for field in fields(CellOptions)})
        if unknown:
            known = ", ".join(field.name for field in fields(CellOptions))
            raise ValueError(f"unknown cell options {unknown}; known: {known}")
        return replace(self.options, **dict(options))
