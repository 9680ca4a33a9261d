"""What is looked at before a policy of LeRobot runs: its folder, every tensor of its weights, its options."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlt_common.parameters import ParameterError
from rlt_vla_node import lerobot_packages
from rlt_vla_node.backend import BackendError

pytest.importorskip("lerobot", reason="LeRobot is an extra: `make extras` installs requirements-lerobot.txt")

import tiny_lerobot as tiny
from lerobot_native import made_up, noise_of

from rlt_vla_node.backends import open_backend


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    tiny.write_smolvla(folder / "smolvla")
    tiny.write_act(folder / "act")
    return folder


@pytest.fixture
def policy(root, tmp_path):
    """A copy of the tiny SmolVLA, to be spoilt."""
    return shutil.copytree(root / "smolvla", tmp_path / "policy")


def opened(policy, **values):
    return open_backend(tiny.vla_file(policy.parent, policy.name, **values))


def fingerprint(policy, **values):
    return opened(policy, **values).spec.fingerprint


def change_weights(policy, change):
    tensors = load_file(policy / "model.safetensors")
    change(tensors)
    save_file(tensors, policy / "model.safetensors")


def change_steps(policy, file, change):
    pipeline = json.loads((policy / file).read_text())
    change(pipeline["steps"])
    (policy / file).write_text(json.dumps(pipeline))


# ---- weights


def test_a_missing_tensor_is_an_error_and_no_random_weights(policy):
    change_weights(policy, lambda tensors: tensors.pop("model.action_out_proj.weight"))
    with pytest.raises(BackendError, match=r"has no tensor model\.action_out_proj\.weight \(which would stay random"):
        opened(policy)


def test_a_foreign_tensor_is_an_error(policy):
    change_weights(policy, lambda tensors: tensors.update(other=torch.zeros(2)))
    with pytest.raises(BackendError, match="holds a tensor that the policy does not have: other"):
        opened(policy)


def test_a_tensor_of_another_shape_is_an_error(policy):
    change_weights(policy, lambda tensors: tensors.update({"model.action_out_proj.bias": torch.zeros(3)}))
    with pytest.raises(BackendError, match=r"(?s)LeRobot cannot load the policy.*action_out_proj\.bias"):
        opened(policy)


def test_weights_that_lerobot_did_not_load_are_found(policy, monkeypatch):
    """pi0.5's loading prints its errors and gives a random policy."""
    kind = lerobot_packages.lerobot_module("policies.smolvla.modeling_smolvla").SmolVLAPolicy
    monkeypatch.setattr(kind, "from_pretrained", classmethod(lambda cls, folder, config, strict: cls(config)))
    with pytest.raises(BackendError, match=r"was not loaded: .* and \d+ more \(LeRobot's loading failed\)"):
        opened(policy)


def test_a_torn_file_is_an_error(policy):
    path = policy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BackendError, match="cannot load the policy"):
        opened(policy)


def test_tied_weights_are_one_tensor_in_the_file(root):
    """The tiny SmolVLM ties nothing; a file that leaves out one of two names of a tensor is whole."""
    from rlt_vla_node.lerobot_weights import WeightsFile

    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    module["b"].weight = module["a"].weight
    path = root / "tied.safetensors"
    save_file({name: t for name, t in module.state_dict().items() if name != "a.weight"}, path)
    assert sorted(WeightsFile(module, path)) == ["a.bias", "a.weight", "b.bias"]


# ---- fingerprint


def test_the_fingerprint_is_of_weights_statistics_processing_and_tokenizer(policy):
    found = [fingerprint(policy)]
    change_weights(policy, lambda tensors: tensors["model.action_out_proj.bias"].add_(1e-3))
    found.append(fingerprint(policy))
    (path,) = policy.glob("policy_postprocessor*.safetensors")
    tensors = load_file(path)
    tensors["action.std"][3] *= 1.01
    save_file(tensors, path)
    found.append(fingerprint(policy))
    change_steps(policy, "policy_preprocessor.json", lambda steps: steps[3]["config"].update(max_length=12))
    found.append(fingerprint(policy))
    tiny.edit(policy / "vlm" / "tokenizer_config.json", model_max_length=77)
    found.append(fingerprint(policy))
    assert len(set(found)) == 5
    assert all(len(text) == 16 for text in found)


def test_the_fingerprint_is_not_of_how_the_policy_is_run_or_stored(policy):
    before = fingerprint(policy)
    assert fingerprint(policy, options={"device": "cpu", "warm_up": [2]}) == before
    tiny.edit(policy / "config.json", device="cuda", num_steps=4, optimizer_lr=1.0)
    assert fingerprint(policy) == before
    change_weights(policy, lambda tensors: tensors.update({k: v.double() for k, v in list(tensors.items())[:3]}))
    shutil.move(policy / "vlm", policy.parent / "elsewhere")
    (policy.parent / "elsewhere" / "model.safetensors").touch()
    moved = opened(policy, options={"device": "cpu", "vlm": "elsewhere"})
    assert moved.spec.fingerprint == before
    moved.save_policy(policy.parent / "written")
    assert fingerprint(policy.parent / "written") == moved.spec.fingerprint == before


# ---- the folder


