"""`adapt --vla`: from episode files to a checkpoint that the VLA node's code opens, with a real installed backend."""

import dataclasses
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_policy
import yaml
from dataset_episodes import record

from rlt_common.metrics_table import ADAPT, ADAPT_LOG, METRICS
from rlt_common.vla_config import load_vla
from rlt_vla_node import adapt
from rlt_vla_node.backends import open_backend
from rlt_vla_node.checkpoint import CheckpointError, load_checkpoint
from rlt_vla_node.dataset import action_spread
from rlt_vla_node.dataset_conversion import Wanted, convert
from rlt_vla_node.dataset_facts import executed_actions
from rlt_vla_node.episode_frames import frame_rules
from rlt_vla_node.inference import run_observation
from rlt_vla_node.lerobot_dataset import TrainingSamples

pytest.importorskip("rlt_vla_node.vla_trainer", reason="accelerate is not installed: make extras")
pytest.importorskip("lerobot", reason="LeRobot is not installed: make extras")

import tiny_lerobot
from lerobot_native import foreign_dataset

PARTS = "[left.joints, left.gripper, right.joints, right.gripper]"
QUICK = ["--steps", "4", "--batch", "4", "--heads", "2", "--workers", "0", "--warmup-steps", "1", "--report-steps", "2"]


