"""Eq. 1 and Eq. 2: what may depend on what."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlt_common.parameters import ParameterError
from rlt_vla_node.backend import KIND_IMAGE, KIND_LANGUAGE, Prefix
from rlt_vla_node.checkpoint_files import check_token_size
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token, token_bytes

M, D = 6, 16
MODEL = build_rl_token(RlTokenConfig(embed_dim=D, max_tokens=M, token_dim=8, heads=2), seed=0).eval()


def embeddings(count, seed=0):
    return torch.randn(count, M, D, generator=torch.Generator().manual_seed(seed))


def whole(count):
    return torch.ones(count, M, dtype=torch.bool)


@settings(max_examples=25, deadline=None)
@given(changed=st.integers(0, M - 1), seed=st.integers(0, 100))
def test_an_embedding_never_changes_the_reconstruction_of_itself_or_earlier_ones(changed, seed):
    z = embeddings(1, seed)
    rl_token = MODEL.encode(z, whole(1))
    other = z.clone()
    other[0, changed] = embeddings(1, seed + 1000)[0, 0]
    before, after = MODEL.reconstruct(rl_token, z, whole(1)), MODEL.reconstruct(rl_token, other, whole(1))
    assert torch.equal(before[0, : changed + 1], after[0, : changed + 1])
    if changed < M - 1:
        assert not torch.allclose(before[0, changed + 1 :], after[0, changed + 1 :])


def test_every_embedding_reaches_the_rl_token_and_the_rl_token_every_reconstruction():
    z = embeddings(1).requires_grad_(True)
    MODEL.encode(z, whole(1)).sum().backward()
    assert (z.grad[0].abs().sum(dim=1) > 0).all()
    rl_token = torch.zeros(1, 8)
    before = MODEL.reconstruct(rl_token, embeddings(1), whole(1))
    after = MODEL.reconstruct(rl_token + 1.0, embeddings(1), whole(1))
    assert ((before - after).abs().amax(dim=2) > 1e-4).all()


def test_the_loss_sends_no_gradient_into_the_vla():
    z = embeddings(3).requires_grad_(True)
    MODEL.reconstruction_loss(z, whole(3)).backward()
    assert z.grad is None
    assert MODEL.readout.grad.abs().max() > 0
    assert MODEL.head.weight.grad.abs().max() > 0
    MODEL.zero_grad()


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, M - 1), seed=st.integers(0, 100))
def test_padding_changes_nothing(length, seed):
    """A shorter prefix, and the same one padded with any content, even NaN, give the same token and loss."""
    z = embeddings(2, seed)
    mask = whole(2)
    mask[:, length:] = False
    short, short_mask = z[:, :length], whole(2)[:, :length]
    padded = z.clone()
    padded[:, length:] = float("nan")
    torch.testing.assert_close(MODEL.encode(padded, mask), MODEL.encode(short, short_mask))
    torch.testing.assert_close(MODEL.reconstruction_loss(padded, mask), MODEL.reconstruction_loss(short, short_mask))


def test_a_missing_embedding_in_the_middle_is_left_out():
    z = embeddings(1)
    mask = whole(1)
    mask[0, 2] = False
    other = z.clone()
    other[0, 2] = 100.0
    assert torch.equal(MODEL.encode(z, mask), MODEL.encode(other, mask))
    assert torch.equal(MODEL.reconstruction_loss(z, mask), MODEL.reconstruction_loss(other, mask))


def test_language_tokens_are_dropped():
    mask = whole(1)
    mask[0, 1] = False
    prefix = Prefix(embeddings(1), mask, torch.tensor([KIND_IMAGE] * 4 + [KIND_LANGUAGE] * 2))
    assert prefix.token_mask()[0].tolist() == [True, False, True, True, False, False]


def test_training_makes_the_decoder_need_the_right_token():
    model = build_rl_token(RlTokenConfig(embed_dim=D, max_tokens=M, token_dim=8, heads=2), seed=0)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(3, M * D, generator=generator)
    z = (torch.randn(64, 3, generator=generator) @ basis).view(64, M, D)
    untrained = model.health(z, whole(64), torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(150):
        optimiser.zero_grad()
        model.reconstruction_loss(z, whole(64), context_dropout=0.3, generator=generator).backward()
        optimiser.step()
    health = model.health(z, whole(64), torch.Generator().manual_seed(1))
    assert health.reconstruction_loss < 0.5 * untrained.reconstruction_loss
    assert health.shuffled_loss > 1.2 * health.reconstruction_loss


def test_the_shuffled_figure_exchanges_the_tokens_of_the_rows():
    """With two rows there is one way to exchange them; every row must get the other's token."""
    z = embeddings(2)
    with torch.no_grad():
        swapped = MODEL.reconstruct(MODEL.encode(z, whole(2))[[1, 0]], z, whole(2))
    expected = (swapped - z).square().mean().item()
    for seed in range(4):
        health = MODEL.health(z, whole(2), torch.Generator().manual_seed(seed))
        assert health.shuffled_loss == pytest.approx(expected, rel=1e-5)
        assert health.reconstruction_loss == pytest.approx(MODEL.reconstruction_loss(z, whole(2)).item(), rel=1e-5)
    with pytest.raises(ValueError, match="at least 2 rows"):
        MODEL.health(embeddings(1), whole(1), torch.Generator())


def test_context_dropout_follows_its_generator():
    z = embeddings(4)

    def loss(seed):
        generator = torch.Generator().manual_seed(seed)
        return MODEL.reconstruction_loss(z, whole(4), context_dropout=0.5, generator=generator).item()

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


def test_embeddings_of_another_model_are_refused():
    with pytest.raises(ValueError, match="at most 6 tokens of width 16"):
        MODEL.encode(torch.zeros(1, M + 1, D), torch.ones(1, M + 1, dtype=torch.bool))
    with pytest.raises(ParameterError, match="multiple"):
        RlTokenConfig(embed_dim=10, max_tokens=4, heads=4)


def test_what_is_trained_can_be_read_again_and_its_size_is_known_before():
    assert token_bytes(MODEL.config) == sum(tensor.nbytes for tensor in MODEL.state_dict().values())
    for width, tokens, blocks in ((2048, 968, 3), (3584, 968, 2)):
        check_token_size(RlTokenConfig(width, tokens, width, blocks, blocks, heads=8))
    with pytest.raises(ParameterError, match=r"takes 2[0-9.]* GiB, checkpoints of at most 16 GiB are read: lower enc"):
        check_token_size(RlTokenConfig(8192, 968, 8192, 4, 4, heads=8))
