"""One request, one output, one state, one actor: one chunk, however they arrive."""

from __future__ import annotations

import dataclasses
from itertools import permutations

import numpy as np
import pytest
from rl_episodes import learner_config, task_shape

from rlt_rl_node.exploration import chunk_noise
from rlt_rl_node.learner import Learner
from rlt_rl_node.policy import Chunk, ChunkPolicy, Episode, Output, PolicyError, Request
from rlt_rl_node.records import Encoded

SPREAD = np.array([0.5, 0.01], np.float32)
HASH = task_shape().vla_hash


def actor(version: int = 1, seed: int = 0):
    config = dataclasses.replace(learner_config(), seed=seed)
    learner = Learner(task_shape(spread=SPREAD), config)
    learner.version = version - 1
    return learner.release()


def request(request_id: int = 7, epoch: int = 2, step: int = 10, delay: int = 0, rows: int = 6) -> Request:
    return Request(
        episode_id=3, epoch=epoch, request_id=request_id, boundary_step=step, first_step=step + delay, rows=rows
    )


def output(request_id: int = 7, vla_hash: str = HASH, horizon: int = 8) -> Output:
    rng = np.random.default_rng(request_id)
    encoded = Encoded(
        stamp_ns=1000 * request_id,
        rl_token=rng.normal(size=3).astype(np.float32),
        rl_state=rng.normal(size=2).astype(np.float32),
        reference=rng.normal(size=(horizon, 2)).astype(np.float32) * SPREAD,
        is_boundary=True,
    )
    return Output(request_id=request_id, observation_id=99, vla_hash=vla_hash, encoded=encoded)


def episode(rl: bool = True, explore: bool = False, version: int = 1, epoch: int = 2, episode_id: int = 3) -> Episode:
    return Episode(episode_id, epoch, rl, explore, version)


def policy(seed: int = 11, actors=(1,)) -> ChunkPolicy:
    subject = ChunkPolicy(seed)
    for version in actors:
        subject.on_actor(actor(version, seed=version))
    return subject


def answer(subject: ChunkPolicy, **changes: object) -> Chunk | None:
    for part in (changes.get("episode", episode()), changes.get("request", request()), changes.get("output", output())):
        give(subject, part)
    return subject.answer()


def give(subject: ChunkPolicy, part: object) -> None:
    {Request: subject.on_request, Output: subject.on_output, Episode: subject.on_episode}[type(part)](part)


def test_while_the_vla_drives_its_rows_pass_through():
    chunk = answer(policy(), episode=episode(rl=False), request=request(delay=2, rows=5))
    np.testing.assert_array_equal(chunk.actions, output().encoded.reference[2:7])
    np.testing.assert_array_equal(chunk.reference, chunk.actions)
    assert (chunk.policy_version, chunk.reference_distance) == (0, 0.0)
    assert (chunk.stamp_ns, chunk.observation_id) == (7000, 99)


def test_rl_refines_the_rows_from_the_delay_on():
    weights = actor(seed=1)
    chunk = answer(policy(), request=request(delay=2))
    rows = output().encoded.reference[2:6]
    mean = weights.mean(output().encoded.rl_token, output().encoded.rl_state, rows / SPREAD)
    np.testing.assert_allclose(chunk.actions, mean * SPREAD, rtol=1e-6)
    np.testing.assert_array_equal(chunk.reference, rows)
    assert chunk.policy_version == 1
    assert chunk.reference_distance == pytest.approx(np.sqrt(np.mean((mean - rows / SPREAD) ** 2)))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_of_arrival_does_not_matter(order):
    expected = answer(policy())
    subject = policy()
    parts = [episode(), request(), output()]
    answers = []
    for i in order:
        give(subject, parts[i])
        answers.append(subject.answer())
    assert answers[:2] == [None, None]
    np.testing.assert_array_equal(answers[2].actions, expected.actions)


def test_each_request_is_answered_once_and_a_repeated_one_alike():
    subject = policy()
    first = answer(subject, episode=episode(explore=True))
    assert subject.answer() is None
    subject.on_output(output())
    assert subject.answer() is None
    subject.on_request(request())
    assert subject.answer() is first


def test_exploration_repeats_with_run_seed_episode_and_step_alone():
    noisy = answer(policy(), episode=episode(explore=True))
    after_restart = answer(policy(), episode=episode(explore=True), request=request(8), output=output(8))
    plain = answer(policy())
    np.testing.assert_array_equal(noisy.actions, answer(policy(), episode=episode(explore=True)).actions)
    assert not np.array_equal(noisy.actions, answer(policy(12), episode=episode(explore=True)).actions)
    assert noisy.reference_distance == plain.reference_distance
    noise = chunk_noise(11, 3, 10, (4, 2), 0.2, 0.5)
    np.testing.assert_allclose((noisy.actions - plain.actions) / SPREAD, noise, atol=1e-5)
    plain_again = answer(policy(), request=request(8), output=output(8))
    np.testing.assert_allclose((after_restart.actions - plain_again.actions) / SPREAD, noise, atol=1e-5)


