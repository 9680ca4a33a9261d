"""Adapting a policy of LeRobot: its own loss and z from one pass, padded rows left out, and saved as it was opened."""

from __future__ import annotations

import pytest
import torch

from rlt_vla_node.backend import ObservationBatch

pytest.importorskip("lerobot", reason="LeRobot is an extra: `make extras` installs requirements-lerobot.txt")

import tiny_lerobot as tiny
from lerobot_native import made_up, noise_of

from rlt_vla_node.backends import open_backend

PIXELS = {"smolvla": 24, "act": 16}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    # Actions that need no filling up: LeRobot 0.4.4's own loss of SmolVLA has the columns in it that fill up.
    whole = {"train_expert_only": False, "freeze_vision_encoder": False, "max_action_dim": tiny.WIDTH}
    tiny.write_smolvla(folder / "smolvla", **whole)
    tiny.write_act(folder / "act")
    return folder


@pytest.fixture(params=["smolvla", "act"])
def backend(root, request):
    return open_backend(tiny.vla_file(root, request.param))


@pytest.fixture
def smolvla(root):
    return open_backend(tiny.vla_file(root, "smolvla"))


def kind_of(backend):
    return backend.spec.name.rpartition(" ")[2]


def samples_of(observation: ObservationBatch, padded: int = 0, task: str = tiny.INSTRUCTION):
    """Samples of a data set; the last `padded` rows of the first one's actions are made up."""
    size = len(observation.state)
    is_pad = torch.zeros(size, tiny.ROWS, dtype=torch.bool)
    is_pad[0, tiny.ROWS - padded :] = True
    return {
        "observation.images.base": observation.images[:, 0].permute(0, 3, 1, 2).float() / 255.0,
        "observation.images.wrist": observation.images[:, 1].permute(0, 3, 1, 2).float() / 255.0,
        "observation.state": observation.state,
        "action": 0.1 * noise_of(size, tiny.ROWS, tiny.WIDTH, seed=4),
        "action_is_pad": is_pad,
        "task": size * [task],
    }


def losses(backend, samples, seed=0):
    torch.manual_seed(seed)
    return backend.training_losses(backend.training_batch(samples))


@pytest.mark.parametrize("training", [False, True])
def test_z_of_the_training_pass_is_the_z_of_the_robot(backend, training):
    backend.module.train(training)
    seen = made_up(3, PIXELS[kind_of(backend)])
    _, tokens, mask = losses(backend, samples_of(seen))
    assert backend.module.training is training
    prefix = backend.encode(seen)
    assert backend.module.training is training
    assert tokens.shape == prefix.tokens.shape
    assert (tokens - prefix.tokens).abs().max() < 1e-5
    assert torch.equal(mask, prefix.token_mask())
    assert not tokens.requires_grad


def test_one_pass_gives_the_loss_and_z(smolvla, monkeypatch):
    calls = []
    inner = smolvla.policy.model.vlm_with_expert
    forward = inner.forward
    monkeypatch.setattr(inner, "forward", lambda **named: (calls.append(1), forward(**named))[1])
    losses(smolvla, samples_of(made_up(2, 24)))
    assert calls == [1]


def test_without_padding_the_loss_is_lerobots_own(backend):
    backend.module.train()
    samples = samples_of(made_up(3, PIXELS[kind_of(backend)]))
    loss, _, _ = losses(backend, samples)
    batch = backend.training_batch(samples)
    torch.manual_seed(0)
    own, _ = backend.policy.forward(batch)
    assert loss.item() == pytest.approx(own.item(), rel=1e-5)


def test_padded_rows_do_not_matter(backend):
    samples = samples_of(made_up(2, PIXELS[kind_of(backend)]), padded=5)
    loss, _, _ = losses(backend, samples)
    other = samples["action"].clone()
    other[0, -5:] = 9.0
    changed, _, _ = losses(backend, {**samples, "action": other})
    # SmolVLA's action tokens see no later ones, so that what stands in padded rows changes no other.
    assert changed.item() == pytest.approx(loss.item(), rel=1e-5)
    whole, _, _ = losses(backend, {**samples, "action_is_pad": torch.zeros_like(samples["action_is_pad"])})
    assert whole.item() != pytest.approx(loss.item(), rel=1e-3)


def test_the_loss_reaches_the_weights_and_a_step_lowers_it(backend):
    backend.module.train()
    samples = samples_of(made_up(4, PIXELS[kind_of(backend)]))
    optimiser = torch.optim.Adam([p for p in backend.module.parameters() if p.requires_grad], lr=3e-3)
    begun = [losses(backend, samples, seed)[0].item() for seed in range(3)]
    for step in range(12):
        optimiser.zero_grad()
        losses(backend, samples, step % 3)[0].backward()
        optimiser.step()
    ended = [losses(backend, samples, seed)[0].item() for seed in range(3)]
    assert sum(ended) < 0.95 * sum(begun)


def test_tasks_of_other_lengths_in_one_batch_change_no_z(smolvla):
    seen = made_up(2, 24)
    samples = samples_of(seen)
    _, alone, _ = losses(smolvla, {**samples, "task": ["hold it", "hold it"]})
    _, mixed, _ = losses(smolvla, {**samples, "task": ["hold it", "drive the screw into the hole and hold it there"]})
    assert (alone[0] - mixed[0]).abs().max() < 1e-5
    assert (alone[1] - mixed[1]).abs().max() > 1e-4


def test_samples_without_a_camera_or_an_action_are_refused(smolvla):
    samples = samples_of(made_up(1, 24))
    for name in ("observation.images.wrist", "action"):
        with pytest.raises(ValueError, match=f"samples have no '{name}'"):
            smolvla.training_batch({key: value for key, value in samples.items() if key != name})


def test_what_is_saved_opens_as_the_same_policy(backend, root, tmp_path):
    kind, before = kind_of(backend), backend.spec.fingerprint
    backend.save_policy(tmp_path / "same")
    assert backend.spec.fingerprint == before
    assert open_backend(tiny.vla_file(tmp_path, "same")).spec.fingerprint == before
    with torch.no_grad():
        next(p for p in backend.module.parameters() if p.requires_grad).add_(1e-3)
    backend.save_policy(tmp_path / "adapted")
    again = open_backend(tiny.vla_file(tmp_path, "adapted", options={"device": "cpu", "vlm": "nowhere"}))
    assert again.spec.fingerprint == backend.spec.fingerprint != before
    seen, noise = made_up(2, PIXELS[kind]), noise_of(2, tiny.ROWS, backend.spec.noise_dim)
    assert torch.equal(
        again.encode_and_sample(seen, steps=3, noise=noise)[1],
        backend.encode_and_sample(seen, steps=3, noise=noise)[1],
    )
