"""The nodes over real DDS, in this process and in the test session's own domain."""

import math
import shutil
import sys

import numpy as np
import pytest
import rclpy
import torch
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_rig import INGEST_INPUTS, INGEST_OUTPUTS, PERIOD_NS, Probe, Rig, image, joint_state
from rclpy.serialization import serialize_message

from rlt_common import topics
from rlt_common.codecs import observation_from_msg, observation_to_msg, to_time
from rlt_common.parameters import ParameterError
from rlt_msgs.msg import ChunkRequest, ControlState, EpisodeState, ExecutedAction, Observation, VlaOutput
from rlt_vla_node import camera_ingest_node, vla_node
from rlt_vla_node.camera_ingest_node import CameraIngestNode
from rlt_vla_node.checkpoint import load_checkpoint, save_checkpoint
from rlt_vla_node.handoff import HeadConfig, build_head, save_head
from rlt_vla_node.inference import noise_seed, run_observation
from rlt_vla_node.vla_node import VlaNode, spin_some

LAYOUT = (("ee_pose", 12), ("joint_effort", 14))


@pytest.fixture
def checkpoint(tmp_path, vla, rl_token):
    save_checkpoint(tmp_path / "checkpoint", vla, rl_token, LAYOUT, {}, {})
    return tmp_path / "checkpoint"


VLA_OUTPUTS = (
    (topics.VLA_OUTPUT, VlaOutput, topics.QOS_STREAM),
    (topics.DIAGNOSTICS, DiagnosticArray, topics.QOS_CONTROL),
)
VLA_INPUTS = (
    (topics.OBSERVATION, Observation, topics.QOS_OBSERVATION),
    (topics.CHUNK_REQUEST, ChunkRequest, topics.QOS_CONTROL),
    (topics.EPISODE_STATE, EpisodeState, topics.QOS_LATCHED),
    (topics.EXECUTED_ACTION, ExecutedAction, topics.QOS_STREAM),
    (topics.CONTROL_STATE, ControlState, topics.QOS_LATCHED),
)


@pytest.fixture
def vla_rig(start, checkpoint):
    start(checkpoint=checkpoint, run_seed=5)
    rig = Rig(VlaNode(), Probe(VLA_OUTPUTS, VLA_INPUTS), spin_some)
    rig.until(rig.probe.matched, "discovery")
    yield rig
    rig.close()


def message_of(data):
    return observation_to_msg(data, ["png", "png"], [0.0, 0.0])


def request_of(number, stamp_ns, episode=3, epoch=2):
    not_before = to_time(stamp_ns)
    return ChunkRequest(request_id=number, episode_id=episode, epoch=epoch, not_before=not_before, rows=10)


def test_a_request_is_answered_and_answered_again_with_the_same_bytes(vla_rig, checkpoint, observation, cell):
    probe, outputs = vla_rig.probe, vla_rig.probe.seen[topics.VLA_OUTPUT]
    seen = observation(0, 40 * PERIOD_NS)
    probe.out[topics.CHUNK_REQUEST].publish(request_of(9, 40 * PERIOD_NS))
    probe.out[topics.OBSERVATION].publish(message_of(observation(1, 38 * PERIOD_NS)))
    probe.out[topics.OBSERVATION].publish(message_of(seen))
    vla_rig.until(lambda: outputs, "the answer")
    probe.out[topics.CHUNK_REQUEST].publish(request_of(9, 40 * PERIOD_NS))
    vla_rig.until(lambda: len(outputs) == 2, "the second answer")
    assert serialize_message(outputs[0]) == serialize_message(outputs[1])
    output = outputs[0]
    assert (output.request_id, output.episode_id, output.epoch, output.is_boundary) == (9, 3, 2, True)
    assert output.observation_id == 40 * PERIOD_NS
    model = load_checkpoint(checkpoint)
    seed = noise_seed(5, 3, seen.observation_id)
    rl_token, reference, _ = run_observation(model, model.batch([seen]), seed)
    assert output.noise_seed == seed
    assert output.vla_hash == model.hash
    assert output.runtime.endswith(f"torch {torch.__version__}"), "the same bits are expected there alone"
    assert output.rl_token.tobytes() == rl_token.tobytes()
    assert output.reference.tobytes() == reference.tobytes()
    assert (output.horizon, output.action_dim) == (10, 14)
    assert math.isnan(output.handoff_probability), "there is no hand-off head"
    assert math.isnan(output.handoff_threshold)
    np.testing.assert_array_equal(output.rl_state, seen.state(cell.task.rl_state))


