"""Policies of LeRobot behind VlaBackend: LeRobot's own code with tiny random weights, held against LeRobot itself."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from rlt_vla_node.backend import KIND_IMAGE, KIND_PROPRIOCEPTION, BackendError

pytest.importorskip("lerobot", reason="LeRobot is an extra: `make extras` installs requirements-lerobot.txt")

import tiny_lerobot as tiny
from lerobot_native import Native, made_up, noise_of

from rlt_vla_node.backends import open_backend

STEPS = 10  # LeRobot's own number of flow steps
PIXELS = {"smolvla": 24, "act": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One tiny policy of each kind."""
    root = tmp_path_factory.mktemp("policies")
    return {"smolvla": tiny.write_smolvla(root / "smolvla"), "act": tiny.write_act(root / "act"), "root": root}


@pytest.fixture(scope="module")
def backends(folders):
    return {kind: open_backend(tiny.vla_file(folders["root"], kind)) for kind in ("smolvla", "act")}


@pytest.fixture
def smolvla(backends):
    return backends["smolvla"]


@pytest.fixture
def act(backends):
    return backends["act"]


def copy_of(folders, kind, tmp_path):
    return shutil.copytree(folders[kind], tmp_path / "policy")


def opened(tmp_path, **values):
    return open_backend(tiny.vla_file(tmp_path, "policy", **values))


def noise_for(backend, size, seed=1):
    return noise_of(size, backend.spec.horizon, backend.spec.noise_dim, seed)


# ---- equal to LeRobot


