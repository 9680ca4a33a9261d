"""Figures of an adapted VLA on frames that it was not trained on."""

import numpy as np
import pytest
from tiny_policy import tiny_policy

from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token

vla_figures = pytest.importorskip("rlt_vla_node.vla_figures", reason="accelerate is not installed: make extras")
from test_vla_trainer import Samples  # noqa: E402, it needs accelerate too


def test_a_batch_of_one_observation_in_training_is_measured_as_two():
    backend = tiny_policy()
    shape = RlTokenConfig(embed_dim=8, max_tokens=3, token_dim=4, encoder_blocks=1, decoder_blocks=1, heads=2)
    token = build_rl_token(shape, 1)
    fitted, held_out = Samples(8, seed=1), Samples(4, seed=2)
    for trains in (True, False):
        one, two = (vla_figures.losses(backend, token, held_out, size, 3, trains) for size in (1, 2))
        assert one == two
        assert one.keys() >= {"reconstruction", "shuffled"}
    one, two = (vla_figures.figures(backend, token, fitted, held_out, size, 3) for size in (1, 2))
    assert one["frames"] == 4
    assert one["chunk_error"] == two["chunk_error"]
    np.testing.assert_array_equal(one["probe_state"], two["probe_state"])
