"""The plant: MuJoCo stepped at the control rate, joint position targets in, joints and images out.

The arms and the cameras' names are the robot's, all else is the scene's of the task (task_scene.py). `task_state` is
privileged: it is for the scripted expert, the scripted operator and the evaluation, never for a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import mujoco
import numpy as np

from rlt_common.kinematics import Pose
from rlt_sim import mjcf
from rlt_sim.arms import (
    ARMS,
    CAMERAS,
    HOME_JOINTS,
    HOME_POSITIONS,
    HOME_ROTATIONS,
    JOINT_NAMES,
    actuators_xml,
    arm_xml,
    make_kinematics,
)
from rlt_sim.cameras import RayCamera
from rlt_sim.task_scene import SceneOptions, TaskScene, TaskState

CONTROL_PERIOD_S = 0.02


def cell_xml(scene: TaskScene) -> str:
    """MJCF of the whole cell: the arms with what the scene puts into their hands, and the scene's world."""
    parts = scene.parts()
    floor = '<geom type="plane" size="1 1 0.01" rgba="0.55 0.55 0.50 1"/>'
    arms = arm_xml("left", parts.left_mount, parts.left_tool) + arm_xml("right", parts.right_mount, parts.right_tool)
    return mjcf.document(floor + arms + parts.world, actuators_xml(), parts.assets)


class Cell:
    """The simulated cell.

    Args:
        scene: the task's scene; it belongs to this cell from now on.
        options: randomisation and task thresholds, of the scene's `options_type`; its defaults when None.
        image_size: width and height of the images, px.
    """

    def __init__(self, scene: TaskScene, options: SceneOptions | None = None, image_size: int = 64) -> None:
        self.scene = scene
        self.options = options or scene.options_type()
        self._active = self.options
        self._model = mujoco.MjModel.from_xml_string(cell_xml(scene))
        self._data = mujoco.MjData(self._model)
        model = self._model
        scene.bind(model, self._data)
        self._substeps = round(CONTROL_PERIOD_S / model.opt.timestep)
        self._qpos = np.array([model.joint(name).qposadr[0] for name in JOINT_NAMES])
        self._dof = np.array([model.joint(name).dofadr[0] for name in JOINT_NAMES])
        self._servo = np.array([model.actuator(name).id for name in JOINT_NAMES])
        self._grippers = np.array([JOINT_NAMES.index(f"{arm}_gripper") for arm in ARMS])
        self._fingers = np.array([model.joint(f"{arm}_finger").qposadr[0] for arm in ARMS])
        self._finger_servo = np.array([model.actuator(f"{arm}_finger").id for arm in ARMS])
        self._cameras = [RayCamera(model, name, image_size) for name in CAMERAS]
        self._arms = make_kinematics()
        self._home = self._solve_home()
        self.steps = 0
        """Control steps since the last reset."""

    def reset(
        self, seed: int, start_in: str = "full", options: Mapping[str, float] | SceneOptions | None = None
    ) -> None:
        """Place work piece, tool and arms at random.

        Args:
            seed: the same seed, start and options give the same episode, whatever came before.
            start_in: "critical" (a few cm from the mouth) or "full" (further out, with a free-space approach).
            options: replaces the cell's options until the next reset; a mapping changes the named fields only.

        Raises:
            ValueError: unknown start or unknown option.
        """
        if start_in not in ("critical", "full"):
            raise ValueError(f"start_in is '{start_in}': it must be 'critical' or 'full'")
        self._active = self._resolve(options)
        rng = np.random.default_rng(seed)
        self.place_scene(rng)
        self.place_arms(self.scene.start_poses(self._active, start_in, rng))
        for _ in range(2 * self._substeps):  # let contacts and servos settle
            mujoco.mj_step(self._model, self._data)
        self.steps = 0

    def place_scene(self, rng: np.random.Generator) -> None:
        """Reset the physics and draw the scene; the arms stand at home."""
        mujoco.mj_resetData(self._model, self._data)
        self.scene.place(self._active, rng)
        self._data.qpos[self._qpos] = self._home
        mujoco.mj_forward(self._model, self._data)

    def random_pose(self, rng: np.random.Generator) -> None:
        """Put the arms at a random pose in the scene as it was placed, without dynamics."""
        self.scene.random_pose(self._active, self.place_arms, rng)

    def place_arms(self, poses: list[Pose], iterations: int = 30) -> None:
        """Put the tools at the poses (position, rotation), left then right, without physics, servos holding there."""
        q = self._arms.inverse(self._home, poses, iterations)
        self._data.qpos[self._qpos] = q
        self._data.qpos[self._fingers] = q[self._grippers]
        self._data.qvel[:] = 0.0
        self._command(q)
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
        """Images of the cameras in the order of arms.CAMERAS: (3, size, size, 3) uint8 RGB."""
        return np.stack([camera.render(self._data) for camera in self._cameras])

    def mouth_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m and rotation (3, 3) of the mouth in the world (privileged)."""
        return self.scene.mouth_pose()

    def task_state(self) -> TaskState:
        """Privileged state of the task, see the scene's state."""
        return self.scene.state(self._active)

    def _command(self, targets: np.ndarray) -> None:
        self._data.ctrl[self._servo] = targets
        self._data.ctrl[self._finger_servo] = targets[self._grippers]

    def _solve_home(self) -> np.ndarray:
        start = np.array([*HOME_JOINTS, 0.0] * len(ARMS))
        poses = [(np.array(HOME_POSITIONS[arm]), HOME_ROTATIONS[arm]) for arm in ARMS]
        return self._arms.inverse(start, poses, 200)

    def _resolve(self, options: Mapping[str, float] | SceneOptions | None) -> SceneOptions:
        if options is None:
            return self.options
        if isinstance(options, SceneOptions):
            return options
        known = [field.name for field in fields(self.options)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"unknown cell options {unknown}; known: {', '.join(known)}")
        return replace(self.options, **dict(options))
