"""Data sets read by LeRobot's own class as training samples: ours, what the VLA saw to the bit, and others'."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from dataset_episodes import VLA_FILE, record
from lerobot_native import foreign_dataset, policy_features
from torch.utils.data import DataLoader

from rlt_common.vla_config import GripperScale, load_vla
from rlt_vla_node import lerobot_writer
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.dataset_conversion import Wanted, convert
from rlt_vla_node.episode_frames import frame_rules
from rlt_vla_node.lerobot_dataset import TrainingSamples, cameras_of, dataset_info, open_dataset
from rlt_vla_node.lerobot_demonstrations import dataset_demonstrations
from rlt_vla_node.lerobot_packages import lerobot_module
from rlt_vla_node.step_sampler import StepSampler, step_loader

try:
    LEROBOT = lerobot_module("datasets.lerobot_dataset")
except ImportError as error:
    pytest.skip(f"LeRobot is an extra: `make extras` installs it ({error})", allow_module_level=True)

HORIZON = 5


@pytest.fixture
def made(tmp_path, cell):
    """Records two episodes, converts them, and returns the data set's folder and what was recorded."""

    def make(vla=None, codec="lossless", keep_repositioning=False, task=cell.task, **given):
        folder, target = tmp_path / "in", tmp_path / "dataset"
        recorded = {
            seed: record(folder / f"{seed}.mcap", cell.robot, seed, steps=steps, **given)
            for seed, steps in ((1, 11), (2, 8))
        }
        rules = frame_rules(cell.robot, task, keep_repositioning=keep_repositioning)
        convert(folder, target, cell.robot, task, rules, Wanted(codec=codec, failures=True), vla)
        return target, recorded

    return make


@pytest.fixture
def foreign(tmp_path):
    """A data set that LeRobot's own writer made, two episodes of 12 frames at 10 Hz, one camera of 32 x 24 pixels."""

    def make(**given):
        folder = tmp_path / "foreign"
        return folder, foreign_dataset(folder, **given)

    return make


def places(recorded):
    return [(seed, step) for seed, episode in recorded.items() for step in episode.executed]


def test_a_sample_is_what_the_vla_saw_and_what_was_executed_from_there_on(made, cell):
    folder, recorded = made()
    samples = TrainingSamples(folder, HORIZON)
    assert len(samples) == 19
    for sample, (seed, step) in zip(samples, places(recorded), strict=True):
        seen, episode = recorded[seed].seen(step), recorded[seed]
        for camera, name in enumerate(("base", "wrist")):
            image = sample[f"observation.images.{name}"]
            assert image.dtype == torch.float32
            rgb = (image * 255).round().byte().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(rgb, seen.images[camera])
        np.testing.assert_array_equal(sample["observation.state"], seen.state(cell.task.vla_state))
        steps = [k for k in range(step, step + HORIZON) if k in episode.executed]
        np.testing.assert_array_equal(sample["action"][: len(steps)], episode.actions(steps))
        assert sample["action_is_pad"].tolist() == [False] * len(steps) + [True] * (HORIZON - len(steps))
        assert sample["task"] == cell.task.instruction


def test_with_a_vla_file_a_chunk_is_where_the_arms_were_sent(made, cell, tmp_path):
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    vla = load_vla(tmp_path / "vla.yaml")
    folder, recorded = made(vla)
    layout = ChunkLayout(vla, cell.robot)
    sample = TrainingSamples(folder, HORIZON, vla.control_hz)[2]
    np.testing.assert_array_equal(sample["action"], layout.targets(recorded[1].targets(range(2, 2 + HORIZON))))
    np.testing.assert_array_equal(sample["observation.state"], layout.state_vector(recorded[1].seen(2).blocks))
    assert sample["task"] == "do the policy's task"


