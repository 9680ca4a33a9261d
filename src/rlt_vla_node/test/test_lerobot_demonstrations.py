"""The built-in VLA's demonstrations from a data set are those of the episode files that it was made of."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from dataset_episodes import record

from rlt_vla_node import adapt
from rlt_vla_node.dataset import DatasetError, load_demonstrations
from rlt_vla_node.dataset_conversion import Wanted, convert
from rlt_vla_node.episode_frames import frame_rules
from rlt_vla_node.lerobot_dataset import TrainingSamples
from rlt_vla_node.lerobot_demonstrations import dataset_demonstrations

HORIZON = 10


@pytest.fixture
def both(tmp_path, cell):
    """Demonstrations from episode files, and from the data set made of them."""

    def make(frame_stride=2, codec="lossless", keep_repositioning=False):
        rules = frame_rules(cell.robot, cell.task, keep_repositioning=keep_repositioning)
        convert(tmp_path / "in", tmp_path / "set", cell.robot, cell.task, rules, Wanted(True, True, codec))
        return (
            load_demonstrations(tmp_path / "in", cell.robot, cell.task, frame_stride),
            dataset_demonstrations(tmp_path / "set", cell.robot, cell.task, frame_stride),
        )

    return make


def same(one, other, images=True):
    for field in dataclasses.fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name == "blocks":
            assert set(ours) == set(theirs)
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
        elif field.name == "files":
            assert len(ours) == len(theirs)
        elif field.name != "images" or images:
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("keep_repositioning", [False, True])
def test_they_are_the_same_to_the_bit(tmp_path, cell, both, keep_repositioning):
    record(tmp_path / "in/1.mcap", cell.robot, 1, steps=24, targets=True, holds=[6])
    record(tmp_path / "in/2.mcap", cell.robot, 2, steps=40, repositioning=range(13, 17))
    record(tmp_path / "in/3.mcap", cell.robot, 3, steps=15, label="failure")
    record(tmp_path / "in/4.mcap", cell.robot, 4, steps=31, handoff_step=100, repositioning=range(28, 31))
    record(tmp_path / "in/5.mcap", cell.robot, 5, steps=15, unobserved=[8])
    record(tmp_path / "in/6.mcap", cell.robot, 6, steps=18, stride=4)
    ours, theirs = both(keep_repositioning=keep_repositioning)
    assert len(ours.actions) > 30
    same(ours, theirs)


def test_without_targets_there_are_none(tmp_path, cell, both):
    record(tmp_path / "in/1.mcap", cell.robot, 1)
    ours, theirs = both(frame_stride=4)
    assert theirs.target.shape == (5, 0)
    same(ours, theirs)


def test_images_are_what_the_codec_left(tmp_path, cell, both):
    record(tmp_path / "in/1.mcap", cell.robot, 1)
    ours, theirs = both(codec="h264")
    same(ours, theirs, images=False)
    error = np.abs(ours.images.astype(int) - theirs.images)
    assert 0 < error.mean() < 10


def test_a_data_set_of_another_robot_or_of_somebody_else_is_refused(tmp_path, cell, both):
    record(tmp_path / "in/1.mcap", cell.robot, 1)
    both()
    faster = dataclasses.replace(cell.robot, control_hz=25.0)
    with pytest.raises(DatasetError, match=r"frames a second 50, robot tiny has 25\.0"):
        dataset_demonstrations(tmp_path / "set", faster, cell.task, 2)
    by_joints = dataclasses.replace(cell.robot, actions="joints")
    with pytest.raises(DatasetError, match=r"has actions \['left\.x', .*, robot tiny has \['left_waist',"):
        dataset_demonstrations(tmp_path / "set", by_joints, cell.task, 2)
    path = tmp_path / "set/meta/info.json"
    info = json.loads(path.read_text())
    del info["features"]["source.step"]
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"has no column 'source\.step'.*or on data sets that `dataset` made"):
        dataset_demonstrations(tmp_path / "set", cell.robot, cell.task, 2)


def test_adapt_takes_a_data_set_in_place_of_episode_files(tmp_path, cell, both, capsys):
    for seed in (1, 2):
        record(tmp_path / f"in/{seed}.mcap", cell.robot, seed, steps=24)
    both()
    common = ["--robot", str(cell.robot_path), "--task", str(cell.task_path), "--steps", "2", "--batch", "4"]
    hashes = []
    for source in ("in", "set"):
        option = "--dataset" if source == "set" else "--demonstrations"
        adapt.main([*common, option, str(tmp_path / source), "--output", str(tmp_path / f"vla-{source}")])
        said = capsys.readouterr().out
        hashes.append(said.split("checkpoint ")[1].split()[0])
    assert hashes[0] == hashes[1], "lossless images and the same numbers give the same VLA"
    assert "is a data set: encode its episode files" in said


def test_without_lerobot_training_samples_say_what_to_install(tmp_path, cell, both, monkeypatch):
    record(tmp_path / "in/1.mcap", cell.robot, 1)
    both()
    for name in [name for name in sys.modules if name.partition(".")[0] == "lerobot"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(DatasetError, match=r"takes LeRobot, which is not installed .*make extras"):
        TrainingSamples(tmp_path / "set", 5)
