"""Episode files to training arrays."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlt_vla_node.dataset import (
    DatasetError,
    action_spread,
    block_statistics,
    load_demonstrations,
    load_pose_images,
    read_joined,
)


@pytest.fixture
def folder(tmp_path, write_episode):
    """Two successes, one failure."""
    write_episode(tmp_path / "1.mcap", seed=1, steps=20)
    write_episode(tmp_path / "2.mcap", seed=2, steps=14, targets=False)
    write_episode(tmp_path / "3.mcap", seed=3, steps=14, label="failure")
    return tmp_path


def test_frames_chunks_and_targets(folder, cell, write_episode, observation):
    actions = write_episode(folder / "1.mcap", seed=1, steps=20)
    data = load_demonstrations(folder, cell.robot, cell.task, frame_stride=4)
    assert data.files == ("1.mcap", "2.mcap")
    assert data.episode.tolist() == [0] * 5 + [1] * 4
    assert data.images.shape == (9, 2, 16, 16, 3)
    assert data.actions.shape == (9, 10, 14)
    np.testing.assert_array_equal(data.actions[1], actions[4:14])
    np.testing.assert_array_equal(data.actions[4, :4], actions[16:])
    assert not data.actions[4, 4:].any(), "beyond the end the arms hold"
    source = observation(1000 + 8, 0)
    np.testing.assert_array_equal(data.images[2], source.images)
    np.testing.assert_array_equal(data.state(["ee_pose", "joint_effort"])[2], source.state(["ee_pose", "joint_effort"]))
    assert np.isfinite(data.target[:5]).all()
    assert np.isnan(data.target[5:]).all()
    assert len(data.executed) == 16 + 10, "the critical phase begins at step 4"


def test_no_chunk_holds_a_step_in_which_the_arms_were_repositioned(tmp_path, cell, write_episode):
    horizon = cell.task.horizon
    actions = write_episode(tmp_path / "1.mcap", seed=1, steps=40, repositioning=range(18, 23))
    data = load_demonstrations(tmp_path, cell.robot, cell.task, frame_stride=2)
    used = [step for step in range(0, 40, 2) if not set(range(step, step + horizon)) & set(range(18, 23))]
    assert used == [0, 2, 4, 6, 8, 24, 26, 28, 30, 32, 34, 36, 38]
    padded = np.concatenate([actions, np.zeros((horizon, 14), np.float32)])
    np.testing.assert_array_equal(data.actions, np.stack([padded[step : step + horizon] for step in used]))
    np.testing.assert_array_equal(data.executed, np.concatenate([actions[4:18], actions[23:]]))


def test_an_episode_of_repositioning_alone_teaches_nothing(tmp_path, cell, write_episode):
    write_episode(tmp_path / "1.mcap", seed=1, steps=20, repositioning=range(20))
    with pytest.raises(DatasetError, match="none of the 1 episodes"):
        load_demonstrations(tmp_path, cell.robot, cell.task, frame_stride=2)


def test_a_dry_run_teaches_nothing_and_is_named(folder, cell, write_episode):
    write_episode(folder / "2.mcap", seed=2, steps=20, dry_run=range(19, 20))
    with pytest.raises(DatasetError, match=r"2\.mcap: is a dry run: nothing of it was sent to the arms: remove"):
        load_demonstrations(folder, cell.robot, cell.task, frame_stride=4)
    with pytest.raises(DatasetError, match=r"2\.mcap: is a dry run"):
        read_joined(folder / "2.mcap", 20_000_000)


def test_without_recorded_targets_there_are_none(tmp_path, cell, write_episode):
    write_episode(tmp_path / "1.mcap", seed=1, targets=False)
    assert load_demonstrations(tmp_path, cell.robot, cell.task, frame_stride=4).target.shape == (5, 0)


def test_an_empty_folder_and_one_without_successes_are_errors(tmp_path, cell, write_episode):
    with pytest.raises(DatasetError, match="no episode files"):
        load_demonstrations(tmp_path, cell.robot, cell.task, frame_stride=4)
    write_episode(tmp_path / "1.mcap", seed=1, label="failure")
    with pytest.raises(DatasetError, match="none of the 1 episodes"):
        load_demonstrations(tmp_path, cell.robot, cell.task, frame_stride=4)


def test_a_torn_file_is_named(folder, cell):
    path = folder / "2.mcap"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=r"2\.mcap"):
        load_demonstrations(folder, cell.robot, cell.task, frame_stride=4)


def test_episodes_of_another_robot_are_refused(folder, cell):
    cameras = tuple(reversed(cell.robot.cameras))
    other = dataclasses.replace(cell.robot, cameras=cameras)
    with pytest.raises(DatasetError, match="was recorded with cameras"):
        load_demonstrations(folder, other, cell.task, frame_stride=4)


def test_pose_images_are_checked_against_the_robot(pose_images, cell):
    poses = load_pose_images(pose_images, cell.robot, cell.task)
    assert (poses.images.shape, poses.state.shape, poses.target.shape) == ((12, 2, 16, 16, 3), (12, 26), (12, 6))
    arrays = load_file(pose_images)
    for key, bad, message in (
        ("images", arrays["images"][:, :1], "images are"),
        ("vla_state", arrays["vla_state"][:, 1:], "vla_state"),
        ("target", np.full_like(arrays["target"], np.nan), "not finite"),
    ):
        save_file({**arrays, key: np.ascontiguousarray(bad)}, pose_images)
        with pytest.raises(DatasetError, match=message):
            load_pose_images(pose_images, cell.robot, cell.task)
    with pytest.raises(DatasetError, match="no pre-training images"):
        load_pose_images(pose_images.with_name("none.safetensors"), cell.robot, cell.task)


def test_spread_and_deviation_have_floors():
    limit = np.array([0.005, 0.05])
    executed = np.array([[0.001, 0.0], [-0.001, 0.0]], np.float32)
    np.testing.assert_allclose(action_spread(executed, limit), [0.001, 0.0006], rtol=1e-6)
    mean, std = block_statistics("joint_effort", np.array([[1.0, 5.0], [3.0, 5.0]], np.float32))
    np.testing.assert_allclose(mean, [2.0, 5.0])
    np.testing.assert_allclose(std, [1.0, 0.05])
    _, std = block_statistics("ee_pose", np.zeros((4, 12), np.float32))
    np.testing.assert_allclose(std, [0.002] * 3 + [0.02] * 3 + [0.002] * 3 + [0.02] * 3)
