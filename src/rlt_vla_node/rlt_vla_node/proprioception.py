"""Joint states to the proprioception blocks of an observation: ordered joints, and tool poses relative to home."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.kinematics import build_kinematics
from rlt_common.rotations import rotation_matrix, rotation_vector


class JointStateError(ValueError):
    """A joint state that lacks a joint or a quantity, or holds a value that is not finite."""


class Proprioception:
    """Builds the blocks joint_position, joint_velocity, joint_effort and ee_pose of one robot."""

    def __init__(self, robot: RobotConfig) -> None:
        """Raises ValueError when the kinematics model misses a joint or a tip."""
        self._robot = robot
        self._kinematics = build_kinematics(robot)
        self._homes = [
            (np.array(arm.home_position), rotation_matrix(np.array(arm.home_rotation)).T) for arm in robot.arms
        ]
        self._names: list[str] = []
        self._order: list[int] = []

    def blocks(
        self, names: Sequence[str], position: Sequence[float], velocity: Sequence[float], effort: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Every block as (n,) float32 in SI units, from the fields of a sensor_msgs/JointState in any joint order.

        Raises JointStateError naming what is missing or not finite.
        """
        if list(names) != self._names:
            self._learn_order(list(names))
        joints = {
            "joint_position": self._ordered("position", position),
            "joint_velocity": self._ordered("velocity", velocity),
            "joint_effort": self._ordered("effort", effort),
        }
        blocks = {name: values.astype(np.float32) for name, values in joints.items()}
        blocks["ee_pose"] = self._tool_poses(joints["joint_position"]).astype(np.float32)
        return blocks

    def _tool_poses(self, q: np.ndarray) -> np.ndarray:
        """Per arm [x y z (m), rotation vector (rad)] relative to its home pose, world axes."""
        parts = []
        for (position, rotation), (home, home_inverse) in zip(self._kinematics.forward(q), self._homes, strict=True):
            parts += [position - home, rotation_vector(rotation @ home_inverse)]
        return np.concatenate(parts)

    def _learn_order(self, names: list[str]) -> None:
        missing = [joint for joint in self._robot.joint_names if joint not in names]
        if missing:
            raise JointStateError(f"joint states have no joint {missing[0]!r}: they name {', '.join(names)}")
        self._order = [names.index(joint) for joint in self._robot.joint_names]
        self._names = names

    def _ordered(self, what: str, values: Sequence[float]) -> np.ndarray:
        if len(values) != len(self._names):
            raise JointStateError(
                f"joint states have {len(values)} {what} values for {len(self._names)} joints: the driver must publish "
                "position, velocity and effort of every joint"
            )
        ordered = np.asarray(values, dtype=np.float64)[self._order]
        if not np.isfinite(ordered).all():
            joint = self._robot.joint_names[int(np.argmin(np.isfinite(ordered)))]
            raise JointStateError(f"joint states: {what} of {joint} is not finite")
        return ordered
