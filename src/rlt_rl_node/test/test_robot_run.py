"""What a robot leaves for the learner: what is missing is said, and why."""

import pytest

from rlt_common.episode_file import EpisodeFileError
from rlt_common.retired import Retired, append_retired
from rlt_rl_node.corrections import Progress
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.robot_run import RobotRun


def retire(run, episode_id, purpose="train", label="success"):
    facts = {"purpose": purpose, "label": label}
    append_retired(run, Retired(episode_id, "2026-11-28T08:00:00+00:00", "budget of 2 GiB", 1, facts))


def test_what_was_retired_is_said_when_it_can_not_be_taken_in_again(tmp_path):
    said = []
    store = EpisodeStore(tmp_path / "encoded")
    for episode_id, facts in enumerate([{}, {}, {"label": "discard"}, {"purpose": "evaluate"}, {}], start=1):
        retire(tmp_path, episode_id, **facts)
    run = RobotRun("", tmp_path, store, Progress(last_episode_id=1), said.append)
    assert said == ["2 training episodes up to 5 were retired (retired.jsonl): it goes on without them"]
    assert list(run.backlog) == []
    with pytest.raises(EpisodeFileError, match=r"it was retired on 2026-11-28 \(budget of 2 GiB\)"):
        run.collect(2, None, "")
    with pytest.raises(EpisodeFileError, match=r"no finished file of it in .*episodes"):
        run.collect(9, None, "")
    said.clear()
    RobotRun("", tmp_path, store, Progress(last_episode_id=5), said.append)
    assert said == []


def test_a_list_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "retired.jsonl").mkdir()
    with pytest.raises(EpisodeFileError, match=r"retired\.jsonl: Is a directory"):
        RobotRun("", tmp_path, EpisodeStore(tmp_path / "encoded"), Progress(), print)
