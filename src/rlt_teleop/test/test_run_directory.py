"""Ids and counts after a restart."""

import pytest

from rlt_common.episode_file import EpisodeFileError, EpisodeWriter
from rlt_common.relabels import append_relabel, episode_path
from rlt_teleop.correction import Corrections
from rlt_teleop.episode_machine import Label
from rlt_teleop.run_directory import LAST_NUMBER, keep_number, scan


def write(run, episode_id, label, purpose="train"):
    EpisodeWriter(episode_path(run, episode_id)).finish({"label": label, "purpose": purpose})


def test_an_empty_run_starts_at_zero(tmp_path):
    assert scan(tmp_path / "not yet there").last_episode_id == 0


def test_ids_go_on_after_the_largest_and_unfinished_files_count(tmp_path):
    write(tmp_path, 1, "success")
    write(tmp_path, 2, "failure")
    (tmp_path / "episodes" / "000004.mcap.part").write_bytes(b"torn")
    (tmp_path / "episodes" / "000002.mcap.part.1").write_bytes(b"torn")
    (tmp_path / "episodes" / "notes.txt").write_text("not an episode")
    ledger = scan(tmp_path)
    assert (ledger.last_episode_id, ledger.counts["episodes"], ledger.counts["successes"]) == (4, 2, 1)
    assert ledger.unreadable == ()
    assert ledger.unfinished == {4}


def test_a_number_that_left_no_file_is_not_given_again(tmp_path):
    run = tmp_path / "not yet there"
    keep_number(run, 3)
    assert scan(run).last_episode_id == 3
    write(run, 4, "success")
    assert scan(run).last_episode_id == 4


@pytest.mark.parametrize("text", ["", "[]", '{"episode_id": -1}', '{"episode_id": "3"}', '{"episode_id": 1e99}'])
def test_a_last_number_that_is_none_is_said(tmp_path, text):
    (tmp_path / LAST_NUMBER).write_text(text)
    with pytest.raises(EpisodeFileError, match=r"last_number\.json: not .*: write that, or delete it"):
        scan(tmp_path)


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
    assert ledger.counts["episodes"] == 1
    assert "000002.mcap" in ledger.unreadable[0]


def test_corrected_labels_count(tmp_path):
    for episode_id, label in enumerate(("success", "timeout", "discard"), start=1):
        write(tmp_path, episode_id, label)
    append_relabel(tmp_path, 1, "failure", 3)
    append_relabel(tmp_path, 2, "success", 3)
    append_relabel(tmp_path, 3, "failure", 3)
    ledger = scan(tmp_path)
    assert (ledger.counts["episodes"], ledger.counts["successes"], ledger.training_episodes) == (3, 1, 3)
    assert (ledger.counts["failures"], ledger.counts["timeouts"], ledger.counts["discards"]) == (2, 0, 0)


def test_an_episode_that_was_given_up_stays_so_for_a_manager_that_starts_before_its_file_comes(tmp_path):
    keep_number(tmp_path, 2)
    Corrections(tmp_path).give_up(2)
    assert scan(tmp_path).counts["episodes"] == 0
    write(tmp_path, 2, "success", "train")
    ledger = scan(tmp_path)
    assert (ledger.counts["discards"], ledger.counts["successes"], ledger.training_episodes) == (1, 0, 0)
    given_back = Corrections(tmp_path).give(2, Label.SUCCESS, 2)
    assert (given_back.before, given_back.recorded) == (Label.DISCARD, Label.SUCCESS)
    assert scan(tmp_path).training_episodes == 1


def test_a_human_who_took_over_is_counted(tmp_path):
    for episode_id, intervened in enumerate(("true", "false", "true"), start=1):
        EpisodeWriter(episode_path(tmp_path, episode_id)).finish({"label": "success", "intervened": intervened})
    write(tmp_path, 4, "success")  # of an earlier version: it says nothing
    assert scan(tmp_path).counts["interventions"] == 2
