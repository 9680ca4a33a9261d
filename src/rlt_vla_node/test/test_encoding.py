"""Outputs of a VLA whose chunks say places: the references lead there from what is commanded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_policy import tiny_policy

from rlt_common.codecs import CodecError
from rlt_common.kinematics import build_kinematics
from rlt_common.rotations import rotation_matrix
from rlt_common.vla_config import VlaConfig
from rlt_msgs.msg import ChunkRequest
from rlt_vla_node import encoding
from rlt_vla_node.anchor import anchor_of_joints
from rlt_vla_node.encoding import EncodingConfig, Item, OutputEncoder
from rlt_vla_node.inference import FrozenModel, flow_noise
from rlt_vla_node.layout import FileLayout, LayoutError
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token

PARTS = ("left.joints", "left.gripper", "right.joints", "right.gripper")


@pytest.fixture
def encoder(cell):
    def make(prefetch=0, rate_hz=50.0, **robot):
        config = VlaConfig(
            backend="tiny",
            source="nowhere",
            control_hz=rate_hz,
            state=PARTS,
            actions=PARTS,
            action_kind="absolute",
            cameras={"a": "wrist", "b": "base"},
        )
        token = build_rl_token(RlTokenConfig(embed_dim=8, max_tokens=3, token_dim=4, heads=2), 1).eval()
        model = FrozenModel(tiny_policy(rate_hz=rate_hz), token, FileLayout(config), "0" * 16)
        task, own = (
            replace(cell.task, prefetch_steps=prefetch, chunk_length=6, execute_steps=6),
            replace(cell.robot, **robot),
        )
        return OutputEncoder(model.fitted(own, task), task, EncodingConfig(group_size=4), own), own

    return make


def reached(robot, anchor, reference, first, arm):
    """Tool position and rotation of an arm after the rows from `first` on are added to the anchor."""
    position, rotation = anchor[7 * arm : 7 * arm + 3].copy(), rotation_matrix(anchor[7 * arm + 3 : 7 * arm + 6])
    for row in reference[first:, 7 * arm : 7 * arm + 6].astype(np.float64):
        position, rotation = position + row[:3], rotation_matrix(row[3:]) @ rotation
    return position, rotation


@pytest.mark.parametrize("prefetch", [0, 4])
def test_a_boundary_and_a_strided_output_end_at_the_same_place_from_wherever_they_start(encoder, observation, prefetch):
    outputs, robot = encoder(prefetch)
    seen = observation(3, 0)
    kinematics = build_kinematics(robot)
    commanded = np.asarray(seen.blocks["joint_position"], np.float64) + 0.02
    values = anchor_of_joints(robot, kinematics, commanded, prefetch).values
    message = ChunkRequest(episode_id=1, boundary_step=6, first_step=6 + prefetch, anchor=values.tolist())
    boundary = outputs.boundary(seen, encoding.request(message))
    strided = outputs.strided([Item(1, 0, seen, commanded), Item(1, 0, seen)])
    np.testing.assert_allclose(boundary.anchor, values)
    assert boundary.anchor_row == prefetch
    np.testing.assert_allclose(strided[0].anchor, values, atol=1e-12)
    assert not strided[1].anchor
    reference = [np.reshape(output.reference, (10, 14)) for output in (boundary, *strided)]
    np.testing.assert_allclose(reference[1], reference[0], atol=1e-6)
    assert np.abs(reference[2] - reference[0])[prefetch].max() > 1e-3, (
        "without an anchor it starts where it is measured"
    )
    np.testing.assert_allclose(reference[2][prefetch + 1 :], reference[0][prefetch + 1 :], atol=1e-6)
    chunk = outputs.model.backend.encode_and_sample(
        outputs.model.batch([seen]),
        steps=5,
        noise=flow_noise(boundary.noise_seed, 12, 14)[None],
    )[1][0]
    goal = np.asarray(seen.blocks["joint_position"], np.float64)
    goal[:] = chunk[9].detach().double().numpy()
    for arm, (position, rotation) in enumerate(kinematics.forward(goal)):
        at, facing = reached(robot, values, reference[0], prefetch, arm)
        np.testing.assert_allclose(at, position, atol=1e-5)
        np.testing.assert_allclose(facing, rotation, atol=1e-5)


def test_cameras_come_in_the_policy_s_order(encoder, observation):
    outputs, _ = encoder()
    seen = observation(3, 0)
    batch = outputs.model.batch([seen])
    assert torch.equal(batch.images[0], torch.from_numpy(seen.images[[1, 0]]))


def test_a_robot_that_moves_from_the_measured_pose_needs_no_anchor(encoder, observation):
    outputs, _ = encoder(relative_to="measured")
    assert not outputs.anchored
    seen = observation(3, 0)
    assert not outputs.strided([Item(1, 0, seen, seen.blocks["joint_position"])])[0].anchor


def test_a_horizon_longer_than_the_policy_lasts_is_refused(encoder):
    with pytest.raises(LayoutError, match=r"last 6 control steps .* horizon 10"):
        encoder(rate_hz=100.0)


@pytest.mark.parametrize(
    ("anchor", "first", "words"),
    [
        ([0.0] * 13, 6, "13 values"),
        ([0.0] * 14, 16, "row 10"),
        ([np.nan] * 14, 6, "not finite"),
        ([0.0] * 14, 5, "before"),
    ],
)
def test_an_anchor_that_cannot_be_used_is_refused(encoder, observation, anchor, first, words):
    outputs, _ = encoder()
    message = ChunkRequest(episode_id=1, boundary_step=6, first_step=first, anchor=anchor)
    with pytest.raises(CodecError, match=words):
        outputs.boundary(observation(3, 0), encoding.request(message))
