"""Joint states to proprioception blocks."""

import numpy as np
import pytest

from rlt_common.joint_states import JointStateError
from rlt_common.kinematics import ArmChain, ArmKinematics
from rlt_common.rotations import rotation_matrix, rotation_vector
from rlt_vla_node.images import fit_image
from rlt_vla_node.proprioception import Proprioception


@pytest.fixture
def proprioception(cell):
    return Proprioception(cell.robot)


def test_joints_come_in_the_robots_order_whatever_the_drivers(proprioception, cell):
    rng = np.random.default_rng(0)
    names = list(cell.robot.joint_names)
    order = rng.permutation(len(names))
    position, velocity, effort = rng.uniform(0.0, 0.05, (3, len(names)))
    shuffled = [values[order] for values in (position, velocity, effort)]
    blocks = proprioception.blocks([names[i] for i in order], *shuffled)
    np.testing.assert_array_equal(blocks["joint_position"], position.astype(np.float32))
    np.testing.assert_array_equal(blocks["joint_velocity"], velocity.astype(np.float32))
    np.testing.assert_array_equal(blocks["joint_effort"], effort.astype(np.float32))
    again = proprioception.blocks(names, position, velocity, effort)
    np.testing.assert_array_equal(again["ee_pose"], blocks["ee_pose"])
    assert {name: values.size for name, values in blocks.items()} == cell.robot.block_sizes


def test_tool_poses_are_relative_to_home_in_the_world_frame(proprioception, cell):
    robot = cell.robot
    q = np.random.default_rng(1).uniform(0.0, 0.05, 14)
    kinematics = ArmKinematics(
        robot.kinematics_path, robot.joint_names, [ArmChain(arm.joints, arm.tip) for arm in robot.arms]
    )
    pose = proprioception.blocks(robot.joint_names, q, np.zeros(14), np.zeros(14))["ee_pose"].reshape(2, 6)
    for arm, (position, rotation), values in zip(robot.arms, kinematics.forward(q), pose, strict=True):
        np.testing.assert_allclose(values[:3] + arm.home_position, position, atol=1e-6)
        home = rotation_matrix(np.array(arm.home_rotation))
        expected = rotation_vector(rotation @ home.T)
        np.testing.assert_allclose(values[3:], expected, atol=1e-6)
        np.testing.assert_allclose(rotation_matrix(values[3:].astype(float)) @ home, rotation, atol=1e-6)


def test_missing_joints_quantities_and_values_that_are_not_finite_are_named(proprioception, cell):
    names = list(cell.robot.joint_names)
    zeros = np.zeros(14)
    with pytest.raises(JointStateError, match="no joint 'right_gripper'"):
        proprioception.blocks(names[:-1], zeros[:-1], zeros[:-1], zeros[:-1])
    with pytest.raises(JointStateError, match="0 efforts for 14 names"):
        proprioception.blocks(names, zeros, zeros, [])
    bad = zeros.copy()
    bad[2] = np.inf
    with pytest.raises(JointStateError, match="velocities of left_elbow is not finite"):
        proprioception.blocks(names, zeros, bad, zeros)


def test_an_image_of_the_right_size_is_not_touched():
    rgb = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert fit_image(rgb, 16, 24) is rgb


def test_an_image_is_cropped_to_the_middle_and_resized_by_area():
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, 8:56] = 200
    rgb[:, 32:56] = 100
    small = fit_image(rgb, 16, 16)
    assert small.shape == (16, 16, 3)
    assert (small[:, :8] == 200).all()
    assert (small[:, 8:] == 100).all()