@pytest.mark.parametrize("kind", ["from_observation", "per_step"])
def test_a_policy_that_counts_in_differences_is_trained_on_them(made, cell, tmp_path, kind):
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    vla = replace(load_vla(tmp_path / "vla.yaml"), action_kind=kind, always_absolute=("left.gripper",))
    folder, recorded = made(vla)
    layout, places = ChunkLayout(vla, cell.robot), ChunkLayout(replace(vla, action_kind="absolute"), cell.robot)
    samples = TrainingSamples(folder, HORIZON, vla.control_hz, layout=layout)
    assert samples.in_kind
    for first in (0, 2):
        sample = samples[first]
        q = recorded[1].seen(first).blocks["joint_position"].astype(np.float64)
        sent = recorded[1].targets(range(first, first + HORIZON))
        before = q if kind == "from_observation" or first == 0 else recorded[1].targets([first - 1])[0]
        there = layout.to_actions(sample["action"].numpy(), before, HORIZON)
        np.testing.assert_allclose(there, places.to_actions(places.targets(sent), before, HORIZON), atol=2e-6)
        np.testing.assert_array_equal(copy.deepcopy(samples)[first]["action"], sample["action"])
    plain = TrainingSamples(folder, HORIZON, vla.control_hz, layout=places)
    np.testing.assert_array_equal(plain[2]["action"], places.targets(recorded[1].targets(range(2, 2 + HORIZON))))


def test_a_data_set_of_the_robots_own_actions_is_none_of_a_policy(made, cell, tmp_path):
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    layout = ChunkLayout(load_vla(tmp_path / "vla.yaml"), cell.robot)
    with pytest.raises(DatasetError, match=r"its action is left\..*: convert the episodes with `dataset --vla`"):
        TrainingSamples(made()[0], HORIZON, layout=layout)


def test_a_data_set_that_another_vla_file_was_converted_with_is_refused(made, cell, tmp_path):
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    vla = load_vla(tmp_path / "vla.yaml")
    folder, _ = made(vla)
    TrainingSamples(folder, HORIZON, layout=ChunkLayout(replace(vla, control_hz=25.0), cell.robot))
    turned = (*vla.state[2:4], *vla.state[:2], vla.state[4])
    for changes, words in (
        (
            {"gripper": GripperScale(10.0, 0.1)},
            r"left\.gripper of observation\.state is .* in frame 0, by this VLA file",
        ),
        ({"frames": {"right": "right_base"}}, r"right\.position\.0 of action is .* by this VLA file and robot it is"),
        ({"state": turned}, r"of observation\.state is .*: convert the episodes again"),
        ({"state": vla.state[:4]}, r"observation\.state has 16 values, the VLA file names 14: convert"),
    ):
        with pytest.raises(DatasetError, match=words):
            TrainingSamples(folder, HORIZON, layout=ChunkLayout(replace(vla, **changes), cell.robot))
    vla = replace(vla, actions=vla.state)
    shutil.rmtree(folder)
    with pytest.raises(DatasetError, match=r"actions \['left\.x', .*, this one has \['left_waist'"):
        TrainingSamples(made(vla)[0], HORIZON, layout=ChunkLayout(vla, replace(cell.robot, actions="joints")))


def test_the_robots_own_actions_are_no_policys_though_there_are_as_many(made, cell, tmp_path):
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    parts = ("left.joints", "left.gripper", "right.joints", "right.gripper")
    vla = replace(load_vla(tmp_path / "vla.yaml"), state=parts, actions=parts, gripper=GripperScale())
    task = replace(cell.task, vla_state=("joint_position",))
    folder, _ = made(task=task, joint_targets=False)
    assert not TrainingSamples(folder, HORIZON, layout=ChunkLayout(vla, cell.robot)).in_kind


def test_which_differences_another_data_set_can_hold(foreign, cell, tmp_path):
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    vla = load_vla(tmp_path / "vla.yaml")
    folder, _ = foreign(use_videos=False)

    def in_kind(kind, control_hz):
        layout = ChunkLayout(replace(vla, action_kind=kind), cell.robot)
        return TrainingSamples(folder, 2, control_hz, layout=layout).in_kind

    assert in_kind("absolute", 50.0)
    assert in_kind("per_step", 10.0)
    assert not in_kind("per_step", 50.0), "its rows are differences over another time"
    assert not in_kind("from_observation", 10.0), "its rows are differences to their own frames"


def test_rows_of_a_policy_at_another_rate_end_where_the_frames_do(made):
    folder, recorded = made()
    half = TrainingSamples(folder, 3, control_hz=25.0)[0]
    np.testing.assert_array_equal(half["action"], recorded[1].actions([1, 3, 5]))
    thirty = TrainingSamples(folder, 4, control_hz=30.0)[0]
    np.testing.assert_array_equal(thirty["action"], recorded[1].actions([1, 2, 4, 6]))


