"""Published actors: exact round trip, and nothing hostile gets through."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_episodes import learner_config, task_shape

from rlt_common.atomic import sha256_hex
from rlt_rl_node import actor_codec, tensor_file
from rlt_rl_node.actor_codec import pack, unpack
from rlt_rl_node.learner import Learner
from rlt_rl_node.tensor_file import TensorFileError


def weights(**agent: object):
    return Learner(task_shape(), learner_config(**agent)).release()


DATA = pack(weights())


def altered(arrays=None, facts=None, drop=()):
    old_arrays, old_facts = tensor_file.parse(DATA, actor_codec.MAX_BYTES)
    old_arrays = {k: v for k, v in {**old_arrays, **(arrays or {})}.items() if k not in drop}
    return tensor_file.dump(old_arrays, {**old_facts, **(facts or {})})


@pytest.mark.parametrize(
    "agent",
    [{}, {"use_rl_token": False}, {"use_reference": False}, {"hidden": (8, 8, 8)}, {"products": "bfloat16"}],
)
def test_an_unpacked_actor_acts_the_same_to_the_bit(agent):
    original = weights(**agent)
    copy = unpack(pack(original))
    rng = np.random.default_rng(0)
    token, state, reference = rng.normal(size=3), rng.normal(size=2), rng.normal(size=(4, 2))
    for explore in (False, True):
        expected = original.mean(token, state, reference, explore)
        np.testing.assert_array_equal(copy.mean(token, state, reference, explore), expected)
    assert (copy.sigma_independent, copy.sigma_chunk) == (0.2, 0.5)
    assert (copy.vla_hash, copy.version) == (original.vla_hash, 1)
    assert copy.actor.layout == original.actor.layout


def test_equal_weights_give_equal_bytes():
    assert pack(weights()) == DATA


def test_the_means_are_those_of_the_training_actor_and_of_its_average():
    learner = Learner(task_shape(), learner_config())
    learner.agent.average.flat.add_(0.1)
    learner.agent.standardise.fit(torch.randn(50, 5))
    rng = np.random.default_rng(0)
    token, state, reference = (rng.normal(size=s).astype(np.float32) for s in (3, 2, (4, 2)))
    x = torch.from_numpy(np.concatenate([token, state]))[None]
    means = {}
    for explore, actor in ((False, learner.agent.average), (True, learner.agent.actor)):
        with torch.no_grad():
            expected = actor(learner.agent.standardise(x), torch.from_numpy(reference).reshape(1, -1))
        means[explore] = learner.policy().mean(token, state, reference, explore).ravel()
        np.testing.assert_array_equal(means[explore], expected[0].numpy())
    assert not np.array_equal(means[False], means[True])


def test_shapes_are_checked_when_acting():
    with pytest.raises(ValueError, match=r"reference has shape \(5, 2\)"):
        weights().mean(np.zeros(3), np.zeros(2), np.zeros((5, 2)))


def test_a_wrong_sha256_is_refused():
    assert unpack(DATA, sha256_hex(DATA)).version == 1
    with pytest.raises(TensorFileError, match="sha256"):
        unpack(DATA, sha256_hex(b"other"))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (altered(drop=["actor.layers.0.bias"]), "arrays are"),
        (altered(arrays={"extra": np.zeros(1, np.float32)}), "arrays are"),
        (altered(arrays={"spread": np.zeros(2, np.float32)}), "not positive"),
        (altered(arrays={"spread": np.ones(3, np.float32)}), "'spread'"),
        (altered(arrays={"spread": np.ones(2, np.float64)}), "float64"),
        (altered(arrays={"x.mean": np.full(5, np.nan, np.float32)}), "not finite"),
        (altered(facts={"layout": {}}), "facts"),
        (altered(facts={"version": "newest"}), "facts"),
        (altered(facts={"sigma_chunk": -1.0}), "out of range"),
        (altered(facts={"sigma_chunk": float("nan")}), "out of range"),
        (b"", "safetensors"),
        (DATA[:-1], "safetensors"),
        (b"\x80\x04\x95" + DATA, "safetensors"),
        ((2**63).to_bytes(8, "little") + DATA[8:], "safetensors"),
    ],
)
def test_hostile_bytes_are_refused_with_a_reason(bad, words):
    with pytest.raises(TensorFileError, match=words):
        unpack(bad)


def test_a_layout_of_absurd_size_is_refused_before_anything_is_allocated():
    layout = json.loads(json.dumps(tensor_file.parse(DATA, 10**9)[1]["layout"]))
    for change in ({"hidden": [10**12]}, {"hidden": []}, {"chunk_length": -1}, {"token_dim": 10**9}):
        with pytest.raises(TensorFileError):
            unpack(altered(facts={"layout": {**layout, **change}}))


def test_too_many_bytes_are_refused_unread():
    with pytest.raises(TensorFileError, match="more than"):
        tensor_file.parse(DATA, len(DATA) - 1)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_random_bytes_are_refused(data):
    with pytest.raises(TensorFileError):
        unpack(data)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_breaks_out_of_the_error(position, flip):
    data = bytearray(DATA)
    data[position] ^= flip
    with contextlib.suppress(TensorFileError):
        assert np.isfinite(unpack(bytes(data)).spread).all()
