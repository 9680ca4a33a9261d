"""Ids after a restart, and relabels."""

import json

import pytest

from rlt_common.episode_file import EpisodeFileError, EpisodeWriter
from rlt_teleop.run_directory import append_relabel, episode_path, scan


def write(run, episode_id, label, purpose="train"):
    EpisodeWriter(episode_path(run, episode_id)).finish({"label": label, "purpose": purpose})


def test_an_empty_run_starts_at_zero(tmp_path):
    assert scan(tmp_path / "not yet there").last_episode_id == 0


def test_ids_go_on_after_the_largest_and_unfinished_files_count(tmp_path):
    write(tmp_path, 1, "success")
    write(tmp_path, 2, "failure")
    (tmp_path / "episodes" / "000004.mcap.part").write_bytes(b"torn")
    (tmp_path / "episodes" / "notes.txt").write_text("not an episode")
    ledger = scan(tmp_path)
    assert (ledger.last_episode_id, ledger.episodes, ledger.successes) == (4, 2, 1)
    assert ledger.unreadable == ()


def test_training_episodes_are_counted_for_the_curriculum(tmp_path):
    for episode_id, (label, purpose) in enumerate(
        [("success", "train"), ("discard", "train"), ("timeout", "train"), ("success", "evaluate")], start=1
    ):
        write(tmp_path, episode_id, label, purpose)
    assert scan(tmp_path).training_episodes == 2


def test_a_torn_file_is_named(tmp_path):
    write(tmp_path, 1, "success")
    whole = episode_path(tmp_path, 1).read_bytes()
    episode_path(tmp_path, 2).write_bytes(whole[: len(whole) // 2])
    ledger = scan(tmp_path)
    assert ledger.last_episode_id == 2
    assert ledger.episodes == 1
    assert "000002.mcap" in ledger.unreadable[0]


def test_relabels_are_appended(tmp_path):
    write(tmp_path, 1, "success")
    append_relabel(tmp_path, 1, "failure")
    path = tmp_path / "labels.jsonl"
    path.write_text(path.read_text() + '{"episode_id": 1, "la')  # a crash in the middle of a line
    append_relabel(tmp_path, 1, "discard")
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"episode_id": 1, "label": "failure"}
    assert json.loads(lines[-1]) == {"episode_id": 1, "label": "discard"}


def test_a_relabel_of_no_episode_is_refused(tmp_path):
    with pytest.raises(EpisodeFileError, match=r"000009\.mcap: no such episode"):
        append_relabel(tmp_path, 9, "failure")