def head_for(checkpoint, vla_hash=None, width=16):
    """A random head beside the checkpoint."""
    head = build_head(HeadConfig(embed_dim=width, state_dim=26, hidden=4), seed=3)
    head.threshold = 0.75
    save_head(checkpoint, head, vla_hash or load_checkpoint(checkpoint).hash, {})
    return head.eval()


def test_with_a_head_every_output_says_how_likely_the_critical_phase_has_begun(start, checkpoint, observation):
    head = head_for(checkpoint)
    start(checkpoint=checkpoint, require_handoff=True)
    rig = Rig(VlaNode(), Probe(VLA_OUTPUTS, VLA_INPUTS), spin_some)
    rig.until(rig.probe.matched, "discovery")
    try:
        seen, outputs = observation(0, 0), rig.probe.seen[topics.VLA_OUTPUT]
        rig.probe.out[topics.CHUNK_REQUEST].publish(request_of(1, 0))
        rig.probe.out[topics.OBSERVATION].publish(message_of(seen))
        rig.until(lambda: outputs, "the answer")
    finally:
        rig.close()
    model = load_checkpoint(checkpoint)
    batch = model.batch([seen])
    with torch.inference_mode():
        prefix = model.backend.encode(batch)
        expected = float(head.probability(prefix.tokens, prefix.token_mask(), batch.state))
    assert 0.0 < expected < 1.0
    assert outputs[0].handoff_probability == pytest.approx(expected, abs=1e-6)
    assert outputs[0].handoff_threshold == 0.75


def test_on_a_robot_s_timer_the_vla_is_timed_before_anything_moves_and_says_how_far_ahead_to_ask(
    start, checkpoint, cell, tmp_path
):
    robot = tmp_path / "robot.yaml"
    shutil.copytree(cell.robot_path.parent, tmp_path, dirs_exist_ok=True)
    robot.write_text(robot.read_text().replace("tick: joint_states", "tick: timer"))
    start(checkpoint=checkpoint, robot=robot)
    rig = Rig(VlaNode(), Probe(VLA_OUTPUTS, VLA_INPUTS), spin_some)
    try:
        rig.until(rig.probe.matched, "discovery")
        rig.node.run_in_real_time()
        rig.until(lambda: rig.probe.level("vla")[0] == DiagnosticStatus.WARN, "the warning in /diagnostics")
        status = rig.probe.seen[topics.DIAGNOSTICS][-1].status[0]
        needed = next(int(v.value) for v in status.values if v.key == "prefetch_steps_needed")
        assert needed >= 2, "a chunk that takes any time at all must be asked for a stride ahead"
        assert f"prefetch_steps: {needed}" in status.message or f"{needed} steps ahead leave no" in status.message
        assert not rig.probe.seen[topics.VLA_OUTPUT], "what was tried out is no output"
    finally:
        rig.close()


def test_a_restarted_node_finds_the_observation_and_gives_the_same_answer(vla_rig, observation):
    probe, outputs = vla_rig.probe, vla_rig.probe.seen[topics.VLA_OUTPUT]
    probe.out[topics.OBSERVATION].publish(message_of(observation(0, 0)))
    probe.out[topics.CHUNK_REQUEST].publish(request_of(1, 0))
    vla_rig.until(lambda: outputs, "the answer")
    vla_rig.executor.remove_node(vla_rig.node)
    vla_rig.node.destroy_node()
    vla_rig.node = VlaNode()
    vla_rig.executor.add_node(vla_rig.node)
    vla_rig.until(probe.matched, "discovery of the new node")
    probe.out[topics.CHUNK_REQUEST].publish(request_of(1, 0))
    vla_rig.until(lambda: len(outputs) == 2, "the answer of the new node")
    assert outputs[1].reference == outputs[0].reference
    assert outputs[1].rl_token == outputs[0].rl_token


