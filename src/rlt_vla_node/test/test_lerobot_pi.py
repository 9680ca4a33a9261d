"""pi0 and pi0.5 of LeRobot behind VlaBackend, where a LeRobot is installed that runs them."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

pytest.importorskip("lerobot", reason="LeRobot is an extra: `make extras` installs requirements-lerobot.txt")

if version("transformers").startswith("4."):
    pytest.skip(
        "pi0 and pi0.5 need lerobot >= 0.6.1 with transformers 5, which `make extras` installs on Python 3.12; LeRobot "
        "0.4.4's refuse to run with a transformers that is not patched for them",
        allow_module_level=True,
    )

import tiny_lerobot as tiny
from lerobot_native import Native, made_up, noise_of

from rlt_vla_node.backend import KIND_IMAGE
from rlt_vla_node.backends import open_backend

STEPS = 10


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def kind(request):
    with tiny.tiny_pi(request.param):
        yield request.param


@pytest.fixture(scope="module")
def root(tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp("policies")
    tiny.write_pi(folder / kind, kind)
    return folder


@pytest.fixture(scope="module")
def backend(root, kind):
    return open_backend(tiny.vla_file(root, kind))


def noise_for(backend, size, seed=1):
    return noise_of(size, backend.spec.horizon, backend.spec.noise_dim, seed)


@pytest.mark.parametrize("size", [1, 3])
def test_the_chunk_is_the_one_that_lerobot_gives(root, kind, backend, size):
    seen, noise = made_up(size, 24), noise_for(backend, size)
    prefix, chunk = backend.encode_and_sample(seen, steps=STEPS, noise=noise)
    wanted = Native(root / kind, kind).chunk(seen, ["top", "hand"], tiny.INSTRUCTION, noise)
    assert (chunk - wanted).abs().max() < 1e-5
    assert torch.equal(backend.sample_chunk(prefix, steps=STEPS, noise=noise), chunk), "the cache is as it was"
    assert prefix.tokens.shape == (size, 8, 32)
    assert prefix.kind.tolist() == 8 * [KIND_IMAGE]


def test_a_row_does_not_depend_on_the_others_in_its_batch(backend):
    seen, noise = made_up(4, 24), noise_for(backend, 4)
    many, chunks = backend.encode_and_sample(seen, steps=4, noise=noise)
    one, chunk = backend.encode_and_sample(seen.rows([2]), steps=4, noise=noise[2:3])
    assert (many.tokens[2] - one.tokens[0]).abs().max() < 1e-5
    assert (chunks[2] - chunk[0]).abs().max() < 1e-5


def test_a_camera_that_is_not_there_is_masked(root, kind):
    alone = open_backend(tiny.vla_file(root, kind, cameras={"top": "base", "hand": "none"}))
    assert alone.encode(made_up(2, 24, cameras=1)).token_mask().tolist() == 2 * [4 * [True] + 4 * [False]]


def test_z_of_the_training_pass_is_the_z_of_the_robot_and_the_loss_lerobots(backend):
    seen = made_up(3, 24)
    samples = {
        "observation.images.base": seen.images[:, 0].permute(0, 3, 1, 2).float() / 255.0,
        "observation.images.wrist": seen.images[:, 1].permute(0, 3, 1, 2).float() / 255.0,
        "observation.state": seen.state,
        "action": 0.1 * noise_of(3, tiny.ROWS, tiny.WIDTH, seed=4),
        "task": 3 * [tiny.INSTRUCTION],
    }
    backend.module.train()
    torch.manual_seed(0)
    loss, tokens, _ = backend.training_losses(backend.training_batch(samples))
    assert (tokens - backend.encode(seen).tokens).abs().max() < 1e-5
    torch.manual_seed(0)
    own, _ = backend.policy.forward(backend.training_batch(samples))
    assert loss.item() == pytest.approx(own.item(), rel=1e-5)
    loss.backward()
    assert any(p.grad is not None for p in backend.module.parameters())


def test_what_is_saved_opens_as_the_same_policy(kind, backend, tmp_path):
    backend.save_policy(tmp_path / kind)
    assert open_backend(tiny.vla_file(tmp_path, kind)).spec.fingerprint == backend.spec.fingerprint