@pytest.fixture
def run(tmp_path, cell, monkeypatch):
    """Runs `adapt --vla` beside three recorded episodes; gives the output folder. All paths are relative ones."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tiny_policy.install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    tiny_policy.tiny_policy(seed=2).save_policy(tmp_path / "weights")
    (tmp_path / "vla.yaml").write_text(
        f"backend: tiny\nsource: {tmp_path / 'weights'}\ncontrol_hz: 50.0\nstate: {PARTS}\nactions: {PARTS}\n"
        "action_kind: absolute\ncameras: {a: wrist, b: base}\n"
    )
    task = tmp_path / "task.yaml"
    task.write_text(cell.task_path.read_text())
    for seed in (1, 2, 3):
        record(tmp_path / "episodes" / f"{seed}.mcap", cell.robot, seed, steps=24)

    def command(*more, output="vla"):
        words = ["--vla", tmp_path / "vla.yaml", "--robot", cell.robot_path, "--task", task, *QUICK]
        adapt.main([*map(str, words), "--output", f"../{output}", *more])
        return Path("..") / output

    return command


@pytest.fixture
def demonstrations():
    return ["--demonstrations", "../episodes"]


@pytest.mark.parametrize("train", ["full", "frozen"])
def test_episodes_become_a_checkpoint_that_is_opened_with_its_own_weights(
    run, demonstrations, cell, observation, train
):
    output = run(*demonstrations, "--train", train)
    model = load_checkpoint(output).fitted(cell.robot, cell.task)
    facts = json.loads((output / "config.json").read_text())
    assert facts["adapted"] == (train == "full")
    assert (model.backend.spec.fingerprint != facts["provenance"]["vla"]) == (train == "full")
    assert facts["hash"] == model.hash
    outputs = run_observation(model, model.batch([observation(3, 0)]), seed=1)
    assert outputs.reference.shape == (cell.task.horizon, cell.robot.action_dim)
    assert outputs.rl_token.shape == (tiny_policy.WIDTH,), "as wide as the VLA where nothing else is said"
    spread = np.array(facts["statistics"]["action_spread"])
    assert spread.shape == (14,)
    assert (spread > 0).all()
    figures = json.loads((output / "metrics.json").read_text())
    assert {"reconstruction", "shuffled", "chunk_error", "probe_state"} <= set(figures)
    assert set(figures) <= set(METRICS[ADAPT]), "each figure is explained in docs/metrics.md"
    lines = list(map(json.loads, (output / "metrics.jsonl").read_text().splitlines()))
    assert set().union(*lines) <= set(METRICS[ADAPT_LOG])
    assert ("flow" in figures) == (train == "full")
    assert "<svg" in (output / "curves.svg").read_text()
    assert list((output / "demonstrations").glob("*.mcap")), "the learner's replay begins with what was demonstrated"


def test_a_run_that_is_killed_goes_on_and_a_finished_one_is_left_alone(
    run, demonstrations, tmp_path, monkeypatch, capsys
):
    whole = run(*demonstrations, output="whole/vla")
    from rlt_vla_node.vla_trainer import VlaTrainer

    advance = VlaTrainer._advance

    def interrupted(self, loader):
        if self.step == 3:
            raise KeyboardInterrupt
        advance(self, loader)

    monkeypatch.setattr(VlaTrainer, "_advance", interrupted)
    with pytest.raises(SystemExit, match="--resume goes on"):
        run(*demonstrations, "--checkpoint-steps", "2", output="cut/vla")
    monkeypatch.setattr(VlaTrainer, "_advance", advance)
    cut = run(*demonstrations, "--checkpoint-steps", "2", "--resume", output="cut/vla")
    assert "resuming at step 2 of 4" in capsys.readouterr().out
    hashes = [load_checkpoint(folder).hash for folder in (whole, cut)]
    assert hashes[0] == hashes[1]
    run(*demonstrations, "--checkpoint-steps", "2", "--resume", output="cut/vla")
    assert "already holds this adaptation" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "train"), [("smolvla", "lora"), ("act", "full")])
def test_a_policy_of_lerobot_is_adapted_saved_and_opened_again(
    run, demonstrations, tmp_path, cell, observation, kind, train
):
    getattr(tiny_lerobot, f"write_{kind}")(tmp_path / "policy")
    config = dataclasses.asdict(tiny_lerobot.vla_file(tmp_path, "policy"))
    del config["folder"]
    (tmp_path / "vla.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    output = run(*demonstrations, "--train", train, "--learning-rate", "1e-2", "--lora-rank", "2")
    model = load_checkpoint(output).fitted(cell.robot, cell.task)
    facts = json.loads((output / "config.json").read_text())
    assert model.backend.spec.fingerprint == facts["fingerprint"] != facts["provenance"]["vla"]
    outputs = run_observation(model, model.batch([observation(3, 0)]), seed=1)
    assert np.isfinite(outputs.reference).all()
    assert np.isfinite(outputs.rl_token).all()
    assert json.loads((output / "metrics.json").read_text())["flow"] > 0


def test_other_weights_in_the_place_of_the_vla_s_are_refused(run, demonstrations, tmp_path):
    output = run(*demonstrations, "--train", "frozen")
    tiny_policy.tiny_policy(seed=5).save_policy(tmp_path / "weights")
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_checkpoint(output)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backend": "nowhere"}, "no 'nowhere'; installed: .*tiny"),
        ({"cameras": "{a: wrist, b: ceiling}"}, "no camera 'ceiling'"),
        ({"control_hz": "100.0"}, "last 6 control steps"),
        ({"state": "[left.joints]"}, "names 6 values in state"),
    ],
)
def test_a_vla_file_that_does_not_fit_is_refused_before_anything_is_read(run, demonstrations, tmp_path, changes, words):
    change(tmp_path / "vla.yaml", **changes)
    with pytest.raises(SystemExit, match=words):
        run(*demonstrations)


def test_an_rl_token_that_could_not_be_read_again_is_refused_before_anything_is_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr("rlt_vla_node.checkpoint_files.MAX_TENSORS_BYTES", 1 << 20)
    with pytest.raises(
        SystemExit, match=r"RL token of 2 \+ 2 blocks for 3 embeddings of width 8 .*: lower encoder_block"
    ):
        run("--demonstrations", "../nowhere")


def test_the_instruction_is_the_task_s_where_the_vla_file_has_none(run, demonstrations, cell, tmp_path):
    output = run(*demonstrations, "--train", "frozen")
    assert json.loads((output / "config.json").read_text())["vla"]["instruction"] == cell.task.instruction
    change(tmp_path / "vla.yaml", instruction="turn it")
    with pytest.raises(
        SystemExit, match="converted with the instruction 'move', the policy will be told 'turn it': con"
    ):
        run(*demonstrations, "--train", "full")


def test_the_spread_of_actions_is_that_of_the_critical_phases(run, demonstrations, tmp_path):
    run(*demonstrations, "--train", "frozen")
    samples = TrainingSamples(tmp_path / "dataset", 5)
    assert executed_actions(samples, None).shape == (3 * (24 - 4), 14), "three episodes, handed off after four steps"


def change(path, **values):
    """Set keys of a VLA file."""
    lines = [line for line in path.read_text().splitlines() if line.split(":")[0] not in values]
    path.write_text("\n".join([*lines, *(f"{key}: {value}" for key, value in values.items())]) + "\n")


def test_the_data_set_that_a_policy_was_trained_on_is_taken_by_the_policys_names(run, tmp_path):
    foreign_dataset(tmp_path / "set", ("a", "b"), width=14, fps=50, use_videos=False)
    output = run("--dataset", "../set", "--train", "full")
    facts = json.loads((output / "config.json").read_text())
    assert np.shape(facts["statistics"]["action_spread"]) == (14,)
    change(tmp_path / "vla.yaml", action_kind="from_observation")
    for train, words in (
        ("full", r"cannot be the rows that the policy counts in \(action_kind: from_observation\): give recorded"),
        ("frozen", r"set: .*not what the policy counts in .*: give recorded episodes with --demonstrations, or"),
    ):
        with pytest.raises(SystemExit, match=words):
            run("--dataset", "../set", "--train", train, output="other")
    assert not (tmp_path / "other").exists()


def test_recorded_actions_tell_the_spread_where_the_action_is_not_what_the_policy_counts_in(run, cell, tmp_path):
    done = [record(tmp_path / "old" / f"{seed}.mcap", cell.robot, seed, joint_targets=False) for seed in (1, 2)]
    task = replace(cell.task, vla_state=("joint_position",))
    convert(tmp_path / "old", tmp_path / "set", cell.robot, task, frame_rules(cell.robot, task), Wanted())
    change(tmp_path / "vla.yaml", action_kind="from_observation")
    output = run("--dataset", "../set", "--train", "frozen")
    said = json.loads((output / "config.json").read_text())["statistics"]["action_spread"]
    executed = np.concatenate([recorded.actions(range(4, 20)) for recorded in done])
    np.testing.assert_allclose(said, action_spread(executed, cell.robot.step_limit), rtol=1e-6)
    assert "chunk_error" not in json.loads((output / "metrics.json").read_text())


def test_a_data_set_that_does_not_tell_the_robots_actions_is_refused_before_anything_is_trained(run, tmp_path):
    foreign_dataset(tmp_path / "set", ("a", "b"), width=14, fps=50, use_videos=False)
    parts = ", ".join(f"{a}.{w}" for a in ("left", "right") for w in ("position", "rotation_vector", "gripper"))
    change(tmp_path / "vla.yaml", state=f"[{parts}]")
    with pytest.raises(SystemExit, match="the robot's actions cannot be told from its state"):
        run("--dataset", "../set", "--train", "full")
    assert not (tmp_path / "vla").exists()


def test_the_vla_file_opens_what_it_says(run, tmp_path):
    config = load_vla(tmp_path / "vla.yaml")
    assert open_backend(replace(config, instruction="go")).spec.name == "tiny"
    assert "tiny_policy" in sys.modules
