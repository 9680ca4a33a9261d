"""Corrected labels: the replay follows, what was trained stays, and a resumed learner arrives at the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rl_episodes import ids, learner_config, random_episode, task_shape

from rlt_common.relabels import append_relabel
from rlt_rl_node.corrections import Correction, PendingCorrections
from rlt_rl_node.learner import Learner
from rlt_rl_node.records import EpisodeKey, Label
from rlt_rl_node.run_session import RunSession

EPISODES = {i: random_episode(i, 20 + 2 * i, label) for i, label in enumerate([Label.SUCCESS, Label.FAILURE] * 3, 1)}


def nothing(key, label):
    """No journal."""


class Run:
    """A session as the learner node drives it: corrections that are due come before the next episode."""

    def __init__(self, folder, journalled=nothing):
        self.words: list[str] = []
        self.journalled = journalled
        self.session = RunSession(folder, task_shape(), learner_config(), None, self.words.append)
        while self.session.robots[""].backlog:
            self.follow()
            key = self.session.next_on_disk("")
            episode = self.session.stored(key)
            if episode.label.trainable:
                self.take_in(episode)
            else:
                self.learner.pass_over(key)
        self.follow()

    @property
    def learner(self) -> Learner:
        return self.session.learner

    def follow(self):
        while self.session.correct(self.journalled):
            pass

    def take_in(self, episode):
        self.session.take_in(episode)
        while self.learner.owed:
            self.learner.run_updates(1000)

    def hear(self, relabel):
        """The manager's message."""
        label = Label[relabel.label.upper()]
        found = Correction(relabel.sequence, relabel.episode_id, label, relabel.after_episode)
        self.session.robots[""].corrections.offer(found)
        self.follow()


def batch(learner):
    return learner.replay.gather(torch.arange(len(learner.replay)))


def state(learner):
    arrays = {name: values.tobytes() for name, values in learner.arrays().items()}
    return arrays, learner.counters(), ids(learner), batch(learner).rewards.tolist()


@pytest.mark.parametrize("saved_after", [2, 3, 4, 5])
def test_a_learner_that_was_away_follows_corrections_where_it_did_before(tmp_path, saved_after):
    first = Run(tmp_path)
    for i in range(1, 7):
        first.take_in(EPISODES[i])
        if i == 3:
            first.hear(append_relabel(tmp_path, 2, "success", 3))
            first.hear(append_relabel(tmp_path, 1, "discard", 3))
        if i == 5:
            first.hear(append_relabel(tmp_path, 1, "failure", 5))
        if i == saved_after:
            first.session.save()
    again = Run(tmp_path)  # as after a kill
    assert state(again.learner) == state(first.learner)
    assert again.learner.progress().corrections == 3
    again.take_in(random_episode(7))
    first.take_in(random_episode(7))
    assert state(again.learner) == state(first.learner)


def test_the_replay_has_the_corrected_label_and_what_was_trained_stays(tmp_path):
    run = Run(tmp_path)
    for i in (1, 2, 3):
        run.take_in(EPISODES[i])
    before, updates = run.learner.arrays(), run.learner.agent.updates
    run.hear(append_relabel(tmp_path, 2, "success", 3))
    assert run.learner.agent.updates == updates
    assert run.learner.owed == 0
    assert all(np.array_equal(before[name], values) for name, values in run.learner.arrays().items())
    fresh = Learner(task_shape(), learner_config())
    for episode in (EPISODES[1], EPISODES[3], replace(EPISODES[2], label=Label.SUCCESS)):
        fresh.replay.add(episode)
    assert batch(run.learner).rewards.tolist() == batch(fresh).rewards.tolist()
    assert batch(run.learner).bootstrap.tolist() == batch(fresh).bootstrap.tolist()
    assert any("not undone" in words for words in run.words)


def test_a_discarded_episode_leaves_and_comes_back(tmp_path):
    run = Run(tmp_path)
    for i in (1, 2, 3):
        run.take_in(EPISODES[i])
    held = len(run.learner.replay)
    run.hear(append_relabel(tmp_path, 2, "discard", 3))
    assert ids(run.learner) == (1, 3)
    run.hear(append_relabel(tmp_path, 2, "failure", 3))
    assert ids(run.learner) == (1, 3, 2)
    assert len(run.learner.replay) == held


def test_an_episode_that_was_never_taken_in_comes_from_its_journal_and_owes_nothing_then_or_after_a_kill(tmp_path):
    asked = []

    def journalled(key, label):
        asked.append((key, label))
        return random_episode(key.episode_id, 20, Label.DISCARD)

    run = Run(tmp_path, journalled)
    run.take_in(EPISODES[1])
    run.learner.pass_over(EpisodeKey(2))
    run.take_in(EPISODES[3])
    updates = run.learner.agent.updates
    run.hear(append_relabel(tmp_path, 2, "success", 3))
    assert asked == [(EpisodeKey(2), Label.SUCCESS)]
    assert ids(run.learner) == (1, 3, 2)
    assert batch(run.learner).rewards.max() > 0
    assert (run.learner.agent.updates, run.learner.owed, run.learner.budget.episodes) == (updates, 0, 2)
    assert state(Run(tmp_path, journalled).learner) == state(run.learner)
    run.hear(append_relabel(tmp_path, 9, "discard", 3))
    assert any("episode 9 is relabelled DISCARD: it is not in the replay" in words for words in run.words)


