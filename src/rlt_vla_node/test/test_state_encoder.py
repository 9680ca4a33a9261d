"""What may stand in for the RL token in the ablation."""

import numpy as np
import pytest
import torch

from rlt_common.parameters import ParameterError
from rlt_vla_node.backend import KIND_LANGUAGE, ObservationBatch, Prefix
from rlt_vla_node.builtin import BuiltinBackend, layout_of
from rlt_vla_node.inference import FrozenModel, run_batch
from rlt_vla_node.state_encoder import (
    MEAN_POOL,
    RANDOM_CONV,
    RL_TOKEN,
    STATE_ENCODERS,
    MeanPooledEmbeddings,
    with_state_encoder,
)


@pytest.fixture
def model(vla, rl_token):
    layout = layout_of(vla.config, (("ee_pose", 12), ("joint_effort", 14)))
    return FrozenModel(BuiltinBackend(vla), rl_token, layout, "0123456789abcdef")


@pytest.fixture
def batch(model, observation):
    return model.batch([observation(seed, 1000 + seed) for seed in range(3)])


def tokens_of(model, batch):
    return run_batch(model, batch, [1, 2, 3])[0]


@pytest.mark.parametrize("kind", STATE_ENCODERS)
def test_it_tells_observations_apart_and_repeats_itself(model, batch, kind):
    changed = with_state_encoder(model, kind)
    first, again = tokens_of(changed, batch), tokens_of(with_state_encoder(model, kind), batch)
    assert first.shape == (3, changed.token.width)
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert np.linalg.norm(first[0] - first[1]) > 1e-3


def test_the_model_s_own_encoder_is_the_rl_token(model):
    assert with_state_encoder(model, RL_TOKEN) is model


def test_another_encoder_is_another_model_that_says_the_same(model, batch):
    changed = [with_state_encoder(model, MEAN_POOL), with_state_encoder(model, RANDOM_CONV)]
    changed.append(with_state_encoder(model, RANDOM_CONV, seed=1))
    assert len({model.hash, *(other.hash for other in changed)}) == 4
    chunks = run_batch(model, batch, [1, 2, 3])[1]
    for other in changed:
        assert np.array_equal(run_batch(other, batch, [1, 2, 3])[1], chunks)


def test_the_random_network_sees_images_alone(model, batch):
    changed = with_state_encoder(model, RANDOM_CONV)
    moved = ObservationBatch(batch.images, batch.state + 1.0)
    assert np.array_equal(tokens_of(changed, batch), tokens_of(changed, moved))
    darker = ObservationBatch(batch.images // 2, batch.state)
    assert not np.array_equal(tokens_of(changed, batch), tokens_of(changed, darker))


def test_the_mean_leaves_language_and_padding_out():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, True, False]])
    kind = torch.tensor([0, 1, KIND_LANGUAGE, 1])
    mean = MeanPooledEmbeddings(2).represent(None, Prefix(tokens, mask, kind))
    assert mean.tolist() == [[2.0, 4.0]]


def test_an_unknown_encoder_is_an_error(model):
    with pytest.raises(ParameterError, match="choose one of rl_token, mean_pool, random_conv"):
        with_state_encoder(model, "resnet")
