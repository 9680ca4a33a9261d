"""What the scripted operator is told of the cell, in place of the cell itself: messages to what the expert sees."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped

from rlt_common.kinematics import Pose
from rlt_msgs.msg import SimulationState
from rlt_sim.task_scene import TaskState


@dataclass
class ToldSight:
    """Expert's sight of what it was told last."""

    state: TaskState
    mouth: Pose
    tools: list[Pose]

    def task_state(self) -> TaskState:
        """See expert.Sight."""
        return self.state

    def mouth_pose(self) -> Pose:
        """See expert.Sight."""
        return self.mouth

    def tool_poses(self) -> list[Pose]:
        """See expert.Sight."""
        return self.tools


def task_state(message: SimulationState) -> TaskState:
    """The privileged state that a message tells."""
    label = np.asarray(message.task_error, dtype=np.float64)
    return TaskState(
        tip_error_m=label[:3],
        roll_error_rad=float(label[3]),
        tilt_rad=label[4:],
        progress=message.progress,
        success=message.success,
        hand_off_ready=message.hand_off_ready,
    )


def pose_message(pose: Pose, stamp: Time, frame: str) -> PoseStamped:
    """A pose as a message."""
    message = PoseStamped()
    message.header.stamp, message.header.frame_id = stamp, frame
    position, quaternion = message.pose.position, np.zeros(4)
    position.x, position.y, position.z = pose[0].tolist()
    mujoco.mju_mat2Quat(quaternion, pose[1].reshape(-1))
    turn = message.pose.orientation
    turn.w, turn.x, turn.y, turn.z = quaternion.tolist()
    return message


def pose_of(message: PoseStamped) -> Pose:
    """The pose that a message tells."""
    position, turn, matrix = message.pose.position, message.pose.orientation, np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.array([turn.w, turn.x, turn.y, turn.z]))
    return np.array([position.x, position.y, position.z]), matrix.reshape(3, 3)
