"""Golden transitions, worked out by hand (Sec. V), and properties over random episodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_episodes import episode

from rlt_rl_node.records import Label, Source
from rlt_rl_node.transitions import assemble

RL, HUMAN, HOLD, REPO = Source.RL, Source.HUMAN, Source.HOLD, Source.REPOSITIONING


def rows(table, data):
    """(observation's step, x' step, first action's step, n, terminal) of each transition."""
    return [
        (
            int(data.encoded_steps[e]),
            int(data.encoded_steps[f]),
            int(data.steps[a]),
            int(n),
            bool(t),
        )
        for e, f, a, n, t in zip(
            table.encoding, table.next_encoding, table.first_action, table.length, table.terminal, strict=True
        )
    ]


def test_success_is_terminal_and_the_last_chunks_are_partial():
    data = episode(steps=range(10))
    table = assemble(data, chunk_length=4, stride=2)
    assert rows(table, data) == [
        (0, 4, 0, 4, False),
        (2, 6, 2, 4, False),
        (4, 8, 4, 4, False),
        (6, 6, 6, 4, True),
        (8, 8, 8, 2, True),
    ]
    np.testing.assert_array_equal(table.rewards, [0] * 9 + [1])


def test_single_steps_are_chunks_of_one_row():
    data = episode(steps=range(3), encoded=range(3))
    table = assemble(data, chunk_length=1, stride=1)
    assert rows(table, data) == [(0, 1, 0, 1, False), (1, 2, 1, 1, False), (2, 2, 2, 1, True)]


def test_failure_is_terminal_without_reward():
    data = episode(steps=range(10), label=Label.FAILURE)
    table = assemble(data, 4, 2)
    assert [t for *_, t in rows(table, data)] == [False, False, False, True, True]
    assert not table.rewards.any()


def test_timeout_bootstraps_from_the_observation_behind_the_last_step():
    data = episode(steps=range(8), encoded=[0, 2, 4, 6, 8], label=Label.TIMEOUT)
    table = assemble(data, 4, 2)
    assert rows(table, data) == [
        (0, 4, 0, 4, False),
        (2, 6, 2, 4, False),
        (4, 8, 4, 4, False),
        (6, 8, 6, 2, False),
    ]


def test_timeout_without_that_observation_bootstraps_from_the_last_real_one():
    data = episode(steps=range(8), label=Label.TIMEOUT)
    table = assemble(data, 4, 2)
    assert rows(table, data) == [(0, 4, 0, 4, False), (2, 6, 2, 4, False), (4, 6, 4, 2, False)]


def test_an_odd_length_counts_every_step_of_a_terminal_chunk():
    data = episode(steps=range(7))
    table = assemble(data, 4, 2)
    assert rows(table, data) == [(0, 4, 0, 4, False), (2, 6, 2, 4, False), (4, 4, 4, 3, True), (6, 6, 6, 1, True)]


def test_steps_count_from_the_hand_off():
    data = episode(steps=range(31, 41), encoded=[32, 34, 36, 38, 40])
    table = assemble(data, 4, 2)
    assert rows(table, data)[0] == (32, 36, 32, 4, False)
    assert rows(table, data)[-1] == (40, 40, 40, 1, True)


def test_delay_pairs_an_observation_with_actions_d_steps_later_and_x_prime_c_steps_later():
    data = episode(steps=range(10), delay=2)
    table = assemble(data, 4, 2)
    assert rows(table, data) == [
        (0, 4, 2, 4, False),
        (2, 6, 4, 4, False),
        (4, 4, 6, 4, True),
        (6, 6, 8, 2, True),
    ]


def test_delay_at_a_timeout_bootstraps_where_the_actions_would_go_on():
    data = episode(steps=range(8), delay=2, label=Label.TIMEOUT)
    table = assemble(data, 4, 2)
    assert rows(table, data) == [(0, 4, 2, 4, False), (2, 6, 4, 4, False), (4, 6, 6, 2, False)]


def test_a_missing_observation_shortens_the_chunk_before_it():
    data = episode(steps=range(12), encoded=[0, 2, 6, 8, 10])
    table = assemble(data, 4, 2)
    assert rows(table, data)[:2] == [(0, 2, 0, 2, False), (2, 6, 2, 4, False)]


def test_no_chunk_spans_a_missing_step():
    data = episode(steps=[0, 1, 2, 3, 4, 6, 7, 8, 9], encoded=[0, 2, 4, 6, 8])
    table = assemble(data, 4, 2)
    assert rows(table, data) == [(0, 4, 0, 4, False), (2, 4, 2, 2, False), (6, 6, 6, 4, True), (8, 8, 8, 2, True)]


def test_observations_off_the_stride_start_nothing():
    data = episode(steps=range(8), encoded=[0, 2, 3, 4, 6])
    assert [start for start, *_ in rows(assemble(data, 4, 2), data)] == [0, 2, 4, 6]


def test_where_an_observation_comes_a_step_late_the_stride_goes_on_from_it():
    data = episode(steps=range(14), encoded=[0, 2, 5, 7, 8, 10, 12])
    assert [start for start, *_ in rows(assemble(data, 4, 2), data)] == [0, 2, 5, 7, 10, 12]


def test_hold_inside_is_an_action_and_hold_at_the_end_is_cut_off():
    sources = [RL, RL, HOLD, HOLD, RL, RL, HOLD, HOLD]
    data = episode(steps=range(8), sources=sources)
    table = assemble(data, 4, 2)
    assert rows(table, data) == [(0, 4, 0, 4, False), (2, 2, 2, 4, True), (4, 4, 4, 2, True)]
    np.testing.assert_array_equal(table.rewards, [0, 0, 0, 0, 0, 1, 0, 0])


def test_a_transition_of_hold_alone_is_left_out():
    sources = [RL] * 2 + [HOLD] * 6 + [RL] * 4
    data = episode(steps=range(12), sources=sources)
    assert [start for start, *_ in rows(assemble(data, 4, 2), data)] == [0, 6, 8, 10]


def test_no_chunk_holds_or_bridges_a_step_in_which_the_arms_were_repositioned():
    sources = [RL] * 5 + [REPO] * 3 + [HUMAN] * 4
    data = episode(steps=range(12), sources=sources)
    assert rows(assemble(data, 4, 2), data) == [
        (0, 4, 0, 4, False),
        (2, 4, 2, 2, False),
        (8, 8, 8, 4, True),
        (10, 10, 10, 2, True),
    ]


def test_repositioning_in_the_delay_before_a_chunk_is_bridged_by_none_either():
    sources = [RL] * 4 + [REPO] * 2 + [RL] * 6
    data = episode(steps=range(12), sources=sources, delay=2)
    assert rows(assemble(data, 4, 2), data) == [(0, 2, 2, 2, False), (6, 6, 8, 4, True), (8, 8, 10, 2, True)]


def test_a_success_that_was_reached_by_repositioning_is_no_success_of_what_came_before():
    data = episode(steps=range(10), sources=[RL] * 6 + [REPO] * 3 + [HOLD])
    table = assemble(data, 4, 2)
    assert rows(table, data) == [(0, 4, 0, 4, False), (2, 6, 2, 4, False), (4, 6, 4, 2, False)]
    for first, n in zip(table.first_action, table.length, strict=True):
        assert not table.rewards[first : first + n].any()


@pytest.mark.parametrize("label", [Label.DISCARD, Label.NONE])
def test_a_discarded_episode_never_enters(label):
    with pytest.raises(ValueError, match=label.name):
        assemble(episode(label=label), 4, 2)


def test_chunk_and_delay_must_fit_the_stride():
    with pytest.raises(ValueError, match="multiples of the stride"):
        assemble(episode(), 3, 2)
    with pytest.raises(ValueError, match="multiples of the stride"):
        assemble(episode(delay=1), 4, 2)


def test_references_must_cover_delay_and_chunk():
    with pytest.raises(ValueError, match="do not cover"):
        assemble(episode(horizon=5, delay=2), 4, 2)


def test_empty_episodes_have_no_transitions():
    assert len(assemble(episode(steps=[]), 4, 2)) == 0
    assert len(assemble(episode(steps=range(6), encoded=[]), 4, 2)) == 0
    assert len(assemble(episode(steps=range(6), sources=[HOLD] * 6), 4, 2)) == 0


@st.composite
def episodes(draw):
    start = draw(st.integers(0, 9))
    length = draw(st.integers(0, 40))
    lost_steps = draw(st.sets(st.integers(start, start + length), max_size=3))
    lost_observations = draw(st.sets(st.integers(start, start + length), max_size=6))
    steps = [s for s in range(start, start + length) if s not in lost_steps]
    encoded = [s for s in range(start + start % 2, start + length + 1, 2) if s not in lost_observations]
    sources = draw(st.lists(st.sampled_from(list(Source)), min_size=len(steps), max_size=len(steps)))
    label = draw(st.sampled_from([Label.SUCCESS, Label.FAILURE, Label.TIMEOUT]))
    delay = draw(st.sampled_from([0, 2, 4]))
    return episode(steps=steps, encoded=encoded, label=label, sources=sources, delay=delay, horizon=16)


@settings(deadline=None, max_examples=300)
@given(episodes(), st.sampled_from([2, 4, 10]))
def test_every_transition_is_exact(data, chunk_length):
    table = assemble(data, chunk_length, 2)
    end = max((int(s) for s, source in zip(data.steps, data.sources, strict=True) if source != HOLD), default=-1) + 1
    for i in range(len(table)):
        start = int(data.encoded_steps[table.encoding[i]])
        first, n = int(table.first_action[i]), int(table.length[i])
        played = data.steps[first : first + n]
        assert 1 <= n <= chunk_length
        np.testing.assert_array_equal(played, start + data.delay + np.arange(n))
        assert played[-1] < end
        assert (data.sources[first : first + n] != HOLD).any()
        between = (data.steps >= start) & (data.steps < start + data.delay + n)
        assert not (data.sources[between] == REPO).any()
        if table.terminal[i]:
            assert data.label.terminal
            assert played[-1] == end - 1
            assert table.next_encoding[i] == table.encoding[i]
        else:
            assert data.encoded_steps[table.next_encoding[i]] == start + n
            reward = table.rewards[first : first + n].sum()
            assert reward == 0, "a success inside a chunk ends it"
    assert table.rewards.sum() == (data.label is Label.SUCCESS and end > 0)
    starts = data.encoded_steps[table.encoding]
    assert len(set(starts.tolist())) == len(starts)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.sampled_from([Label.SUCCESS, Label.FAILURE]), st.sampled_from([2, 4, 10]))
def test_a_whole_terminal_episode_loses_no_observation(length, label, chunk_length):
    data = episode(steps=range(length), label=label)
    assert len(assemble(data, chunk_length, 2)) == len(data.encoded_steps)
