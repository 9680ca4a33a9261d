"""The kinematics of the shipped robots, against what their makers publish."""

from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory

from rlt_common.config import load_robot
from rlt_common.kinematics import build_kinematics
from rlt_common.rotations import rotation_matrix, rotation_vector

ROBOTS = Path(get_package_share_directory("rlt_bringup")) / "config" / "robots"
NEAR = {  # an arm's joints not far from home
    "aloha": [0.1, -0.8, 1.0, 0.1, -0.2, 0.1, 0.05],
    "dual_ur5e": [0.1, -1.4, 1.7, -1.8, -1.4, 0.1, 0.04],
    "dual_ros2_control": [0.1, -1.4, 1.7, -1.8, -1.4, 0.1, 0.04],
    "dual_franka": [0.1, -0.6, 0.1, -2.2, 0.1, 1.4, 0.6, 0.02],
}


def denavit_hartenberg(rows, q):
    """Standard convention: Rz(theta) Tz(d) Tx(a) Rx(alpha)."""
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(rows, q, strict=True):
        c, s, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
        pose = pose @ np.array([[c, -s * ca, s * sa, a * c], [s, c * ca, -c * sa, a * s], [0, sa, ca, d], [0, 0, 0, 1]])
    return pose


def craig(rows, q):
    """Modified convention, as Franka publishes it: Rx(alpha) Tx(a) Rz(theta) Tz(d)."""
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(rows, q, strict=True):
        c, s, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
        pose = pose @ np.array(
            [[c, -s, 0, a], [s * ca, c * ca, -sa, -d * sa], [s * sa, c * sa, ca, d * ca], [0, 0, 0, 1]]
        )
    return pose


def screws(home, axes, q):
    """Product of exponentials in the space frame."""
    pose = np.eye(4)
    for screw, angle in zip(axes, q, strict=True):
        w, v = np.array(screw[:3]), np.array(screw[3:])
        hat = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
        step = np.eye(4)
        step[:3, :3] += np.sin(angle) * hat + (1 - np.cos(angle)) * hat @ hat
        step[:3, 3] = (np.eye(3) * angle + (1 - np.cos(angle)) * hat + (angle - np.sin(angle)) * hat @ hat) @ v
        pose = pose @ step
    return pose @ home


UR5E = [  # universal-robots.com, DH parameters for calculations of kinematics and dynamics
    (0, 0.1625, np.pi / 2),
    (-0.425, 0, 0),
    (-0.3922, 0, 0),
    (0, 0.1333, np.pi / 2),
    (0, 0.0997, -np.pi / 2),
    (0, 0.0996 + 0.16, 0),  # and the gripper of our file
]
FR3 = [  # frankarobotics.github.io, robot specifications; the flange is 0.107 m, our tip 0.1034 m further
    (0, 0.333, 0),
    (0, 0, -np.pi / 2),
    (0, 0.316, np.pi / 2),
    (0.0825, 0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0, 0, np.pi / 2),
    (0.088, 0, np.pi / 2),
    (0, 0.107 + 0.1034, 0),
]
VX300S_HOME = np.array([[1, 0, 0, 0.536494], [0, 1, 0, 0], [0, 0, 1, 0.42705], [0, 0, 0, 1.0]])
VX300S = [  # Interbotix, mr_descriptions.vx300s
    (0, 0, 1, 0, 0, 0),
    (0, 1, 0, -0.12705, 0, 0),
    (0, 1, 0, -0.42705, 0, 0.05955),
    (1, 0, 0, 0, 0.42705, 0),
    (0, 1, 0, -0.42705, 0, 0.35955),
    (1, 0, 0, 0, 0.42705, 0),
]
PUBLISHED = {
    "aloha": lambda q: screws(VX300S_HOME, VX300S, q),
    "dual_ur5e": lambda q: denavit_hartenberg(UR5E, q),
    "dual_franka": lambda q: craig(FR3, [*q, -np.pi / 4]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tool_stands_where_the_maker_s_kinematics_say(name):
    robot = load_robot(ROBOTS / f"{name}.yaml")
    kinematics = build_kinematics(robot)
    rng = np.random.default_rng(0)
    for _ in range(20):
        q = rng.uniform(np.maximum(kinematics.lower, -3.0), np.minimum(kinematics.upper, 3.0))
        for arm, (position, rotation) in zip(robot.arms, kinematics.forward(q), strict=True):
            origin, axes = kinematics.body_pose(arm.pose_frame or f"{arm.name}_mount")
            columns = [robot.joint_names.index(joint) for joint in arm.joints]
            pose = PUBLISHED[name](q[columns])
            np.testing.assert_allclose(axes.T @ (position - origin), pose[:3, 3], atol=1e-5)
            np.testing.assert_allclose(axes.T @ rotation, pose[:3, :3], atol=1e-5)


@pytest.mark.parametrize("name", NEAR)
def test_home_lies_in_the_workspace_and_the_arm_can_be_there(name):
    robot = load_robot(ROBOTS / f"{name}.yaml")
    kinematics = build_kinematics(robot)
    for arm in robot.arms:
        assert (np.array(arm.workspace_min) < arm.home_position).all()
        assert (np.array(arm.home_position) < arm.workspace_max).all()
    q = np.array(NEAR[name] * len(robot.arms))
    targets = [(np.array(arm.home_position), rotation_matrix(np.array(arm.home_rotation))) for arm in robot.arms]
    reached = kinematics.forward(kinematics.inverse(q, targets, 400))
    for (position, rotation), (at, facing) in zip(targets, reached, strict=True):
        np.testing.assert_allclose(at, position, atol=2e-3)
        assert np.linalg.norm(rotation_vector(rotation @ facing.T)) < 0.02
