"""Checkpoints: what comes back is what was saved, or an error."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlt_common.atomic import sha256_hex
from rlt_vla_node.adapt import vla_config
from rlt_vla_node.checkpoint import CONFIG_FILE, MODEL_FILE, CheckpointError, load_checkpoint, save_checkpoint
from rlt_vla_node.inference import LayoutError, run_observation

LAYOUT = (("ee_pose", 12), ("joint_effort", 14))


@pytest.fixture
def folder(tmp_path, vla, rl_token):
    save_checkpoint(tmp_path, vla, rl_token, LAYOUT, {"task": "tiny_task"}, {"flow_loss": 1.0})
    return tmp_path


def edit(folder, **changes):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_loaded_model_gives_the_same_bits(folder, vla, rl_token, observation, cell):
    model = load_checkpoint(folder)
    model.fitted(cell.robot, cell.task)
    batch = model.batch([observation(0, 0)])
    loaded = run_observation(model, batch, seed=1)
    own = dataclasses.replace(model, backend=type(model.backend)(vla), token=rl_token)
    direct = run_observation(own, batch, seed=1)
    assert loaded[0].tobytes() == direct[0].tobytes()
    assert loaded[1].tobytes() == direct[1].tobytes()
    assert not any(p.requires_grad for p in model.token.parameters())


def test_the_hash_covers_weights_statistics_and_layout(folder, tmp_path, vla, rl_token):
    first = load_checkpoint(folder).hash
    assert len(first) == 16
    assert save_checkpoint(tmp_path / "same", vla, rl_token, LAYOUT, {"seed": 5}, {}) == first
    other_layout = (("joint_effort", 14), ("ee_pose", 12))
    hashes = {first, save_checkpoint(tmp_path / "layout", vla, rl_token, other_layout, {}, {})}
    vla.action_spread[3] += 1e-6
    hashes.add(save_checkpoint(tmp_path / "statistics", vla, rl_token, LAYOUT, {}, {}))
    with torch.no_grad():
        rl_token.readout[0] += 1e-3
    hashes.add(save_checkpoint(tmp_path / "weights", vla, rl_token, LAYOUT, {}, {}))
    assert len(hashes) == 4


def test_a_missing_checkpoint_says_what_to_do(tmp_path, folder):
    with pytest.raises(CheckpointError, match="no VLA checkpoint here: give the folder that `adapt` wrote"):
        load_checkpoint(tmp_path / "nothing")
    (folder / MODEL_FILE).unlink()
    with pytest.raises(CheckpointError, match="copy the whole checkpoint folder"):
        load_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_a_torn_file_is_an_error(folder, keep):
    path = folder / MODEL_FILE
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(CheckpointError, match="torn"):
        load_checkpoint(folder)


def test_a_flipped_bit_is_an_error(folder):
    path = folder / MODEL_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="torn or of another checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "has no 'format'"), ('{"format": 1}', "has no 'hash'")],
)
def test_a_foreign_config_is_an_error(folder, text, message):
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"backend": "other"}, "'other'"),
        ({"hash": "0" * 16}, "its contents have"),
        ({"vla_state": [["ee_pose", 12], ["joint_velocity", 14]]}, "its contents have"),
        ({"token": {"embed_dim": 16}}, "missing key"),
    ],
)
def test_a_config_that_was_changed_is_an_error(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def replace_tensors(folder, change):
    tensors = load_file(folder / MODEL_FILE)
    change(tensors)
    save_file(tensors, folder / MODEL_FILE)
    edit(folder, file_sha256=sha256_hex((folder / MODEL_FILE).read_bytes()))


def test_missing_and_unknown_tensors_are_errors_and_never_random_weights(folder):
    replace_tensors(folder, lambda tensors: tensors.pop("token.readout"))
    with pytest.raises(CheckpointError, match=r"(?s)do not fit.*readout"):
        load_checkpoint(folder)


def test_weights_that_are_not_finite_are_an_error(folder):
    replace_tensors(folder, lambda tensors: tensors["vla.position"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"vla\.position.*not finite"):
        load_checkpoint(folder)


def test_a_vla_for_actions_from_another_pose_is_refused(tmp_path, vla, rl_token, cell):
    layout = tuple((name, cell.robot.block_sizes[name]) for name in cell.task.vla_state)
    save_checkpoint(tmp_path, vla, rl_token, layout, {}, {})
    model = load_checkpoint(tmp_path)
    model.fitted(cell.robot, cell.task)
    words = "adapted with actions relative to the pose commanded, robot .* have measured"
    with pytest.raises(LayoutError, match=words):
        model.fitted(dataclasses.replace(cell.robot, relative_to="measured"), cell.task)
    assert vla_config(dataclasses.replace(cell.robot, relative_to="measured"), cell.task).relative_to == "measured"


def test_another_layout_than_the_robots_is_named(tmp_path, vla, rl_token, cell, observation):
    layout = (("joint_effort", 14), ("ee_pose", 12))
    save_checkpoint(tmp_path, vla, rl_token, layout, {}, {})
    model = load_checkpoint(tmp_path)
    with pytest.raises(LayoutError, match="vla_state blocks"):
        model.fitted(cell.robot, cell.task)
    seen = observation(0, 0)
    with pytest.raises(LayoutError, match="cameras"):
        model.batch([type(seen)(0, 0, ("wrist", "base"), seen.images, seen.blocks)])
    with pytest.raises(LayoutError, match="0 values of block 'joint_effort'"):
        model.batch([type(seen)(0, 0, seen.camera_names, seen.images, {"ee_pose": seen.blocks["ee_pose"]})])
