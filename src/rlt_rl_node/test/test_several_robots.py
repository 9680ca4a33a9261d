"""One learner for several robots: same numbers stay apart, and a killed learner does all in its order again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rl_episodes import learner_config, random_episode, task_shape

from rlt_common.parameters import ParameterError
from rlt_common.relabels import append_relabel
from rlt_rl_node import checkpoint
from rlt_rl_node.checkpoint import CheckpointError
from rlt_rl_node.corrections import Correction
from rlt_rl_node.learner import Learner
from rlt_rl_node.learner_parameters import LearnerParameters
from rlt_rl_node.records import EpisodeData, EpisodeKey, Label
from rlt_rl_node.run_session import RunSession
from rlt_rl_node.take_in_order import TakeInOrder

CELLS = ("cell_a", "cell_b")


def practised(robot: str, episode_id: int, label: Label = Label.SUCCESS) -> EpisodeData:
    """Both cells count from 1, and what they practised differs."""
    data = random_episode(1000 * (CELLS.index(robot) + 1) + episode_id, 20 + 2 * episode_id, label)
    return replace(data, episode_id=episode_id, robot=robot)


def nothing(key: EpisodeKey, label: Label) -> None:
    """No journal."""


class Shared:
    """A session of two robots as the learner node drives it."""

    def __init__(self, folder: Path, start_from: Path | None = None, journalled=nothing) -> None:
        self.words: list[str] = []
        self.journalled = journalled
        robots = {cell: folder / cell for cell in CELLS}
        self.session = RunSession(
            folder / "run", task_shape(), learner_config(), start_from, self.words.append, None, robots
        )
        while self.follow() or any(self.take_next(cell) for cell in CELLS):
            pass

    @property
    def learner(self) -> Learner:
        return self.session.learner

    def follow(self) -> bool:
        followed = False
        while self.session.correct(self.journalled):
            followed = True
        return followed

    def take_next(self, cell: str) -> bool:
        key = self.session.next_on_disk(cell)
        if key is None:
            return False
        episode = self.session.stored(key)
        if episode.label.trainable:
            self.take_in(episode)
        else:
            self.learner.pass_over(key)
        return True

    def take_in(self, episode: EpisodeData) -> None:
        self.session.take_in(episode)
        while self.learner.owed:
            self.learner.run_updates(1000)
        self.follow()

    def hear(self, robot: str, sequence: int, episode_id: int, label: Label, after: int) -> None:
        self.session.robots[robot].corrections.offer(Correction(sequence, episode_id, label, after))
        self.follow()


def state(learner: Learner):
    arrays = {name: values.tobytes() for name, values in learner.arrays().items()}
    return arrays, learner.counters(), learner.replay.episodes


@pytest.fixture(autouse=True)
def run_folders(tmp_path):
    for name in ("run", *CELLS):
        (tmp_path / name).mkdir()


def test_episodes_of_the_same_number_are_kept_apart(tmp_path):
    shared = Shared(tmp_path)
    for robot in CELLS:
        shared.take_in(practised(robot, 1))
    assert shared.learner.replay.episodes == (EpisodeKey(1, "cell_a"), EpisodeKey(1, "cell_b"))
    assert shared.learner.budget.episodes == 2
    for robot in CELLS:
        kept = shared.session.stored(EpisodeKey(1, robot))
        np.testing.assert_array_equal(kept.actions, practised(robot, 1).actions)
        assert kept.key == EpisodeKey(1, robot)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.safetensors")) == [
        f"run/encoded/{robot}/000001.safetensors" for robot in CELLS
    ]


def test_the_updates_of_both_are_owed(tmp_path):
    shared = Shared(tmp_path)
    for robot in CELLS:
        shared.take_in(practised(robot, 1))
    before = shared.learner.agent.updates
    for robot in CELLS:
        shared.take_in(practised(robot, 2))
    both = sum(len(practised(robot, 2).encoded_steps) for robot in CELLS)
    assert shared.learner.agent.updates - before == both // 2  # half an update per transition


def test_a_label_of_one_robot_leaves_the_other_s_episode_of_that_number_alone(tmp_path):
    shared = Shared(tmp_path)
    for robot in CELLS:
        shared.take_in(practised(robot, 1))
    shared.hear("cell_b", 1, 1, Label.DISCARD, 1)
    assert shared.learner.replay.episodes == (EpisodeKey(1, "cell_a"),)
    assert shared.learner.progress("cell_a").labels == {}
    assert shared.learner.progress("cell_b").labels == {1: Label.DISCARD}
    assert any("episode 1 of cell_b is relabelled DISCARD" in words for words in shared.words)
    shared.hear("cell_a", 1, 1, Label.FAILURE, 1)  # its own first one
    assert shared.learner.progress("cell_a").corrections == 1


@pytest.mark.parametrize("saved_after", [0, 2, 5, 7])
def test_a_killed_learner_does_all_in_the_same_order_again(tmp_path, saved_after):
    first = Shared(tmp_path)
    taken = [("cell_b", 1), ("cell_b", 2), ("cell_a", 1), ("cell_b", 3), ("cell_a", 2), ("cell_a", 3), ("cell_a", 4)]
    for count, (robot, episode_id) in enumerate(taken, 1):
        if count == saved_after:
            first.session.save()
        first.take_in(practised(robot, episode_id))
        if count == 4:
            first.hear("cell_b", 1, 1, Label.FAILURE, 2)
    again = Shared(tmp_path)
    assert state(again.learner) == state(first.learner)
    twice = Shared(tmp_path)  # what is done again is written down once
    assert state(twice.learner) == state(first.learner)
    assert len((tmp_path / "run" / "order.jsonl").read_text().splitlines()) == len(taken) + 1
    for shared in (first, again):
        shared.take_in(practised("cell_b", 4))
    assert state(again.learner) == state(first.learner)


def test_a_discard_that_was_given_its_label_back_comes_to_its_place_after_a_kill(tmp_path):
    first = Shared(tmp_path, journalled=lambda key, label: practised(key.robot, key.episode_id, Label.DISCARD))
    for robot, episode_id in (("cell_a", 1), ("cell_b", 1)):
        first.take_in(practised(robot, episode_id))
    first.learner.pass_over(EpisodeKey(2, "cell_a"))
    first.hear("cell_a", 1, 2, Label.SUCCESS, 2)
    first.take_in(practised("cell_b", 2))
    assert [key.episode_id for key in first.learner.replay.episodes] == [1, 1, 2, 2]
    again = Shared(tmp_path)
    assert state(again.learner) == state(first.learner)


def test_news_wait_until_all_is_done_again(tmp_path):
    first = Shared(tmp_path)
    for robot, episode_id in (("cell_a", 1), ("cell_b", 1), ("cell_a", 2)):
        first.take_in(practised(robot, episode_id))
    append_relabel(tmp_path / "cell_b", 1, "discard", 0)  # due at once, but made while the learner was away
    robots = {cell: tmp_path / cell for cell in CELLS}
    again = RunSession(tmp_path / "run", task_shape(), learner_config(), None, print, None, robots)
    order = []
    while again.again():
        assert not again.correct(lambda key, label: None)
        found = [key for cell in CELLS if (key := again.next_on_disk(cell))]
        assert len(found) == 1
        order += found
        again.take_in(again.stored(found[0]))
    assert order == [EpisodeKey(1, "cell_a"), EpisodeKey(1, "cell_b"), EpisodeKey(2, "cell_a")]
    assert again.correct(lambda key, label: None)


def test_a_torn_line_of_the_order_is_named_and_what_follows_is_read(tmp_path):
    shared = Shared(tmp_path)
    shared.take_in(practised("cell_a", 1))
    path = tmp_path / "run" / "order.jsonl"
    path.write_bytes(path.read_bytes() + b'{"robot": "ce')
    shared.take_in(practised("cell_b", 1))
    words = []
    events = TakeInOrder(path).read(words.append)
    assert [event.key for event in events] == [EpisodeKey(1, "cell_a"), EpisodeKey(1, "cell_b")]
    assert len(words) == 1
    assert "line 2 is left out" in words[0]


def test_another_robot_may_come_later_and_one_may_leave(tmp_path):
    def session(*cells):
        robots = {cell: tmp_path / cell for cell in cells}
        return RunSession(tmp_path / "run", task_shape(), learner_config(), None, print, None, robots)

    alone = session("cell_a")
    for i in (1, 2):
        alone.take_in(practised("cell_a", i))
    alone.save()
    both = session(*CELLS)
    assert both.learner.progress("cell_b").last_episode_id == 0
    both.take_in(practised("cell_b", 1))
    both.save()
    other = session("cell_b")
    keys = (EpisodeKey(1, "cell_a"), EpisodeKey(2, "cell_a"), EpisodeKey(1, "cell_b"))
    assert other.learner.replay.episodes == keys
    assert other.learner.progress("cell_a").last_episode_id == 2


def one_robot_format(path: Path) -> None:
    """Write the checkpoint's state as a learner did that knew of one robot."""
    state = json.loads((path / checkpoint.STATE).read_text())
    counters = state["counters"]
    counters |= counters.pop("robots")[""]
    episodes = [[episode_id, digest] for episode_id, _, digest in state["episodes"]]
    (path / checkpoint.STATE).write_text(json.dumps({**state, "format": 4, "episodes": episodes}))