def test_noise_has_an_independent_part_and_one_constant_over_the_chunk():
    noise = np.stack([chunk_noise(0, 1, step, (10, 14), 0.2, 0.5) for step in range(400)])
    assert noise.mean(1).std() == pytest.approx(np.hypot(0.5, 0.2 / np.sqrt(10)), rel=0.05)
    assert (noise - noise.mean(1, keepdims=True)).std() == pytest.approx(0.2 * np.sqrt(0.9), rel=0.05)
    constant = chunk_noise(0, 1, 2, (10, 14), 0.0, 0.5)
    np.testing.assert_array_equal(constant, np.repeat(constant[:1], 10, 0))


def test_it_waits_for_the_actor_version_the_episode_names():
    subject = policy(actors=(1,))
    assert answer(subject, episode=episode(version=2)) is None
    assert subject.waiting_for == "actor version 2"
    subject.on_actor(actor(2, seed=2))
    assert subject.answer().policy_version == 2


def test_without_any_actor_rl_waits_and_the_vla_drives_on():
    subject = policy(actors=())
    assert answer(subject, episode=episode(version=0)) is None
    assert subject.waiting_for == "actor version 1"
    assert answer(policy(actors=()), episode=episode(rl=False)).policy_version == 0


def test_weights_change_only_between_episodes():
    subject = policy(actors=(1,))
    assert answer(subject, episode=episode(version=0)).policy_version == 1
    subject.on_actor(actor(2, seed=2))
    second = answer(subject, episode=episode(version=0), request=request(8, step=14), output=output(8))
    assert second.policy_version == 1
    later = dataclasses.replace(request(9, epoch=1), episode_id=4)
    third = answer(subject, episode=episode(version=0, episode_id=4, epoch=1), request=later, output=output(9))
    assert third.policy_version == 2


def test_a_named_version_that_newer_ones_have_replaced_gives_way():
    assert answer(policy(actors=(4, 5)), episode=episode(version=2)).policy_version == 5
    assert answer(policy(actors=(4, 5)), episode=episode(version=4)).policy_version == 4


def test_requests_of_an_older_epoch_or_episode_are_dropped():
    subject = policy()
    assert answer(subject, request=request(epoch=1)) is None
    assert subject.dropped == 1
    assert answer(subject).request.epoch == 2
    subject.on_request(request(epoch=1))
    subject.on_episode(episode(epoch=1, rl=False))
    assert subject.answer() is None


def test_a_request_of_a_newer_epoch_waits_for_its_state():
    subject = policy()
    assert answer(subject, request=request(epoch=3)) is None
    assert "epoch 3" in subject.waiting_for
    subject.on_episode(episode(epoch=3))
    assert subject.answer().request.epoch == 3


def test_an_output_for_another_request_is_not_used():
    subject = policy()
    assert answer(subject, output=output(6)) is None
    assert subject.waiting_for == "the VLA's output"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": output(vla_hash="other")}, "trained on VLA"),
        ({"output": output(horizon=3)}, "rows 0 .. 3 were asked"),
        ({"request": request(delay=-2)}, "rows -2"),
        ({"episode": episode(rl=False), "request": request(rows=9)}, "rows 0 .. 8"),
        ({"episode": episode(rl=False), "request": request(rows=0)}, "rows 0"),
    ],
)
def test_what_cannot_be_answered_says_why_and_is_dropped(changes, words):
    subject = policy()
    with pytest.raises(PolicyError, match=words):
        answer(subject, **changes)
    assert subject.answer() is None
    assert answer(subject, request=request(8), output=output(8), episode=episode(epoch=2)) is not None


@pytest.mark.parametrize("rl", [True, False])
def test_a_reference_that_is_not_finite_is_refused(rl):
    bad = output()
    bad.encoded.reference[3, 1] = np.nan
    with pytest.raises(PolicyError, match="not finite"):
        answer(policy(), episode=episode(rl=rl), output=bad)


def test_an_actor_that_gives_nan_is_refused():
    weights = actor()
    weights.actor.layers[-1].bias.data[0] = np.nan
    subject = ChunkPolicy(0)
    subject.on_actor(weights)
    with pytest.raises(PolicyError, match="actor version 1 gave"):
        answer(subject)


def test_an_rl_token_of_another_width_is_refused():
    wide = output()
    wide = dataclasses.replace(wide, encoded=dataclasses.replace(wide.encoded, rl_token=np.zeros(5, np.float32)))
    with pytest.raises(ValueError, match="RL token has shape"):
        answer(policy(), output=wide)