def test_a_damaged_encoding_is_written_again_from_the_journal_as_it_was(tmp_path):
    run = Run(tmp_path, lambda key, label: EPISODES[key.episode_id])
    for i in (1, 2, 3):
        run.take_in(EPISODES[i])
    path = run.session.store.path(EpisodeKey(2))
    whole = path.read_bytes()
    run.hear(append_relabel(tmp_path, 2, "discard", 3))
    run.session.save()
    path.write_bytes(whole[:-8])
    again = Run(tmp_path, run.journalled)
    again.hear(append_relabel(tmp_path, 2, "success", 3))
    assert ids(again.learner) == (1, 3, 2)
    assert path.read_bytes() == whole
    again.session.save()
    assert state(Run(tmp_path).learner) == state(again.learner)


def test_a_label_may_be_corrected_before_the_episode_is_taken_in(tmp_path):
    run = Run(tmp_path)
    run.take_in(EPISODES[1])
    for episode_id, label in ((2, "success"), (3, "discard")):
        run.hear(append_relabel(tmp_path, episode_id, label, 1))
    run.take_in(EPISODES[2])
    run.take_in(EPISODES[3])
    assert ids(run.learner) == (1, 2)
    assert batch(run.learner).rewards.max() > 0
    assert run.learner.progress().last_episode_id == 3


def test_without_any_episode_left_nothing_is_owed_and_the_run_goes_on(tmp_path):
    run = Run(tmp_path)
    for i in (1, 2, 3):
        run.session.take_in(EPISODES[i])
    assert run.learner.owed
    for i in (1, 2, 3):
        run.hear(append_relabel(tmp_path, i, "discard", 3))
    assert (len(run.learner.replay), run.learner.owed) == (0, 0)
    assert run.learner.run_updates(10) == 0
    run.take_in(EPISODES[4])
    assert run.learner.agent.updates > 0


def test_a_correction_waits_for_the_episodes_that_had_ended_before_it(tmp_path):
    run = Run(tmp_path)
    run.take_in(EPISODES[1])
    run.hear(append_relabel(tmp_path, 1, "failure", 2))
    assert run.learner.progress().corrections == 0
    run.take_in(EPISODES[2])
    run.follow()
    assert run.learner.progress().corrections == 1


@pytest.mark.parametrize("saved_after", [1, 2])
def test_a_correction_that_waited_for_a_lost_episode_comes_before_the_next_one_after_a_kill_too(tmp_path, saved_after):
    first = Run(tmp_path)
    for i in (1, 2):
        first.take_in(EPISODES[i])
        if i == saved_after:
            first.session.save()
    first.hear(append_relabel(tmp_path, 1, "failure", 3))  # the file of 3 is still to come
    first.learner.pass_over(EpisodeKey(3))  # it does not, it was told
    first.follow()
    first.take_in(EPISODES[4])
    assert state(Run(tmp_path).learner) == state(first.learner)


def test_an_episode_that_was_given_up_before_its_file_came_is_not_taken_in_after_a_kill_either(tmp_path):
    first = Run(tmp_path)
    first.take_in(EPISODES[1])
    first.session.save()
    first.learner.pass_over(EpisodeKey(2))  # lost, it was told
    first.take_in(EPISODES[3])
    first.hear(append_relabel(tmp_path, 1, "failure", 3))
    first.hear(append_relabel(tmp_path, 2, "discard", 1))  # then its file came
    first.session.store.save(EPISODES[2])
    again = Run(tmp_path)
    assert ids(again.learner) == (3, 1)
    assert state(again.learner) == state(first.learner)
    given_back = append_relabel(tmp_path, 2, "success", 3)
    for run in (first, again):
        run.hear(given_back)
        assert ids(run.learner) == (3, 1, 2)


def test_an_episode_that_was_given_up_and_left_no_file_holds_nothing_up_and_changes_nothing(tmp_path):
    first = Run(tmp_path)
    first.take_in(EPISODES[1])
    first.session.save()
    first.hear(append_relabel(tmp_path, 2, "discard", 1))
    first.learner.pass_over(EpisodeKey(2))
    first.take_in(EPISODES[3])
    first.hear(append_relabel(tmp_path, 1, "failure", 3))
    assert ids(first.learner) == (3, 1)
    assert state(Run(tmp_path).learner) == state(first.learner)


@given(st.permutations(range(1, 8)), st.integers(0, 7))
def test_corrections_are_followed_once_and_in_their_order(order, applied):
    pending = PendingCorrections(applied)
    for sequence in (*order, *order):
        pending.offer(Correction(sequence, sequence, Label.SUCCESS, 0))
    found = []
    while (correction := pending.due(0)) is not None:
        found.append(correction.sequence)
        pending.followed(correction.sequence)
        pending.offer(correction)
    assert found == list(range(applied + 1, 8))


@pytest.mark.parametrize("label", [Label.NONE, Label.TIMEOUT])
def test_what_no_operator_gives_is_no_correction(label):
    with pytest.raises(ValueError, match=f"cannot be relabelled {label.name}"):
        Correction(1, 1, label, 0)
    with pytest.raises(ValueError, match="no sequence number"):
        Correction(0, 1, Label.SUCCESS, 0)
    for numbers in ((10**9, 1, 0), (1, 10**9, 0), (1, 1, 10**9)):
        with pytest.raises(ValueError, match="so many cannot be"):
            Correction(numbers[0], numbers[1], Label.SUCCESS, numbers[2])