def test_proprioception_that_is_not_finite_is_refused_and_reported(vla_rig, observation):
    probe, outputs = vla_rig.probe, vla_rig.probe.seen[topics.VLA_OUTPUT]
    bad = observation(0, 0)
    bad.blocks["ee_pose"][3] = np.nan
    probe.out[topics.CHUNK_REQUEST].publish(request_of(1, 0))
    probe.out[topics.OBSERVATION].publish(message_of(bad))
    vla_rig.until(lambda: probe.level("vla")[0] == DiagnosticStatus.ERROR, "the error in /diagnostics")
    assert "not finite" in probe.level("vla")[1]
    assert not outputs
    probe.out[topics.OBSERVATION].publish(message_of(observation(1, 2 * PERIOD_NS)))
    vla_rig.until(lambda: outputs, "the answer from the next observation")
    assert outputs[0].observation_id == 2 * PERIOD_NS
    vla_rig.until(lambda: probe.level("vla")[0] == DiagnosticStatus.OK, "recovery")


def test_an_observation_with_an_image_that_is_none_is_passed_over(vla_rig, observation):
    probe, outputs = vla_rig.probe, vla_rig.probe.seen[topics.VLA_OUTPUT]
    broken = message_of(observation(0, 0))
    broken.images[0].data = b"this is no image"
    probe.out[topics.CHUNK_REQUEST].publish(request_of(1, 0))
    probe.out[topics.OBSERVATION].publish(broken)
    probe.out[topics.OBSERVATION].publish(message_of(observation(1, 2 * PERIOD_NS)))
    vla_rig.until(lambda: outputs, "the answer from the next observation")
    assert outputs[0].observation_id == 2 * PERIOD_NS


def drive_ten_steps(vla_rig, observations, joint_target=()):
    """A training episode of ten steps in its critical phase, observed at every second."""
    probe, outputs = vla_rig.probe, vla_rig.probe.seen[topics.VLA_OUTPUT]
    state = EpisodeState(episode_id=3, epoch=2, phase=EpisodeState.PHASE_CRITICAL, purpose=EpisodeState.PURPOSE_TRAIN)
    probe.out[topics.EPISODE_STATE].publish(state)
    probe.out[topics.CHUNK_REQUEST].publish(request_of(1, 0))
    for message in observations:
        probe.out[topics.OBSERVATION].publish(message)
    vla_rig.until(lambda: outputs, "the boundary output")
    for step in range(10):
        executed = ExecutedAction(
            episode_id=3, epoch=2, step=step, phase=EpisodeState.PHASE_CRITICAL, joint_target=joint_target
        )
        executed.header.stamp = to_time(step * PERIOD_NS)
        probe.out[topics.EXECUTED_ACTION].publish(executed)
    ended = ControlState(episode_id=3, epoch=3, phase=EpisodeState.PHASE_LABELLED, step=10)
    probe.out[topics.CONTROL_STATE].publish(ended)
    return outputs


