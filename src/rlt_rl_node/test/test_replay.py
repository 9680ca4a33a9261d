"""What a batch holds, value by value, and that views survive eviction and removal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_episodes import D, episode, random_episode, task_shape

from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.records import EpisodeKey, Label, RecordError, Source
from rlt_rl_node.replay import Replay

GAMMA = 0.5


def replay(capacity: int = 1000, spread=(1.0, 1.0), **layout: object) -> Replay:
    shape = task_shape().layout(AgentConfig(**layout))
    return Replay(shape, stride=2, gamma=GAMMA, spread=torch.tensor(spread), capacity=capacity)


def test_a_batch_holds_the_hand_computed_values():
    buffer = replay()
    sources = [Source.RL] * 5 + [Source.HUMAN] * 2 + [Source.RL] * 3
    assert buffer.add(episode(steps=range(10), sources=sources)) == 5

    batch = buffer.gather(torch.tensor([1, 4]))

    # Observation at step 2: actions of steps 2 .. 5; its own reference rows 0 .. 3; a human at step 5.
    np.testing.assert_allclose(batch.action[0], [2, 2.1, 3, 3.1, 4, 4.1, 5, 5.1])
    np.testing.assert_allclose(batch.reference[0], [200, 200.1, 201, 201.1, 202, 202.1, 5, 5.1], rtol=1e-3)
    np.testing.assert_array_equal(batch.valid[0], np.ones(8))
    np.testing.assert_allclose(batch.x[0], [2, 2.1, 2.2, -2, -2.1], rtol=1e-3)
    np.testing.assert_allclose(batch.next_x[0], [6, 6.1, 6.2, -6, -6.1], rtol=1e-3)
    # x' sees the VLA's own rows although a human acts at step 6.
    np.testing.assert_allclose(batch.next_reference[0, :2], [600, 600.1], rtol=1e-3)
    assert batch.rewards[0] == 0
    assert batch.bootstrap[0] == GAMMA**4

    # Observation at step 8: two steps left, success at step 9.
    np.testing.assert_allclose(batch.action[1], [8, 8.1, 9, 9.1, 9, 9.1, 9, 9.1])
    np.testing.assert_array_equal(batch.valid[1], [1, 1, 1, 1, 0, 0, 0, 0])
    assert batch.rewards[1] == GAMMA
    assert batch.bootstrap[1] == 0


def test_returns_and_origins_of_what_is_held():
    buffer = replay(spread=(1.0, 1.0))
    assert np.isnan(buffer.return_mean())
    sources = [Source.RL] * 5 + [Source.HUMAN] * 2 + [Source.RL] * 3
    buffer.add(episode(1, steps=range(10), sources=sources))
    buffer.add(episode(2, steps=range(10), label=Label.FAILURE))
    won = np.mean([GAMMA ** (9 - step) for step in (0, 2, 4, 6, 8)])
    assert buffer.return_mean(EpisodeKey(1)) == pytest.approx(won)
    assert buffer.return_mean(EpisodeKey(2)) == 0.0
    assert buffer.return_mean() == pytest.approx(won / 2)
    assert (buffer.demonstrations, buffer.interventions) == (0, 1)
    buffer.add(episode(-1, steps=range(4), sources=[Source.HUMAN] * 4))
    assert (buffer.demonstrations, buffer.interventions) == (2, 1)
    buffer.remove(EpisodeKey(1))
    assert (len(buffer), buffer.interventions) == (7, 0)
    assert buffer.return_mean() == pytest.approx((GAMMA**3 + GAMMA) / 7)


def test_a_timeout_bootstraps_over_its_valid_length():
    buffer = replay()
    buffer.add(episode(steps=range(8), encoded=[0, 2, 4, 6, 8], label=Label.TIMEOUT))
    batch = buffer.gather(torch.tensor([3]))
    assert batch.bootstrap[0] == GAMMA**2
    np.testing.assert_allclose(batch.next_x[0, 0], 8)


def test_a_delay_takes_later_reference_rows():
    buffer = replay()
    buffer.add(episode(steps=range(10), delay=2))
    batch = buffer.gather(torch.tensor([0]))
    np.testing.assert_allclose(batch.action[0, ::2], [2, 3, 4, 5])
    np.testing.assert_allclose(batch.reference[0, ::2], [2, 3, 4, 5])
    np.testing.assert_allclose(batch.next_reference[0, ::2], [402, 403, 404, 405], rtol=1e-3)


def test_actions_and_references_are_in_units_of_the_spread():
    buffer = replay(spread=(0.5, 0.001))
    buffer.add(episode(steps=range(10)))
    batch = buffer.gather(torch.tensor([1]))
    np.testing.assert_allclose(batch.action[0, :2], [4, 2100], rtol=1e-6)


def test_small_robot_units_survive_half_precision():
    spread = 6e-5
    buffer = replay(spread=(spread, spread))
    data = episode(steps=range(10), scale=1e-6)
    buffer.add(data)
    stored = buffer.gather(torch.tensor([1])).reference[0].numpy() * spread
    np.testing.assert_allclose(stored, data.references[1, :4].ravel(), rtol=1e-3)


def test_without_rl_token_x_is_proprioception_alone():
    buffer = replay(use_rl_token=False)
    buffer.add(episode())
    assert buffer.gather(torch.tensor([0])).x.shape == (1, 2)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(4, 30), min_size=1, max_size=8), st.data())
def test_removing_an_episode_leaves_what_a_buffer_without_it_has(lengths, data):
    removed = data.draw(st.integers(0, len(lengths) - 1))
    whole, without = replay(), replay()
    for i, length in enumerate(lengths):
        whole.add(random_episode(i, length))
        if i != removed:
            without.add(random_episode(i, length))
    whole.remove(EpisodeKey(removed))
    assert whole.episodes == without.episodes
    assert len(whole) == len(without)
    everything = torch.arange(len(whole))
    for name, value in vars(whole.gather(everything)).items():
        torch.testing.assert_close(value, getattr(without.gather(everything), name), rtol=0, atol=0)


def test_the_oldest_episodes_leave_when_it_is_full():
    buffer = replay(capacity=30)
    for i in range(1, 6):
        buffer.add(random_episode(i, length=20))
    assert buffer.episodes == (EpisodeKey(3), EpisodeKey(4), EpisodeKey(5))
    assert len(buffer) == 30
    newest = buffer.gather(torch.arange(20, 30))
    np.testing.assert_array_equal(newest.action[0].numpy(), random_episode(5, 20).actions[:4].ravel())


def test_a_corrected_label_is_a_removal_and_an_addition():
    buffer = replay()
    buffer.add(random_episode(1, label=Label.SUCCESS))
    buffer.remove(EpisodeKey(1))
    buffer.add(random_episode(1, label=Label.FAILURE))
    assert buffer.gather(torch.arange(len(buffer))).rewards.sum() == 0


def test_what_does_not_fit_is_refused_and_leaves_nothing():
    buffer = replay()
    buffer.add(random_episode(1))
    with pytest.raises(RecordError, match="already"):
        buffer.add(random_episode(1))
    wide = task_shape(token_dim=7).layout(AgentConfig())
    with pytest.raises(RecordError, match="RL token width is 3, the agent's is 7"):
        Replay(wide, 2, GAMMA, torch.ones(D)).add(random_episode(2))
    with pytest.raises(ValueError, match="DISCARD"):
        buffer.add(random_episode(2, label=Label.DISCARD))
    assert buffer.episodes == (EpisodeKey(1),)
    assert buffer.steps == 40


def test_sampling_repeats_with_the_generators_state():
    buffer = replay()
    buffer.add(random_episode(1))
    first = buffer.sample(16, torch.Generator().manual_seed(5))
    again = buffer.sample(16, torch.Generator().manual_seed(5))
    torch.testing.assert_close(first.x, again.x, rtol=0, atol=0)