@pytest.mark.parametrize("kind", ["smolvla", "act"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_chunk_is_the_one_that_lerobot_gives(folders, backends, kind, size):
    backend = backends[kind]
    seen, noise = made_up(size, PIXELS[kind]), noise_for(backend, size)
    before = seen.state.clone()
    _, chunk = backend.encode_and_sample(seen, steps=STEPS, noise=noise)
    native = Native(folders[kind], kind)
    wanted = native.chunk(seen, ["top", "hand"], tiny.INSTRUCTION, None if kind == "act" else noise)
    assert chunk.shape == (size, tiny.ROWS, tiny.WIDTH)
    assert (chunk - wanted).abs().max() < 1e-5
    assert torch.equal(seen.state, before), "the observation is the caller's"


def test_the_chunk_is_lerobots_where_the_policy_was_trained_in_another_aloha_space(folders, tmp_path):
    tiny.edit(copy_of(folders, "smolvla", tmp_path) / "config.json", adapt_to_pi_aloha=True)
    backend, seen = opened(tmp_path), made_up(2, 24)
    _, chunk = backend.encode_and_sample(seen, steps=STEPS, noise=noise_for(backend, 2))
    native = Native(tmp_path / "policy", "smolvla")
    wanted = native.chunk(seen, ["top", "hand"], tiny.INSTRUCTION, noise_for(backend, 2))
    assert (chunk - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["smolvla", "act"])
def test_sampling_again_from_the_kept_cache_gives_the_same_bits(backends, kind):
    backend = backends[kind]
    prefix = backend.encode(made_up(2, PIXELS[kind]))
    first = backend.sample_chunk(prefix, steps=4, noise=noise_for(backend, 2))
    other = backend.sample_chunk(prefix, steps=4, noise=noise_for(backend, 2, seed=2))
    again = backend.sample_chunk(prefix, steps=4, noise=noise_for(backend, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind == "act"), "only ACT draws no noise"
    _, together = backend.encode_and_sample(made_up(2, PIXELS[kind]), steps=4, noise=noise_for(backend, 2))
    assert torch.equal(first, together)


def test_one_pass_over_the_prefix_serves_embedding_and_chunk(smolvla, monkeypatch):
    calls = []
    inner = smolvla.policy.model.vlm_with_expert
    forward = inner.forward

    def counted(**named):
        calls.append([given is not None for given in named["inputs_embeds"]])
        return forward(**named)

    monkeypatch.setattr(inner, "forward", counted)
    smolvla.encode_and_sample(made_up(1, 24), steps=3, noise=noise_for(smolvla, 1))
    assert calls == [[True, False]] + 3 * [[False, True]]


@pytest.mark.parametrize("kind", ["smolvla", "act"])
def test_a_row_does_not_depend_on_the_others_in_its_batch(backends, kind):
    backend = backends[kind]
    seen, noise = made_up(4, PIXELS[kind]), noise_for(backend, 4)
    many, chunks = backend.encode_and_sample(seen, steps=4, noise=noise)
    one, chunk = backend.encode_and_sample(seen.rows([2]), steps=4, noise=noise[2:3])
    assert (many.tokens[2] - one.tokens[0]).abs().max() < 1e-5
    assert (chunks[2] - chunk[0]).abs().max() < 1e-5


def test_padding_of_the_instruction_changes_nothing(folders, smolvla, tmp_path):
    path = copy_of(folders, "smolvla", tmp_path) / "policy_preprocessor.json"
    pipeline = json.loads(path.read_text())
    (step,) = (step for step in pipeline["steps"] if step["registry_name"] == "tokenizer_processor")
    assert step["config"]["padding"] == "longest"
    step["config"]["padding"] = "max_length"
    path.write_text(json.dumps(pipeline))
    padded, seen, noise = opened(tmp_path), made_up(2, 24), noise_for(smolvla, 2)
    short, chunk = smolvla.encode_and_sample(seen, steps=4, noise=noise)
    long, padded_chunk = padded.encode_and_sample(seen, steps=4, noise=noise)
    assert long.cache.given["prefix_pad_masks"].shape[1] > short.cache.given["prefix_pad_masks"].shape[1]
    assert (short.tokens - long.tokens).abs().max() < 1e-5
    assert (chunk - padded_chunk).abs().max() < 1e-5


# ---- what z is


def test_z_are_the_image_tokens_and_the_spec_says_how_many(smolvla, act):
    for backend, kind, tokens, width in ((smolvla, "smolvla", 8, 32), (act, "act", 2, 16)):
        prefix = backend.encode(made_up(2, PIXELS[kind]))
        assert prefix.tokens.shape == (2, tokens, width)
        assert (backend.spec.max_tokens, backend.spec.embed_dim) == (tokens, width)
        assert prefix.kind.tolist() == tokens * [KIND_IMAGE]
        assert prefix.token_mask().all()
        assert prefix.tokens.dtype == torch.float32


@pytest.mark.parametrize(("kind", "others"), [("smolvla", 1), ("act", 2)])
def test_all_tokens_are_those_of_images_and_state_and_never_of_language(folders, backends, kind, others):
    everything = open_backend(tiny.vla_file(folders["root"], kind, tokens="all"))
    seen = made_up(2, PIXELS[kind])
    images, prefix = backends[kind].encode(seen), everything.encode(seen)
    assert everything.spec.max_tokens == images.tokens.shape[1] + others
    assert (prefix.kind == KIND_PROPRIOCEPTION).sum() == others
    assert torch.equal(prefix.tokens[:, prefix.kind == KIND_IMAGE], images.tokens)


def test_special_tokens_around_an_image_are_language(folders, tmp_path):
    tiny.edit(copy_of(folders, "smolvla", tmp_path) / "config.json", add_image_special_tokens=True)
    backend = opened(tmp_path)
    assert backend.encode(made_up(1, 24)).tokens.shape[1] == 8


# ---- cameras


def test_a_camera_that_is_not_there_is_masked_as_the_policy_was_trained_to(tmp_path):
    tiny.write_smolvla(tmp_path / "policy", cameras=("top",), empty_cameras=1)
    backend = opened(tmp_path, cameras={"top": "base"})
    prefix = backend.encode(made_up(2, 24, cameras=1))
    assert backend.spec.camera_keys == ("base",)
    assert prefix.token_mask().tolist() == 2 * [4 * [True] + 4 * [False]]
    seen, noise = made_up(2, 24, cameras=1), noise_for(backend, 2)
    _, chunk = backend.encode_and_sample(seen, steps=STEPS, noise=noise)
    wanted = Native(tmp_path / "policy", "smolvla").chunk(seen, ["top"], tiny.INSTRUCTION, noise)
    assert (chunk - wanted).abs().max() < 1e-5


def test_the_order_of_cameras_in_the_vla_file_does_not_matter(folders, smolvla):
    turned = open_backend(tiny.vla_file(folders["root"], "smolvla", cameras={"hand": "wrist", "top": "base"}))
    seen = made_up(2, 24)
    assert turned.spec.camera_keys == ("wrist", "base")
    other = type(seen)(seen.images[:, [1, 0]], seen.state)
    assert torch.equal(turned.encode(other).tokens, smolvla.encode(seen).tokens)


@pytest.mark.parametrize(
    ("kind", "cameras", "message"),
    [
        ("smolvla", {"top": "base", "hand": "none"}, "trained to miss 0 cameras .*lacks hand"),
        ("act", {"top": "base", "hand": "none"}, "ACT cannot do without hand"),
        ("act", {"top": "base"}, "a camera 'hand' that the VLA file does not name"),
        ("act", {"top": "base", "hand": "wrist", "side": "base"}, "has no camera 'side'; it has top, hand"),
        ("smolvla", {"top": "none", "hand": "none"}, "at least one of top, hand"),
    ],
)
def test_cameras_that_do_not_fit_are_refused_at_the_start(folders, kind, cameras, message):
    with pytest.raises(BackendError, match=message):
        open_backend(tiny.vla_file(folders["root"], kind, cameras=cameras))


def test_observations_of_another_shape_are_refused(smolvla, act):
    with pytest.raises(ValueError, match=r"images are .*LeRobot act takes uint8 \(B, 2, 16, 16, 3\)"):
        act.encode(made_up(1, 24))
    with pytest.raises(ValueError, match="of the cameras base, wrist"):
        smolvla.encode(made_up(1, 24, cameras=3))
    bad = made_up(1, 24)
    bad.state[0, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite at index 3"):
        smolvla.encode(bad)
