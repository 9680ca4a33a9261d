"""A policy of LeRobot on the tiny robot: from a checkpoint to the robot's actions, and behind the real VLA node."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray
from node_rig import PERIOD_NS, Probe, Rig
from rclpy.serialization import serialize_message

from rlt_common import topics
from rlt_common.codecs import observation_to_msg, to_time
from rlt_common.vla_config import GripperScale
from rlt_msgs.msg import ChunkRequest, ControlState, EpisodeState, ExecutedAction, Observation, VlaOutput

pytest.importorskip("lerobot", reason="LeRobot is an extra: `make extras` installs requirements-lerobot.txt")

import tiny_lerobot as tiny

from rlt_vla_node.backends import open_backend
from rlt_vla_node.checkpoint import CheckpointError, load_checkpoint, save_vla_checkpoint
from rlt_vla_node.inference import FLOW_STEPS, flow_noise, noise_seed, run_batch, run_observation
from rlt_vla_node.layout import LayoutError
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token
from rlt_vla_node.vla_node import VlaNode, spin_some


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    tiny.write_smolvla(folder / "smolvla")
    tiny.write_act(folder / "act")
    return folder


def write_checkpoint(folder, config, *, adapted):
    """A checkpoint with a random RL token, as `adapt` writes one."""
    backend = open_backend(config)
    if adapted:
        backend.save_policy(folder / "policy")
    spec = backend.spec
    token = build_rl_token(RlTokenConfig(spec.embed_dim, spec.max_tokens, token_dim=8, heads=2), seed=1)
    return save_vla_checkpoint(folder, config, spec.fingerprint, token.eval(), {}, {}, adapted=adapted)


@pytest.mark.parametrize("kind", ["smolvla", "act"])
@pytest.mark.parametrize("adapted", [False, True])
def test_a_checkpoint_gives_the_robots_actions(root, tmp_path, cell, observation, kind, adapted):
    config = tiny.vla_file(root, kind, gripper=GripperScale(25.0, -0.5))
    digest = write_checkpoint(tmp_path / "vla", config, adapted=adapted)
    model = load_checkpoint(tmp_path / "vla").fitted(cell.robot, cell.task)
    assert model.hash == digest
    seen = observation(0, 0)
    batch = model.batch([seen])
    outputs = run_observation(model, batch, seed=3)
    assert outputs.rl_token.shape == (8,)
    assert outputs.reference.shape == (cell.task.horizon, cell.robot.action_dim)
    assert np.isfinite(outputs.reference).all()
    again = run_observation(model, batch, seed=3)
    assert outputs.reference.tobytes() == again.reference.tobytes()
    # The fingers go where the policy's chunk says, in its units.
    noise = flow_noise(3, tiny.ROWS, model.backend.spec.noise_dim)[None]
    _, chunk = model.backend.encode_and_sample(batch, steps=FLOW_STEPS, noise=noise)
    finger = seen.blocks["joint_position"][cell.robot.joint_names.index("left_gripper")]
    reached = finger + outputs.reference[:, 6].astype(np.float64).cumsum()
    np.testing.assert_allclose(reached, (chunk[0, : cell.task.horizon, 6].numpy() + 0.5) / 25.0, atol=1e-6)


def test_strided_observations_in_a_group_are_near_those_alone(root, tmp_path, cell, observation):
    write_checkpoint(tmp_path / "vla", tiny.vla_file(root, "smolvla"), adapted=False)
    model = load_checkpoint(tmp_path / "vla").fitted(cell.robot, cell.task)
    seen = [observation(i, i * PERIOD_NS) for i in range(3)]
    group = run_batch(model, model.batch(seen), [1, 2, 3], size=4)
    alone = run_observation(model, model.batch(seen[1:2]), seed=2)
    np.testing.assert_allclose(group.rl_token[1], alone.rl_token, atol=1e-5)
    np.testing.assert_allclose(group.reference[1], alone.reference, atol=1e-5)


def test_another_policy_in_its_place_is_refused(root, tmp_path, cell):
    tiny.write_act(tmp_path / "policy")
    write_checkpoint(tmp_path / "vla", tiny.vla_file(tmp_path, "policy"), adapted=False)
    with torch.no_grad():
        other = open_backend(tiny.vla_file(tmp_path, "policy"))
        next(other.module.parameters()).add_(0.01)
    other.save_policy(tmp_path / "policy")
    with pytest.raises(CheckpointError, match="trained on a VLA with fingerprint"):
        load_checkpoint(tmp_path / "vla")


def test_what_does_not_fit_the_robot_is_refused_at_the_start(root, tmp_path, cell):
    write_checkpoint(tmp_path / "narrow", tiny.vla_file(root, "act", state=tiny.PARTS[:2]), adapted=False)
    with pytest.raises(LayoutError, match=r"names 7 values in state, the policy \(LeRobot act\) has 14"):
        load_checkpoint(tmp_path / "narrow").fitted(cell.robot, cell.task)
    write_checkpoint(tmp_path / "act", tiny.vla_file(root, "act"), adapted=False)
    cameras = tuple(dataclasses.replace(camera, width=20) for camera in cell.robot.cameras)
    with pytest.raises(LayoutError, match=r"takes images of 16 x 16 .*camera base gives 20 x 16: .*width"):
        load_checkpoint(tmp_path / "act").fitted(dataclasses.replace(cell.robot, cameras=cameras), cell.task)


def test_the_node_answers_a_chunk_request_with_such_a_checkpoint(root, tmp_path, cell, start, observation):
    write_checkpoint(tmp_path / "vla", tiny.vla_file(root, "smolvla"), adapted=True)
    start(checkpoint=tmp_path / "vla", run_seed=5)
    outputs_of = ((topics.VLA_OUTPUT, VlaOutput, topics.QOS_STREAM), (topics.DIAGNOSTICS, DiagnosticArray, 10))
    inputs = (
        (topics.OBSERVATION, Observation, topics.QOS_OBSERVATION),
        (topics.CHUNK_REQUEST, ChunkRequest, topics.QOS_CONTROL),
        (topics.EPISODE_STATE, EpisodeState, topics.QOS_LATCHED),
        (topics.EXECUTED_ACTION, ExecutedAction, topics.QOS_STREAM),
        (topics.CONTROL_STATE, ControlState, topics.QOS_LATCHED),
    )
    rig = Rig(VlaNode(), Probe(outputs_of, inputs), spin_some)
    try:
        rig.until(rig.probe.matched, "discovery")
        seen, outputs = observation(0, 40 * PERIOD_NS), rig.probe.seen[topics.VLA_OUTPUT]
        request = ChunkRequest(request_id=9, episode_id=3, epoch=2, not_before=to_time(40 * PERIOD_NS), rows=10)
        rig.probe.out[topics.CHUNK_REQUEST].publish(request)
        rig.probe.out[topics.OBSERVATION].publish(observation_to_msg(seen, ["png", "png"], [0.0, 0.0]))
        rig.until(lambda: outputs, "the answer")
        rig.probe.out[topics.CHUNK_REQUEST].publish(request)
        rig.until(lambda: len(outputs) == 2, "the second answer")
    finally:
        rig.close()
    assert serialize_message(outputs[0]) == serialize_message(outputs[1])
    model = load_checkpoint(tmp_path / "vla").fitted(cell.robot, cell.task)
    wanted = run_observation(model, model.batch([seen]), noise_seed(5, 3, seen.observation_id))
    assert outputs[0].vla_hash == model.hash
    assert (outputs[0].horizon, outputs[0].action_dim) == (10, 14)
    assert outputs[0].rl_token.tobytes() == wanted.rl_token.tobytes()
    assert outputs[0].reference.tobytes() == wanted.reference.tobytes()
