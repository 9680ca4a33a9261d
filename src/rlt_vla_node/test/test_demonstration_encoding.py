"""Encoded demonstrations: what is encoded, what is kept, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlt_common import topics
from rlt_common.codecs import stamp_ns
from rlt_common.episode_file import episode_metadata, read_messages
from rlt_vla_node import encode_command
from rlt_vla_node.builtin import BuiltinBackend, layout_of
from rlt_vla_node.checkpoint import save_checkpoint
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.demonstration_encoding import encode_demonstrations
from rlt_vla_node.encoding import EncodingConfig
from rlt_vla_node.inference import FrozenModel

HANDOFF, STEPS = 5, 20


@pytest.fixture
def source(tmp_path, write_episode):
    folder = tmp_path / "shown"
    folder.mkdir()
    for seed in (1, 2):
        write_episode(folder / f"{seed}.mcap", seed=seed, steps=STEPS, handoff_step=HANDOFF)
    write_episode(folder / "3.mcap", seed=3, label="failure")
    return folder


@pytest.fixture
def model(cell, vla, rl_token):
    layout = layout_of(vla.config, [(name, cell.robot.block_sizes[name]) for name in cell.task.vla_state])
    return FrozenModel(backend=BuiltinBackend(vla), token=rl_token, layout=layout, hash="0123456789abcdef")


def encode(source, target, cell, model, **config):
    return encode_demonstrations(source, target, cell.robot, cell.task, model, EncodingConfig(**config))


def messages(path, topic):
    return [entry.message for entry in read_messages(path, [topic])]


def test_every_success_becomes_a_file_with_its_actions_and_the_critical_phase_encoded(source, tmp_path, cell, model):
    assert encode(source, tmp_path / "out", cell, model) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.mcap", "2.mcap"]
    path = tmp_path / "out" / "2.mcap"
    assert messages(path, topics.EXECUTED_ACTION) == messages(source / "2.mcap", topics.EXECUTED_ACTION)
    outputs = messages(path, topics.VLA_OUTPUT)
    observed = [stamp_ns(m.header.stamp) for m in messages(source / "2.mcap", topics.OBSERVATION)]
    assert [stamp_ns(m.header.stamp) for m in outputs] == observed[(HANDOFF + 1) // 2 :]
    assert {(m.episode_id, m.vla_hash, m.is_boundary) for m in outputs} == {(2, model.hash, False)}
    assert all(np.isfinite(m.reference).all() and len(m.rl_token) == 8 for m in outputs)
    facts = episode_metadata(path)
    assert (facts["vla_hash"], facts["handoff_step"], facts["label"]) == (model.hash, str(HANDOFF), "success")


def test_groups_do_not_change_what_is_encoded(source, tmp_path, cell, model):
    encode(source, tmp_path / "a", cell, model)
    encode(source, tmp_path / "b", cell, model, group_size=3)
    one, other = (messages(tmp_path / name / "1.mcap", topics.VLA_OUTPUT) for name in "ab")
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.reference, b.reference, atol=1e-6)
        np.testing.assert_allclose(a.rl_token, b.rl_token, atol=1e-5)


def test_what_is_there_is_kept_and_what_is_of_another_model_or_torn_is_replaced(source, tmp_path, cell, model):
    out = tmp_path / "out"
    encode(source, out, cell, model)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "2.mcap").write_bytes((out / "2.mcap").read_bytes()[:-40])
    encode(source, out, cell, model)
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert (after["1.mcap"] == before["1.mcap"], after["2.mcap"] == before["2.mcap"]) == (True, False)
    encode(source, out, cell, replace(model, hash="fedcba9876543210"))
    assert {episode_metadata(path)["vla_hash"] for path in out.iterdir()} == {"fedcba9876543210"}


def test_a_run_s_own_episodes_and_an_evaluation_s_are_no_demonstrations(source, tmp_path, cell, model, write_episode):
    for seed, purpose in enumerate(("train", "evaluate", "deploy"), start=4):
        write_episode(source / f"{seed}.mcap", seed=seed, purpose=purpose)
    assert encode(source, tmp_path / "out", cell, model) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.mcap", "2.mcap"]


def test_the_encoding_of_a_demonstration_that_is_gone_is_removed_and_nothing_else(source, tmp_path, cell, model):
    out = tmp_path / "out"
    encode(source, out, cell, model)
    (source / "1.mcap").unlink()
    assert encode(source, out, cell, model) == 1
    assert [path.name for path in out.iterdir()] == ["2.mcap"]
    with pytest.raises(DatasetError, match=r"2\.mcap: is no encoded demonstration"):
        encode(source, source, cell, model)
    assert messages(source / "2.mcap", topics.OBSERVATION)


def test_a_folder_without_successes_or_with_a_torn_file_is_an_error(source, tmp_path, cell, model):
    with pytest.raises(DatasetError, match="none of its 0 episode files"):
        encode(tmp_path / "nowhere", tmp_path / "out", cell, model)
    (source / "2.mcap").write_bytes((source / "2.mcap").read_bytes()[:-40])
    with pytest.raises(DatasetError, match=r"2\.mcap"):
        encode(source, tmp_path / "out", cell, model)


def test_the_command_encodes_beside_the_checkpoint(source, tmp_path, cell, vla, rl_token, capsys):
    vla_state = [(name, cell.robot.block_sizes[name]) for name in cell.task.vla_state]
    save_checkpoint(tmp_path / "vla", vla, rl_token, vla_state, {"statistics": {}}, {})
    arguments = ["--robot", str(cell.robot_path), "--task", str(cell.task_path), "--demonstrations", str(source)]
    encode_command.main([*arguments, "--checkpoint", str(tmp_path / "vla")])
    assert "encode: 2 demonstrations in" in capsys.readouterr().out
    assert len(list((tmp_path / "vla" / "demonstrations").iterdir())) == 2
    encode_command.main([*arguments, "--checkpoint", str(tmp_path / "vla"), "--output", str(tmp_path / "else")])
    assert sorted(path.name for path in (tmp_path / "else").iterdir()) == ["1.mcap", "2.mcap"]
    with pytest.raises(SystemExit, match="2"):
        encode_command.main([*arguments, "--checkpoint", str(tmp_path / "vla"), "--ouptut", "x"])
    with pytest.raises(SystemExit, match=r"encode: .*no VLA checkpoint here"):
        encode_command.main([*arguments, "--checkpoint", str(tmp_path / "other")])
    with pytest.raises(SystemExit, match="--threads"):
        encode_command.main([*arguments, "--checkpoint", str(tmp_path / "vla"), "--threads", "0"])