def test_a_checkpoint_of_a_learner_of_one_robot_is_read(tmp_path):
    run = tmp_path / "run"
    first = RunSession(run, task_shape(), learner_config(), None, print)
    for i in (1, 2, 3):
        first.take_in(random_episode(i, 30))
    first.robots[""].corrections.offer(Correction(1, 2, Label.FAILURE, 3))
    assert first.correct(lambda key, label: None)
    path = first.save()
    one_robot_format(path)
    again = RunSession(run, task_shape(), learner_config(), None, print)
    assert state(again.learner) == state(first.learner)
    assert not (run / "order.jsonl").exists()  # one robot needs none
    broken = json.loads((path / checkpoint.STATE).read_text())
    del broken["counters"]["labels"]
    (path / checkpoint.STATE).write_text(json.dumps(broken))
    with pytest.raises(CheckpointError, match=r"labels.*damaged"):
        RunSession(run, task_shape(), learner_config(), path, print)
    (path / checkpoint.STATE).write_text(json.dumps({**broken, "format": 3}))
    with pytest.raises(CheckpointError, match="not of format 5, nor of 4"):
        RunSession(run, task_shape(), learner_config(), path, print)


def parameters(**values: object) -> LearnerParameters:
    return LearnerParameters(robot="r", task="t", run_directory="/runs/both", vla_checkpoint="v", **values)


def test_which_robots_there_are():
    assert parameters().robot_runs("/x") == {"": Path("/runs/both")}
    assert parameters(robots=("cell_a", "/cell_b")).robot_runs("/lab") == {"lab/cell_a": None, "cell_b": None}
    there = parameters(robots=CELLS, run_directories=("/runs/a", ""))
    assert there.robot_runs("/") == {"cell_a": Path("/runs/a"), "cell_b": None}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"robots": ("cell a",)}, "'cell a' is no namespace"),
        ({"robots": ("../cell",)}, "is no namespace"),
        ({"robots": ("",)}, "'' is no namespace"),
        ({"robots": ("cell_a", "/cell_a")}, "robots: 'cell_a' is given twice"),
        ({"robots": CELLS, "run_directories": ("/runs/a",)}, "2 robots and 1 run_directories"),
        ({"robots": CELLS, "run_directories": ("/runs/a", "/runs/./a")}, "run_directories: '/runs/a' is given twice"),
        ({"run_directories": ("/runs/a",)}, "run_directories without robots"),
    ],
)
def test_robots_that_cannot_be_are_an_error(values, words):
    with pytest.raises(ParameterError, match=words):
        parameters(**values).robot_runs("/")