def test_strided_observations_of_a_training_episode_follow(vla_rig, observation):
    outputs = drive_ten_steps(vla_rig, [message_of(observation(s, s * PERIOD_NS)) for s in range(0, 10, 2)])
    vla_rig.until(lambda: len(outputs) == 5, "the strided outputs")
    assert [o.observation_id // PERIOD_NS for o in outputs] == [0, 2, 4, 6, 8]
    assert [o.is_boundary for o in outputs] == [True] + [False] * 4
    assert {(o.episode_id, o.epoch, o.request_id) for o in outputs[1:]} == {(3, 2, 0)}
    assert len({o.noise_seed for o in outputs}) == 5


def test_a_strided_observation_without_a_block_of_the_rl_state_is_refused_alone(vla_rig, observation):
    messages = [message_of(observation(step, step * PERIOD_NS)) for step in range(0, 10, 2)]
    names = list(messages[2].block_names)
    names[names.index("joint_velocity")] = "joint_vel"  # of the RL state; the VLA does not take it
    messages[2].block_names = names
    outputs = drive_ten_steps(vla_rig, messages)
    vla_rig.until(lambda: len(outputs) == 4, "the other strided outputs")
    assert [o.observation_id // PERIOD_NS for o in outputs] == [0, 2, 6, 8]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"checkpoint": "/nowhere"}, "vla: /nowhere/config.json: no VLA checkpoint here"),
        ({"checkpoint": "/nowhere", "flow_stepz": 3}, "knows no parameter 'flow_stepz'"),
        ({}, "'checkpoint' of vla is required"),
        ({"checkpoint": "/nowhere", "flow_steps": 0}, "flow_steps"),
    ],
)
def test_the_vla_node_refuses_to_start_and_says_why(cell, monkeypatch, parameters, message):
    values = {"robot": cell.robot_path, "task": cell.task_path, **parameters}
    arguments = [argument for name, value in values.items() for argument in ("-p", f"{name}:={value}")]
    monkeypatch.setattr(sys, "argv", ["vla", "--ros-args", *arguments])
    with pytest.raises(SystemExit) as ended:
        vla_node.main()
    rclpy.try_shutdown()
    assert message in str(ended.value.code)


@pytest.mark.parametrize(
    ("head", "parameters", "message"),
    [
        (None, {"require_handoff": True}, "there is no hand-off head: train one with `handoff`"),
        ({"vla_hash": "0" * 16}, {}, "the hand-off head belongs to VLA 0000000000000000"),
        ({"width": 32}, {}, "embeddings of width 32"),
    ],
)
def test_the_vla_node_refuses_a_head_that_is_missing_or_of_another_vla(
    cell, checkpoint, monkeypatch, head, parameters, message
):
    if head is not None:
        head_for(checkpoint, **head)
    values = {"robot": cell.robot_path, "task": cell.task_path, "checkpoint": checkpoint, **parameters}
    arguments = [argument for name, value in values.items() for argument in ("-p", f"{name}:={value}")]
    monkeypatch.setattr(sys, "argv", ["vla", "--ros-args", *arguments])
    with pytest.raises(SystemExit) as ended:
        vla_node.main()
    rclpy.try_shutdown()
    assert message in str(ended.value.code)


@pytest.fixture
def ingest_rig(start):
    start()
    rig = Rig(CameraIngestNode(), Probe(INGEST_OUTPUTS, INGEST_INPUTS))
    rig.until(rig.probe.matched, "discovery")
    yield rig
    rig.close()


def test_images_and_joint_states_of_one_stamp_make_an_observation(ingest_rig, observation, cell):
    probe, seen = ingest_rig.probe, ingest_rig.probe.seen[topics.OBSERVATION]
    pixels = observation(0, 0).images
    for step in range(3):
        probe.out[topics.JOINT_STATES].publish(joint_state(cell.robot, step * PERIOD_NS))
        if step % 2 == 0:
            probe.out["base/image_raw"].publish(image(pixels[0], step * PERIOD_NS))
            probe.out["wrist/image_raw"].publish(image(pixels[1], step * PERIOD_NS))
    ingest_rig.until(lambda: len(seen) == 2, "two observations")
    assert [message.observation_id for message in seen] == [0, 2 * PERIOD_NS]
    data = observation_from_msg(seen[0])
    np.testing.assert_array_equal(data.images, pixels)
    np.testing.assert_allclose(data.blocks["joint_position"], 0.1 * np.arange(14), rtol=1e-6)
    np.testing.assert_array_equal(data.blocks["joint_effort"], np.ones(14))
    assert data.blocks["ee_pose"].shape == (12,)
    assert list(seen[0].image_skew_s) == [0.0, 0.0]


