"""The built-in VLA behind the backend interface."""

import numpy as np
import pytest
import torch

from rlt_vla_node.backend import KIND_IMAGE, KIND_PROPRIOCEPTION, ObservationBatch
from rlt_vla_node.builtin import BuiltinBackend, ChunkBatch, build_vla, layout_of
from rlt_vla_node.inference import FrozenModel, flow_noise, noise_seed, run_batch, run_observation


@pytest.fixture
def backend(vla):
    return BuiltinBackend(vla)


@pytest.fixture
def model(backend, vla, rl_token):
    layout = layout_of(vla.config, (("ee_pose", 12), ("joint_effort", 14)))
    return FrozenModel(backend, rl_token, layout, "0123456789abcdef")


def batch(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ObservationBatch(
        images=torch.randint(0, 256, (count, 2, 16, 16, 3), generator=generator, dtype=torch.uint8),
        state=0.1 * torch.randn(count, 26, generator=generator),
    )


def test_prefix_and_chunk_have_the_shapes_of_the_spec(backend):
    prefix = backend.encode(batch(3))
    spec = backend.spec
    assert prefix.tokens.shape == (3, spec.max_tokens, spec.embed_dim)
    assert prefix.mask.all()
    assert prefix.kind.tolist() == [KIND_PROPRIOCEPTION] + [KIND_IMAGE] * 4
    assert backend.sample_chunk(prefix, steps=2, noise=torch.zeros(3, 10, 14)).shape == (3, 10, 14)


def test_one_observation_gives_the_same_bits_every_time(model):
    first = run_observation(model, batch(1), seed=7)
    second = run_observation(model, batch(1), seed=7)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()
    assert first[1].dtype == np.float32
    other = run_observation(model, batch(1), seed=8)
    assert other[0].tobytes() == first[0].tobytes()
    assert np.abs(other[1] - first[1]).max() > 0


def test_a_filled_up_batch_gives_each_row_what_the_full_one_gives(model):
    full = batch(8)
    seeds = list(range(8))
    tokens, chunks, _ = run_batch(model, full, seeds, size=8)
    part = ObservationBatch(full.images[:3], full.state[:3])
    few_tokens, few_chunks, _ = run_batch(model, part, seeds[:3], size=8)
    assert few_tokens.tobytes() == tokens[:3].tobytes()
    assert few_chunks.tobytes() == chunks[:3].tobytes()
    alone = run_observation(model, ObservationBatch(full.images[2:3], full.state[2:3]), seed=2)
    np.testing.assert_allclose(chunks[2], alone[1], rtol=1e-4, atol=1e-7)


def test_chunks_scale_with_the_action_spread(vla):
    prefix = BuiltinBackend(vla).encode(batch(1))
    noise = torch.randn(1, 10, 14, generator=torch.Generator().manual_seed(0))
    small = vla.flow(prefix.tokens, noise, steps=3)
    vla.action_spread.mul_(2.0)
    torch.testing.assert_close(vla.flow(prefix.tokens, noise, steps=3), 2.0 * small)


def test_the_flow_loss_is_that_of_the_straight_path(vla):
    """With a velocity of zero the loss is the mean square of (target - noise) in spread units."""
    torch.nn.init.zeros_(vla.action_out.weight)
    torch.nn.init.zeros_(vla.action_out.bias)
    actions = vla.action_spread * torch.full((2, 10, 14), 3.0)
    noise = torch.ones(4, 10, 14)
    loss = vla.flow_loss(torch.zeros(2, 5, 16), actions, noise, torch.rand(4))
    assert float(loss.detach()) == pytest.approx(4.0, rel=1e-5)


def test_training_losses_leave_the_stems_without_gradient(backend, vla):
    features = backend.features(batch(2).images).detach()
    chunk = ChunkBatch(features, batch(2).state, torch.zeros(2, 10, 14), torch.randn(4, 10, 14), torch.rand(4))
    loss, tokens, mask = backend.training_losses(chunk)
    loss.backward()
    assert tokens.shape == (2, 5, 16)
    assert mask.all()
    assert all(p.grad is None for p in vla.stems.parameters())
    assert vla.state_in.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("images", "state", "message"),
    [
        ((1, 3, 16, 16, 3), (1, 26), "images"),
        ((1, 2, 16, 16, 3), (1, 25), "proprioception"),
        ((2, 2, 16, 16, 3), (1, 26), "proprioception"),
    ],
)
def test_wrong_shapes_are_refused(backend, images, state, message):
    with pytest.raises(ValueError, match=message):
        backend.encode(ObservationBatch(torch.zeros(images, dtype=torch.uint8), torch.zeros(state)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_proprioception_that_is_not_finite_is_refused(backend, value):
    bad = batch(1)
    bad.state[0, 4] = value
    with pytest.raises(ValueError, match="not finite at index 4"):
        backend.encode(bad)


def test_the_same_seed_builds_the_same_model_and_leaves_the_global_generator_alone(vla):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    again = build_vla(vla.config, seed=0)
    assert torch.rand(1) == expected
    assert torch.equal(again.stems[0].project.weight, vla.stems[0].project.weight)
    assert not torch.equal(build_vla(vla.config, seed=1).position, vla.position)


def test_noise_seeds_differ_by_run_episode_and_observation():
    seeds = {noise_seed(r, e, o) for r in range(3) for e in range(3) for o in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert torch.equal(flow_noise(max(seeds), 4, 2), flow_noise(max(seeds), 4, 2))
