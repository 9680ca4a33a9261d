"""Joint states to the proprioception blocks of an observation: ordered joints, and tool poses relative to home."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.joint_states import JointOrder, JointStateError
from rlt_common.kinematics import build_kinematics
from rlt_common.rotations import rotation_matrix, rotation_vector


class Proprioception:
    """Builds the blocks joint_position, joint_velocity, joint_effort and ee_pose of one robot."""

    def __init__(self, robot: RobotConfig) -> None:
        """Raises ValueError when the kinematics model misses a joint or a tip."""
        self._robot = robot
        self._kinematics = build_kinematics(robot)
        self._homes = [
            (np.array(arm.home_position), rotation_matrix(np.array(arm.home_rotation)).T) for arm in robot.arms
        ]
        self._order = JointOrder(robot.joint_names)

    def blocks(
        self, names: Sequence[str], position: Sequence[float], velocity: Sequence[float], effort: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Every block as (n,) float32 in SI units, from the fields of a sensor_msgs/JointState in any joint order.

        Raises JointStateError naming what is missing or not finite.
        """
        try:
            self._order.learn(names)
            joints = {
                "joint_position": self._order.pick(position, "positions"),
                "joint_velocity": self._order.pick(velocity, "velocities"),
                "joint_effort": self._order.pick(effort, "efforts"),
            }
        except JointStateError as error:
            raise JointStateError(
                f"joint_states {error}: every joint needs position, velocity and effort, or `missing` in states"
            ) from error
        blocks = {name: values.astype(np.float32) for name, values in joints.items()}
        blocks["ee_pose"] = self._tool_poses(joints["joint_position"]).astype(np.float32)
        return blocks

    def _tool_poses(self, q: np.ndarray) -> np.ndarray:
        """Per arm [x y z (m), rotation vector (rad)] relative to its home pose, world axes."""
        parts = []
        for (position, rotation), (home, home_inverse) in zip(self._kinematics.forward(q), self._homes, strict=True):
            parts += [position - home, rotation_vector(rotation @ home_inverse)]
        return np.concatenate(parts)