def test_a_camera_that_stalls_is_reported_and_stops_the_observations(ingest_rig, observation, cell):
    probe, seen = ingest_rig.probe, ingest_rig.probe.seen[topics.OBSERVATION]
    pixels = observation(0, 0).images
    for step in (0, 2):
        probe.out[topics.JOINT_STATES].publish(joint_state(cell.robot, step * PERIOD_NS))
        probe.out["base/image_raw"].publish(image(pixels[0], step * PERIOD_NS))
        if step == 0:
            probe.out["wrist/image_raw"].publish(image(pixels[1], step * PERIOD_NS))
    ingest_rig.until(lambda: probe.level("camera_ingest")[0] == DiagnosticStatus.ERROR, "the error")
    assert "camera wrist has stalled" in probe.level("camera_ingest")[1]
    assert [message.observation_id for message in seen] == [0]
    probe.out["wrist/image_raw"].publish(image(pixels[1], 2 * PERIOD_NS))
    ingest_rig.until(lambda: len(seen) == 2, "the observation once the camera is back")
    ingest_rig.until(lambda: probe.level("camera_ingest")[0] == DiagnosticStatus.OK, "recovery")


def test_on_a_robot_a_frozen_camera_is_reported_and_stops_the_observations(start, observation, cell, tmp_path):
    values = yaml.safe_load(cell.robot_path.read_text())
    values.update(tick="timer", kinematics=str(cell.robot.kinematics_path))
    robot = tmp_path / "timer_robot.yaml"
    robot.write_text(yaml.safe_dump(values))
    start(robot=str(robot))
    rig = Rig(CameraIngestNode(), Probe(INGEST_OUTPUTS, INGEST_INPUTS))
    rig.until(rig.probe.matched, "discovery")
    probe, seen = rig.probe, rig.probe.seen[topics.OBSERVATION]
    heard = rig.node._synchroniser.counters.per_camera
    for frame in range(8):
        probe.out[topics.JOINT_STATES].publish(joint_state(cell.robot, 2 * frame * PERIOD_NS))
        for index, camera in enumerate(("base", "wrist")):
            frozen = camera == "wrist" and 2 <= frame < 6
            pixels = observation(2 if frozen else frame, 0).images[index]
            probe.out[f"{camera}/image_raw"].publish(image(pixels, 2 * frame * PERIOD_NS))
            rig.until(lambda camera=camera, frame=frame: heard[camera] == frame + 1, "the frame")
        if frame == 5:
            rig.until(lambda: probe.level("camera_ingest")[0] == DiagnosticStatus.ERROR, "the error")
            assert probe.level("camera_ingest")[1] == "camera wrist is frozen: 4 equal images in a row"
    rig.until(lambda: len(seen) == 6, "the observations of live cameras")
    assert [message.observation_id // (2 * PERIOD_NS) for message in seen] == [0, 1, 2, 3, 6, 7]
    rig.close()


def test_joint_states_that_are_not_finite_are_refused_and_reported(ingest_rig, observation, cell):
    probe, seen = ingest_rig.probe, ingest_rig.probe.seen[topics.OBSERVATION]
    pixels = observation(0, 0).images
    for step, position in ((0, float("nan")), (2, 0.1)):
        probe.out[topics.JOINT_STATES].publish(joint_state(cell.robot, step * PERIOD_NS, position))
        probe.out["base/image_raw"].publish(image(pixels[0], step * PERIOD_NS))
        probe.out["wrist/image_raw"].publish(image(pixels[1], step * PERIOD_NS))
    ingest_rig.until(lambda: seen, "the good observation")
    assert [message.observation_id for message in seen] == [2 * PERIOD_NS]
    levels = [s.level for m in probe.seen[topics.DIAGNOSTICS] for s in m.status if s.name == "camera_ingest"]
    assert DiagnosticStatus.ERROR in levels


def test_the_ingest_refuses_an_unknown_parameter(start):
    start(frozen_imagez=2)
    with pytest.raises(ParameterError, match="frozen_imagez"):
        camera_ingest_node.CameraIngestNode()
