"""The adaptation, end to end on a few made-up episodes, and its exact resumption."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rlt_common.metrics_table import ADAPT, ADAPT_LOG, METRICS
from rlt_vla_node import adapt
from rlt_vla_node.adapt import METRICS_LOG, STATE_FILE, Adaptation, build_config
from rlt_vla_node.adapt_config import AdaptConfig
from rlt_vla_node.checkpoint import load_checkpoint
from rlt_vla_node.dataset import load_demonstrations, load_pose_images
from rlt_vla_node.resume import ResumeError

SMALL = AdaptConfig(
    pretraining_steps=3,
    pretraining_batch=4,
    steps=4,
    batch=4,
    pose_batch=2,
    warmup_steps=2,
    token_dim=8,
    validation_share=0.3,
    checkpoint_steps=2,
    report_steps=1,
    context_dropout=0.1,
)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def folder(tmp_path, write_episode):
    path = tmp_path / "demonstrations"
    path.mkdir()
    for seed in (1, 2, 3):
        write_episode(path / f"{seed}.mcap", seed=seed, steps=16)
    return path


@pytest.fixture
def adaptation(folder, cell, pose_images, tmp_path):
    """Makes an adaptation of these episodes that writes to a folder of the given name."""

    def make(name, config=SMALL, seed=0, report=lambda text: None, poses=True, change=lambda shown, poses: None):
        demonstrations = load_demonstrations(folder, cell.robot, cell.task, config.frame_stride)
        images = load_pose_images(pose_images, cell.robot, cell.task) if poses else None
        change(demonstrations, images)
        return Adaptation(config, cell.robot, cell.task, demonstrations, images, tmp_path / name, seed, report)

    return make


def kill_at(stage, step):
    """A report function that ends the process when that step is shown."""

    def report(text):
        if f"stage {stage + 1}/2" in text and f"step {step}/" in text:
            raise Killed

    return report


def test_the_checkpoint_belongs_to_robot_and_task_and_has_its_figures(adaptation, cell, tmp_path):
    digest = adaptation("run").run()
    model = load_checkpoint(tmp_path / "run")
    model.fitted(cell.robot, cell.task)
    assert model.hash == digest
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["statistics"]["action_spread"] == pytest.approx(model.backend.model.action_spread.tolist())
    assert set(config["statistics"]["blocks"]) == set(cell.robot.block_sizes)
    assert len(config["statistics"]["rl_token"]["mean"]) == 8
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"flow_loss", "reconstruction_loss", "shuffled_loss", "auxiliary_error", "probe_both"} <= set(metrics)
    assert set(metrics) <= set(METRICS[ADAPT]), "each figure is explained in docs/metrics.md"
    lines = list(map(json.loads, (tmp_path / "run" / METRICS_LOG).read_text().splitlines()))
    assert set().union(*lines) <= set(METRICS[ADAPT_LOG])
    assert metrics["held_out"]
    steps = [
        (line["stage"], line["step"])
        for line in map(json.loads, (tmp_path / "run" / METRICS_LOG).read_text().splitlines())
    ]
    assert steps == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert not any("auxiliary" in name for name in load_file(tmp_path / "run" / "model.safetensors"))
    assert not (tmp_path / "run" / STATE_FILE).exists()


@pytest.mark.parametrize(("stage", "step"), [(0, 1), (0, 2), (1, 1), (1, 3)])
def test_a_run_that_was_killed_and_resumed_ends_with_the_same_bits(adaptation, tmp_path, stage, step):
    straight = adaptation("straight").run()
    with pytest.raises(Killed):
        adaptation("killed", report=kill_at(stage, step)).run()
    again = adaptation("killed")
    again.resume()
    assert again.run() == straight
    logs = [
        [{k: v for k, v in json.loads(line).items() if k != "steps_per_s"} for line in path.read_text().splitlines()]
        for path in (tmp_path / "straight" / METRICS_LOG, tmp_path / "killed" / METRICS_LOG)
    ]
    assert logs[0] == logs[1]


def test_training_follows_its_seed(adaptation):
    assert adaptation("first").run() != adaptation("other", seed=1).run()


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff" * 64])
def test_a_damaged_training_state_is_an_error(adaptation, tmp_path, damage):
    with pytest.raises(Killed):
        adaptation("run", report=kill_at(1, 2)).run()
    path = tmp_path / "run" / STATE_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ResumeError, match="torn or of another version"):
        adaptation("run").resume()


def test_the_state_of_another_training_is_refused(adaptation):
    with pytest.raises(Killed):
        adaptation("run", report=kill_at(1, 2)).run()
    with pytest.raises(ResumeError, match="another configuration, seed or data set"):
        adaptation("run", seed=1).resume()


def test_whatever_decides_the_outcome_makes_it_another_training(adaptation):
    """As a conversion with another codec, or another file of pre-training images, does."""
    changes = [
        lambda shown, poses: None,
        lambda shown, poses: shown.images.__ixor__(1),
        lambda shown, poses: shown.target.__iadd__(0.1),
        lambda shown, poses: shown.executed.__imul__(2.0),
        lambda shown, poses: shown.blocks["joint_effort"][-1:].__iadd__(0.1),
        lambda shown, poses: poses.images.__ixor__(1),
        lambda shown, poses: poses.target.__iadd__(0.1),
    ]
    identities = {adaptation("run", change=change).identity for change in changes}
    assert len(identities) == len(changes)
    assert adaptation("elsewhere").identity in identities


def weights(model, prefix):
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith(prefix)}


def test_stage_1_leaves_the_stems_alone_and_alpha_0_the_whole_vla(adaptation):
    for alpha, prefix in ((1.0, "stems"), (0.0, "")):
        config = AdaptConfig(**{**SMALL.__dict__, "alpha": alpha, "pretraining_steps": 0, "report_steps": 100})
        run = adaptation(f"alpha{alpha}", config)
        before = weights(run.vla, prefix)
        token_before = weights(run.token, "")
        run.run()
        after = weights(run.vla, prefix)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert any(not torch.equal(token_before[n], v) for n, v in weights(run.token, "").items())
    moved = adaptation("moved")
    decoder = weights(moved.vla, "decoder")
    moved.run()
    assert any(not torch.equal(decoder[n], v) for n, v in weights(moved.vla, "decoder").items())


def test_without_targets_stage_0_is_left_out(tmp_path, cell, write_episode):
    path = tmp_path / "plain"
    path.mkdir()
    for seed in (1, 2):
        write_episode(path / f"{seed}.mcap", seed=seed, targets=False)
    said = []
    demonstrations = load_demonstrations(path, cell.robot, cell.task, 4)
    run = Adaptation(SMALL, cell.robot, cell.task, demonstrations, None, tmp_path / "run", 0, said.append)
    assert (run.trainer.stage, run.auxiliary) == (1, None)
    run.run()
    assert "stage 0 is left out" in said[0]


def test_the_task_file_sets_parameters_and_the_command_line_overrides_them(cell):
    task = type(cell.task)(**{**cell.task.__dict__, "nodes": {"adapt": {"steps": 7, "batch": 8}}})
    config = build_config(task, {"batch": 9, "alpha": None})
    assert (config.steps, config.batch, config.alpha) == (7, 9, AdaptConfig().alpha)


def test_adapting_on_other_episodes_than_demonstrations_still_gives_a_vla(cell, tmp_path, write_episode, capsys):
    folder = tmp_path / "episodes"
    folder.mkdir()
    for seed in (1, 2):
        write_episode(folder / f"{seed}.mcap", seed=seed, purpose="train")
    small = [f"--{n.replace('_', '-')}={v}" for n, v in SMALL.__dict__.items() if n != "auxiliary_scale"]
    adapt.main(command(cell, folder, tmp_path / "run", *small))
    assert "replay will begin without demonstrations" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run").token.config.token_dim == 8
    assert not (tmp_path / "run" / "demonstrations").exists()


def command(cell, folder, output, *more):
    return [
        *("--robot", str(cell.robot_path), "--task", str(cell.task_path)),
        *("--demonstrations", str(folder), "--output", str(output), *more),
    ]


def test_the_command_runs_resumes_and_knows_when_it_is_done(cell, folder, tmp_path, capsys, pose_images):
    small = [f"--{n.replace('_', '-')}={v}" for n, v in SMALL.__dict__.items() if n != "auxiliary_scale"]
    arguments = command(cell, folder, tmp_path / "run", "--pretraining", str(pose_images), "--resume", *small)
    adapt.main(arguments)
    assert "step 4/4" in capsys.readouterr().out
    adapt.main(arguments)
    assert "nothing to adapt" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run").token.config.token_dim == 8
    assert sorted(path.name for path in (tmp_path / "run" / "demonstrations").iterdir()) == [
        "1.mcap",
        "2.mcap",
        "3.mcap",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learning-rate", "5"], "the most allowed is 1.0"),
        (["--threads", "0"], "--threads"),
        (["--auxiliary-scale", "0.1", "0.1"], "auxiliary targets have 6 values, auxiliary_scale has 2"),
        (["--pretraining", "nothing.safetensors"], "no pre-training images"),
        (["--demonstrations", "nowhere"], "no episode files"),
    ],
)
def test_the_command_ends_with_what_is_wrong(cell, folder, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        adapt.main(command(cell, folder, tmp_path / "run", *more))


def test_a_folder_without_a_data_set_is_named(cell, folder, tmp_path):
    arguments = command(cell, folder, tmp_path / "run")
    arguments[arguments.index("--demonstrations")] = "--dataset"
    with pytest.raises(SystemExit, match=f"{folder}: is no LeRobot data set"):
        adapt.main(arguments)


def test_help_says_how_another_vla_is_adapted(capsys):
    with pytest.raises(SystemExit):
        adapt.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "`adapt --vla FILE --help` lists them" in told
    assert "--dataset DATASET" in told