def test_columns_statistics_and_names_are_lerobots(made):
    folder, recorded = made(vla=None, codec="h264")
    data = open_dataset(folder)
    assert isinstance(data, LEROBOT.LeRobotDataset)
    assert (data.num_episodes, data.num_frames, data.fps) == (2, 19, 50)
    item = data[10]
    assert bool(item["is_intervention"])
    assert (float(item["next.reward"]), bool(item["next.success"]), bool(item["next.done"])) == (1.0, True, True)
    assert float(data[9]["next.reward"]) == 0.0
    assert int(item["source.step"]) == 10
    actions = np.concatenate([episode.actions(episode.executed) for episode in recorded.values()])
    stats = data.meta.stats["action"]
    np.testing.assert_allclose(stats["mean"], actions.mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(stats["std"], actions.astype(np.float64).std(axis=0))
    assert data.meta.stats["observation.images.base"]["mean"].shape == (3, 1, 1)


def test_only_state_and_action_are_inputs_and_outputs_to_lerobots_policies(made):
    features = policy_features(open_dataset(made()[0]).meta.features)
    assert set(features) == {
        "observation.images.base",
        "observation.images.wrist",
        "observation.state",
        "action",
    }


def test_episodes_in_files_of_their_own_are_the_same(made, cell, monkeypatch):
    """As a data set larger than a file becomes."""
    for name in ("VIDEO_FILE_MB", "DATA_FILE_MB"):
        monkeypatch.setattr(lerobot_writer, name, 1e-9)
    folder, recorded = made()
    assert len(list(folder.glob("videos/*/*/*.mp4"))) == 4
    assert len(list(folder.glob("data/*/*.parquet"))) == 2
    samples = TrainingSamples(folder, HORIZON)
    for row, (seed, step) in ((3, (1, 3)), (11, (2, 0)), (18, (2, 7))):
        rgb = (samples[row]["observation.images.wrist"] * 255).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(rgb, recorded[seed].seen(step).images[1])
        np.testing.assert_array_equal(samples[row]["action"][0], recorded[seed].actions([step])[0])
    again = dataset_demonstrations(folder, cell.robot, cell.task, 2)
    np.testing.assert_array_equal(again.images[-1], recorded[2].seen(6).images)


def test_holds_failures_and_repositioning_begin_no_sample(made):
    folder, recorded = made(holds=[3], repositioning=[6], keep_repositioning=True)
    samples = TrainingSamples(folder, HORIZON)
    steps = [step for _, step in places(recorded)]
    expected = [row for row, step in enumerate(steps) if step not in (3, 6)]
    assert samples.rows.tolist() == expected
    assert samples[1]["action_is_pad"].tolist() == [False] * 5
    assert samples[3]["action_is_pad"].tolist() == [False, False, True, True, True], "step 4, repositioning at 6"


def test_a_failure_begins_no_sample(made):
    folder, _ = made(label="failure")
    with pytest.raises(DatasetError, match="no frame of it is a demonstration"):
        TrainingSamples(folder, HORIZON)


def test_the_trainers_workers_read_the_same_samples_in_the_same_order(made):
    samples, _ = TrainingSamples(made()[0], HORIZON).split(0.1)

    def batches(workers):
        sampler = StepSampler(len(samples), 4, 1, 1, 0, seed=3, first=0, last=3)
        return list(step_loader(samples, sampler, workers))

    alone, read = batches(0), batches(1)
    assert [batch["task"] for batch in read] == [batch["task"] for batch in alone]
    for name in ("index", "observation.images.base", "observation.images.wrist", "observation.state", "action"):
        assert all(torch.equal(one[name], other[name]) for one, other in zip(alone, read, strict=True)), name


def test_the_last_episodes_are_held_out(made):
    train, held = TrainingSamples(made()[0], HORIZON).split(0.1)
    assert (len(train), len(held)) == (11, 8)
    assert [int(sample["index"]) for sample in held] == list(range(11, 19))


def test_a_data_set_of_lerobots_own_writer(foreign):
    folder, frames = foreign(codec="h264")
    samples = TrainingSamples(folder, 4, cameras={"front": "laptop"}, image_shape=(16, 16))
    assert len(samples) == 24
    for row in (0, 5, 13, 23):
        sample, end = samples[row], 12 * (row // 12 + 1)
        own = np.stack([frames[k]["action"] for k in range(row, min(row + 4, end))])
        np.testing.assert_array_equal(sample["action"][: len(own)], own)
        assert sample["action_is_pad"].sum() == 4 - len(own)
        np.testing.assert_array_equal(sample["observation.state"], frames[row]["observation.state"])
        assert sample["task"] == f"task {row // 12}"
        assert sample["observation.images.front"].shape == (3, 16, 16)
    seen = TrainingSamples(folder, 1)[17]["observation.images.laptop"].permute(1, 2, 0).numpy() * 255
    assert np.abs(seen - frames[17]["observation.images.laptop"]).mean() < 8
    train, held = samples.split(0.5)
    assert (len(train), len(held)) == (12, 12)


def test_cameras_bear_the_robots_names_or_the_policys(foreign, made):
    folder, _ = foreign(cameras=("cam_high", "base"), use_videos=False)
    policy = {"cam_high": "high", "cam_base": "base", "cam_left": "left"}
    found = cameras_of(folder, ("high", "base", "left"), policy)
    assert found == {"high": "cam_high", "base": "base", "left": "left"}
    with pytest.raises(DatasetError, match="no camera for 'left': it has cam_high, base: name one of these in `camer"):
        TrainingSamples(folder, 1, cameras=found)
    assert cameras_of(made()[0], ("base", "wrist"), {"wrist": "base"}) == {"base": "base", "wrist": "wrist"}


def test_images_that_lie_in_the_parquet_files(foreign):
    folder, frames = foreign(use_videos=False)
    sample = TrainingSamples(folder, 2)[20]
    image = (sample["observation.images.laptop"] * 255).round().byte().permute(1, 2, 0)
    np.testing.assert_array_equal(image, frames[20]["observation.images.laptop"])
    np.testing.assert_array_equal(sample["action"], np.stack([frames[k]["action"] for k in (20, 21)]))


def test_a_policy_of_lerobot_takes_a_training_step_on_it(made):
    """ACT of LeRobot, tiny and random, with LeRobot's own processing and the data set's statistics."""
    try:
        act = lerobot_module("policies.act.modeling_act")
        processor = lerobot_module("policies.act.processor_act")
    except ImportError as error:
        pytest.skip(str(error))
    folder, _ = made()
    data = open_dataset(folder, {"action": [k / 50 for k in range(HORIZON)]})
    features = policy_features(data.meta.features)
    action = features.pop("action")
    config = act.ACTConfig(
        input_features=features,
        output_features={"action": action},
        chunk_size=HORIZON,
        n_action_steps=HORIZON,
        dim_model=16,
        n_heads=2,
        dim_feedforward=16,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        pretrained_backbone_weights=None,
        device="cpu",
    )
    torch.manual_seed(0)
    policy = act.ACTPolicy(config)
    prepare, _ = processor.make_act_pre_post_processors(config, dataset_stats=data.meta.stats)
    loss, _ = policy.forward(prepare(next(iter(DataLoader(data, batch_size=4)))))
    loss.backward()
    assert torch.isfinite(loss)
    assert policy.model.action_head.weight.grad.abs().sum() > 0


def test_what_cannot_be_read_is_said(made, foreign, tmp_path):
    folder, _ = made()
    with pytest.raises(DatasetError, match="no camera for 'front': it has base, wrist"):
        TrainingSamples(folder, 1, cameras={"front": "laptop"})
    with pytest.raises(DatasetError, match=r"is no LeRobot data set: meta/info\.json"):
        dataset_info(tmp_path)
    info = folder / "meta/info.json"
    told = json.loads(info.read_text())
    info.write_text(json.dumps({**told, "codebase_version": "v2.1"}))
    with pytest.raises(DatasetError, match=r"layout 'v2\.1', v3\.0 is needed: convert it with .*v21_to_v30"):
        TrainingSamples(folder, 1)
    info.write_text(json.dumps(told))
    shutil.rmtree(folder / "videos/observation.images.wrist")
    with pytest.raises(DatasetError, match="LeRobot does not open it"):
        TrainingSamples(folder, 1)