def test_tokenizer_and_vlm_come_from_folders_and_never_from_the_hub(policy, monkeypatch):
    vlm = shutil.move(policy / "vlm", policy.parent / "elsewhere")
    with pytest.raises(BackendError) as refused:
        opened(policy)
    for words in (tiny.HUB_NAME, str(policy / "vlm"), "options: {vlm: ...}", "neither is fetched"):
        assert words in str(refused.value)
    opened(policy, options={"device": "cpu", "vlm": vlm.name})
    assert lerobot_packages.lerobot_module("utils.constants")
    import huggingface_hub

    assert huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: shutil.rmtree(p), "there is no policy in"),
        (lambda p: (p / "config.json").unlink(), r"config\.json: No such file"),
        (lambda p: (p / "config.json").write_text("{"), "not JSON"),
        (lambda p: (p / "config.json").write_text("{}"), "has no 'type'"),
        (
            lambda p: tiny.edit(p / "config.json", type="diffusion"),
            "type 'diffusion'; this backend runs act, pi0, pi05",
        ),
        (lambda p: tiny.edit(p / "config.json", of_another_version=1), "cannot load the policy .*of_another_version"),
        (lambda p: (p / "policy_postprocessor.json").unlink(), "has no policy_postprocessor.json.*migrate"),
        (lambda p: (p / "adapter_model.safetensors").touch(), "LoRA adapters alone: merge them"),
        (lambda p: (p / "model.safetensors").unlink(), "cannot load the policy"),
        (
            lambda p: next(p.glob("policy_pre*.safetensors")).unlink(),
            r"normalizer_processor\.safetensors: No such file",
        ),
        (
            lambda p: change_steps(p, "policy_preprocessor.json", lambda s: s.append({"class": "os.system"})),
            "os.system",
        ),
        (
            lambda p: change_steps(p, "policy_preprocessor.json", lambda s: s[0].update(state_file="../x.safetensors")),
            "no file beside it",
        ),
        (lambda p: change_steps(p, "policy_preprocessor.json", lambda s: s[0].update(registry_name="x")), "'x'"),
        (
            lambda p: change_steps(p, "policy_postprocessor.json", lambda s: s[0].pop("state_file")),
            r"normalises action \(MEAN_STD\) and has no statistics",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_words(policy, spoil, message):
    spoil(policy)
    with pytest.raises(BackendError, match=message):
        opened(policy)


# ---- options


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("act", {"devise": "cpu"}, "options: unknown key 'devise'; known: compile, device, dtype, vlm, warm_up"),
        ("act", {"dtype": "int8"}, "choose one of policy, float32, bfloat16"),
        ("act", {"device": "nowhere"}, "device 'nowhere' cannot be used"),
        ("act", {"device": "cpu", "dtype": "bfloat16"}, "ACT runs in float32 only"),
        ("act", {"device": "cpu", "warm_up": [0]}, "the least allowed is 1"),
    ],
)
def test_options_that_mean_nothing_are_errors(root, kind, options, message):
    with pytest.raises((ParameterError, BackendError), match=message):
        open_backend(tiny.vla_file(root, kind, options=options))


def test_a_flow_policy_needs_an_instruction(root):
    with pytest.raises(BackendError, match="takes an instruction"):
        open_backend(tiny.vla_file(root, "smolvla", instruction=""))


def test_smolvla_in_bfloat16_runs_and_is_another_policy(root):
    """transformers' SmolVLM has other positions of image patches in bfloat16 than in float32."""
    exact = open_backend(tiny.vla_file(root, "smolvla"))
    short = open_backend(tiny.vla_file(root, "smolvla", options={"device": "cpu", "dtype": "bfloat16"}))
    seen, noise = made_up(2, 24), noise_of(2, tiny.ROWS, tiny.PADDED)
    prefix, chunk = short.encode_and_sample(seen, steps=5, noise=noise)
    wanted, wanted_chunk = exact.encode_and_sample(seen, steps=5, noise=noise)
    assert prefix.tokens.dtype == chunk.dtype == torch.float32
    assert 0.0 < (prefix.tokens - wanted.tokens).norm() < wanted.tokens.norm()
    assert 0.0 < (chunk - wanted_chunk).abs().max() < 0.05
    assert short.spec.fingerprint != exact.spec.fingerprint


def test_smolvla_runs_in_the_numbers_that_lerobot_runs_it_in(policy):
    """With load_vlm_weights LeRobot makes the VLM in bfloat16, before it loads the policy's own weights."""
    tiny.edit(policy / "config.json", load_vlm_weights=True)
    own = opened(policy)
    assert own.policy.model.vlm_with_expert.vlm.dtype == torch.bfloat16
    assert own.spec.fingerprint == fingerprint(policy, options={"device": "cpu", "dtype": "bfloat16"})


def test_without_the_extra_the_error_says_what_to_install(root, monkeypatch):
    def absent(name):
        raise ImportError("No module named 'lerobot'")

    monkeypatch.setattr("rlt_vla_node.lerobot_backend.lerobot_module", absent)
    with pytest.raises(BackendError, match=r"a package is not installed .*make extras.*requirements-lerobot\.txt"):
        open_backend(tiny.vla_file(root, "act"))
