"""An arm's measured tool pose (`pose_topic` of the robot file) against the one that the kinematics model has there."""

from __future__ import annotations

import mujoco
import numpy as np
from geometry_msgs.msg import PoseStamped

from rlt_common.config import ArmConfig, RobotConfig
from rlt_common.kinematics import ArmKinematics
from rlt_common.rotations import rotation_vector

UNIT_TOLERANCE = 1e-3
"""How far the squared length of a quaternion may be from 1."""


class MeasuredPose:
    """Judges the poses of one arm. Raises ValueError for a `pose_frame` or `pose_of` that the model does not have."""

    def __init__(self, robot: RobotConfig, arm: ArmConfig, kinematics: ArmKinematics) -> None:
        self._arm, self._kinematics = arm, kinematics
        self._frame_id = arm.pose_frame or robot.frame
        self._of = arm.pose_of or arm.tip
        try:
            self._base = kinematics.body_pose(arm.pose_frame) if arm.pose_frame else (np.zeros(3), np.eye(3))
            kinematics.pose_of(self._of, np.zeros(len(robot.joint_names)))
        except ValueError as error:
            raise ValueError(f"robot {robot.name}: arm {arm.name}: pose_topic: {error}") from error

    def refusal(self, message: PoseStamped, q: np.ndarray) -> str:
        """Why the arm must not move when this is measured at joints q (n,); "" while it may."""
        if message.header.frame_id != self._frame_id:
            return f"is in frame {message.header.frame_id!r}, the robot file says {self._frame_id!r}"
        at, turn = message.pose.position, message.pose.orientation
        quaternion = np.array([turn.w, turn.x, turn.y, turn.z])
        position = np.array([at.x, at.y, at.z])
        if not np.isfinite([*position, *quaternion]).all() or abs(quaternion @ quaternion - 1.0) > UNIT_TOLERANCE:
            return "holds a value that is not finite, or a quaternion that is no rotation"
        turned = np.empty(9)
        mujoco.mju_quat2Mat(turned, quaternion / np.linalg.norm(quaternion))
        origin, axes = self._base
        model_at, model_turn = self._kinematics.pose_of(self._of, q)
        off_m = float(np.linalg.norm(axes @ position + origin - model_at))
        off_rad = float(np.linalg.norm(rotation_vector(axes @ turned.reshape(3, 3) @ model_turn.T)))
        arm = self._arm
        if off_m > arm.pose_tolerance:
            return f"is {off_m * 1e3:.1f} mm from where the model has it, tolerance {arm.pose_tolerance * 1e3:g} mm"
        if off_rad > arm.pose_tolerance_rotation:
            return f"is turned by {off_rad:.3f} rad against the model, tolerance {arm.pose_tolerance_rotation:g} rad"
        return ""
