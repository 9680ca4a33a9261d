"""Forward and inverse kinematics of one or more arms, with MuJoCo as the kinematics library.

The robot's joint vector q holds every joint in the robot's own order (arms and grippers). Each arm moves some of these
joints and has a tip: a site or a body of the model. Inverse kinematics is damped least squares with a fixed number of
iterations, so its time is bounded and it fits into a control tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.rotations import rotation_vector

Pose = tuple[np.ndarray, np.ndarray]
"""Position (3,) in m and rotation matrix (3, 3), both in the world frame."""


@dataclass(frozen=True)
class ArmChain:
    """One arm: the joints that move its tip, base to tip, and the name of the tip (a site, else a body)."""

    joints: tuple[str, ...]
    tip: str


class ArmKinematics:
    """Kinematics of a robot whose joint vector follows `joint_names`.

    Args:
        model: an MJCF or URDF file, or a loaded model. Bodies other than the arms do no harm.
        joint_names: (n,) every joint of q, in the robot's order.
        arms: the chains to solve for; their joints must be among `joint_names` and must not overlap.
        damping: weight of the joint step in the least squares, (m or rad)^2 per rad^2.
        max_joint_step: largest change of one joint in one iteration, rad; keeps singular poses harmless.

    Raises:
        ValueError: a joint or tip is missing from the model, or arms share joints.
    """

    def __init__(
        self,
        model: str | Path | mujoco.MjModel,
        joint_names: Sequence[str],
        arms: Sequence[ArmChain],
        damping: float = 1e-4,
        max_joint_step: float = 0.3,
    ) -> None:
        self._model = model if isinstance(model, mujoco.MjModel) else mujoco.MjModel.from_xml_path(str(model))
        self._data = mujoco.MjData(self._model)
        self.joint_names = tuple(joint_names)
        self.arms = tuple(arms)
        self._damping = damping * np.eye(6)
        self._max_joint_step = max_joint_step
        joint_ids = [self._id(mujoco.mjtObj.mjOBJ_JOINT, name, "joint") for name in self.joint_names]
        self._qpos = np.array([self._model.jnt_qposadr[i] for i in joint_ids])
        self._dof = np.array([self._model.jnt_dofadr[i] for i in joint_ids])
        limited = self._model.jnt_limited[joint_ids].astype(bool)
        limits = self._model.jnt_range[joint_ids]
        self.lower = np.where(limited, limits[:, 0], -np.inf)
        self.upper = np.where(limited, limits[:, 1], np.inf)
        """(n,) joint limits of the model, rad or m; infinite where the model has none."""
        taken = [name for arm in self.arms for name in arm.joints]
        if len(set(taken)) != len(taken):
            raise ValueError(f"arms share joints: {sorted(n for n in set(taken) if taken.count(n) > 1)}")
        missing = sorted(set(taken) - set(self.joint_names))
        if missing:
            raise ValueError(f"arm joints {missing} are not among the robot's joints {list(self.joint_names)}")
        self._columns = [np.array([self.joint_names.index(name) for name in arm.joints]) for arm in self.arms]
        self._tips = [self._find_tip(arm.tip) for arm in self.arms]
        self._jacobian = np.zeros((6, self._model.nv))

    def forward(self, q: np.ndarray) -> list[Pose]:
        """Tip poses for joint vector q (n,), one (position (3,) m, rotation (3, 3)) per arm, world frame."""
        self._set(self._checked(q))
        return [self._tip_pose(i) for i in range(len(self.arms))]

    def body_pose(self, name: str) -> Pose:
        """Pose of a body that no joint moves, world frame. Raises ValueError for any other."""
        body = self._id(mujoco.mjtObj.mjOBJ_BODY, name, "body")
        if self._model.body_weldid[body] != 0:
            raise ValueError(f"body '{name}' of the kinematics model moves: name a fixed one, such as an arm's base")
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.xpos[body].copy(), self._data.xmat[body].reshape(3, 3).copy()

    def pose_of(self, name: str, q: np.ndarray) -> Pose:
        """Pose of any site or body at joint vector q (n,), world frame. Raises ValueError when the model has none."""
        found = self._find_tip(name)
        self._set(self._checked(q))
        return self._pose(*found)

    def inverse(self, q: np.ndarray, targets: Sequence[Pose], iterations: int) -> np.ndarray:
        """Joint vector that brings every tip towards its target, starting from q.

        Always runs `iterations` iterations; joints outside the arms keep their value. Unreachable targets
        give the nearest compromise within the joint limits, without an error: compare `forward` with the
        target where it matters.

        Args:
            q: (n,) starting joint vector.
            targets: one (position (3,) m, rotation (3, 3)) per arm.
            iterations: number of damped least squares steps, at least 1.

        Returns:
            (n,) float64 joint vector within the model's limits for the arms' joints.
        """
        if len(targets) != len(self.arms):
            raise ValueError(f"{len(targets)} targets for {len(self.arms)} arms: give one pose per arm")
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}: it must be at least 1")
        q = self._checked(q).copy()
        for _ in range(iterations):
            self._set(q)
            mujoco.mj_comPos(self._model, self._data)
            for i, (position, rotation) in enumerate(targets):
                columns = self._columns[i]
                at, facing = self._tip_pose(i)
                error = np.concatenate([position - at, rotation_vector(rotation @ facing.T)])
                jac = self._tip_jacobian(i)[:, self._dof[columns]]
                step = jac.T @ np.linalg.solve(jac @ jac.T + self._damping, error)
                step = np.clip(step, -self._max_joint_step, self._max_joint_step)
                q[columns] = np.clip(q[columns] + step, self.lower[columns], self.upper[columns])
        return q

    def _id(self, kind: mujoco.mjtObj, name: str, what: str) -> int:
        index = mujoco.mj_name2id(self._model, kind, name)
        if index < 0:
            raise ValueError(f"the kinematics model has no {what} named '{name}': check the robot's configuration")
        return index

    def _find_tip(self, name: str) -> tuple[bool, int]:
        site = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_SITE, name)
        if site >= 0:
            return True, site
        return False, self._id(mujoco.mjtObj.mjOBJ_BODY, name, "site or body")

    def _checked(self, q: np.ndarray) -> np.ndarray:
        q = np.asarray(q, dtype=np.float64)
        if q.shape != (len(self.joint_names),):
            raise ValueError(f"joint vector has shape {q.shape}, expected ({len(self.joint_names)},)")
        if not np.isfinite(q).all():
            raise ValueError(f"joint vector has values that are not finite: {q}")
        return q

    def _set(self, q: np.ndarray) -> None:
        self._data.qpos[self._qpos] = q
        mujoco.mj_kinematics(self._model, self._data)

    def _tip_pose(self, arm: int) -> Pose:
        return self._pose(*self._tips[arm])

    def _pose(self, is_site: bool, index: int) -> Pose:
        data = self._data
        position, rotation = (
            (data.site_xpos[index], data.site_xmat[index]) if is_site else (data.xpos[index], data.xmat[index])
        )
        return position.copy(), rotation.reshape(3, 3).copy()

    def _tip_jacobian(self, arm: int) -> np.ndarray:
        is_site, index = self._tips[arm]
        jacobian = mujoco.mj_jacSite if is_site else mujoco.mj_jacBody
        jacobian(self._model, self._data, self._jacobian[:3], self._jacobian[3:], index)
        return self._jacobian


def build_kinematics(robot: RobotConfig) -> ArmKinematics:
    """Kinematics of the robot's arms. Raises ValueError when the model misses a joint or a tip."""
    chains = [ArmChain(arm.joints, arm.tip) for arm in robot.arms]
    return ArmKinematics(robot.kinematics_path, robot.joint_names, chains)
