"""Where a chunk of places is added to. Without it a lag of the arms would shift all that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.kinematics import ArmKinematics
from rlt_common.rotations import rotation_vector


@dataclass(frozen=True)
class Anchor:
    """What is commanded just before row `first` of a chunk: (d,) in the coordinates of the robot's actions.

    Per arm the tool's position (m), rotation vector (rad) and gripper (m), in the robot's frame; or joints (rad) and
    gripper (m).
    """

    first: int
    values: np.ndarray


def anchor_of_joints(robot: RobotConfig, kinematics: ArmKinematics, joints: Sequence[float], first: int) -> Anchor:
    """The anchor of joints (n,) that were commanded, or measured."""
    q = np.asarray(joints, np.float64)
    names = robot.joint_names
    values: list[np.ndarray] = []
    poses = kinematics.forward(q) if robot.actions == "tool_pose" else [None] * len(robot.arms)
    for arm, pose in zip(robot.arms, poses, strict=True):
        if pose is None:
            values.append(q[[names.index(joint) for joint in arm.joints]])
        else:
            values += [pose[0], rotation_vector(pose[1])]
        values.append(q[[names.index(arm.gripper)]])
    return Anchor(first, np.concatenate(values))
