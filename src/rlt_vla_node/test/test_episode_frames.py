"""Episode files as frames at the control rate: the newest value before each step, its age, and what is missing."""

import numpy as np
import pytest
from dataset_episodes import SKEW_S, record

from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.episode_frames import frame_rules, read_frames


@pytest.fixture
def read(tmp_path, cell):
    """Records an episode and reads it as frames."""

    def make(max_age_s=None, keep_repositioning=False, **given):
        path = tmp_path / "000001.mcap"
        recorded = record(path, cell.robot, 1, **given)
        return read_frames(
            path, cell.robot, frame_rules(cell.robot, cell.task, max_age_s, keep_repositioning)
        ), recorded

    return make


def steps_of(frames):
    return [[frames.executed[place].step for place in places] for places in frames.segments]


def test_every_control_step_is_a_frame_with_the_newest_observation_before_it(read):
    frames, recorded = read(steps=9)
    assert steps_of(frames) == [list(range(9))]
    assert frames.seen.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    for place, images in enumerate(frames.images(range(9))):
        np.testing.assert_array_equal(images, recorded.seen(place).images)
    assert not frames.findings.gaps
    assert frames.findings.dropped_observations == 0


def test_the_age_of_an_image_counts_from_its_own_stamp(read):
    frames, _ = read(steps=4)
    expected = [[-skew, 0.02 - skew, -skew, 0.02 - skew] for skew in SKEW_S]
    np.testing.assert_allclose(frames.age_s.T, expected, atol=1e-7)
    median, p99, largest = frames.findings.age_s["base"]
    assert (round(median, 4), round(largest, 4)) == (0.014, 0.024)
    assert median < p99 <= largest


def test_missing_steps_and_late_ticks_tear_an_episode(read):
    frames, _ = read(steps=14, missing=[4, 5], late=[10])
    assert steps_of(frames) == [[0, 1, 2, 3], [6, 7, 8, 9], [10, 11, 12, 13]]
    assert (frames.findings.missing_steps, frames.findings.late_ticks) == (2, 1)
    assert frames.findings.gaps == "2 steps were not recorded, 1 times ticks are missing between two steps"


def test_one_observation_may_be_missing_two_are_a_gap(read):
    frames, _ = read(steps=16, unobserved=[6])
    assert steps_of(frames) == [list(range(16))]
    assert frames.findings.dropped_observations == 1
    assert max(frames.age_s[:, 1]) == pytest.approx(0.06 - SKEW_S[1])
    frames, _ = read(steps=16, unobserved=[6, 8])
    assert steps_of(frames) == [list(range(9)), list(range(10, 16))]
    assert (frames.findings.dropped_observations, frames.findings.stale) == (2, 1)
    frames, _ = read(steps=16, unobserved=[6, 8], max_age_s=0.2)
    assert steps_of(frames) == [list(range(16))]


def test_steps_before_the_first_observation_are_left_out_and_counted(read):
    frames, _ = read(steps=8, unobserved=[0], holds=[0, 1])
    assert steps_of(frames) == [list(range(2, 8))]
    assert (frames.findings.unseen, frames.findings.holds, frames.findings.gaps) == (2, 2, "")


def test_repositioning_is_cut_out_or_kept(read):
    frames, _ = read(steps=12, repositioning=range(3, 6))
    assert steps_of(frames) == [[0, 1, 2], [6, 7, 8, 9, 10, 11]]
    assert (frames.findings.repositioning, frames.findings.gaps) == (3, "")
    frames, _ = read(steps=12, repositioning=range(3, 6), keep_repositioning=True)
    assert steps_of(frames) == [list(range(12))]


def test_what_is_no_recording_of_an_episode_is_refused(read, tmp_path, cell):
    with pytest.raises(DatasetError, match="is a dry run"):
        read(dry_run=[3])
    with pytest.raises(DatasetError, match="0 observations"):
        read(steps=4, unobserved=range(4))
