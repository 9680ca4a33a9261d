"""The server's wrappers: the policy's own chunk, the embeddings of the very pass, noise and steps from the request."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from policy_server import build
from remote_rig import KINDS, TOKENS, save, tiny_token, vla_config
from tiny_policies import CAMERAS, COLUMNS, HORIZON, PARTS, PROMPT, STATE, WIDTH, TinyGr00t, TinyOpenpi

from rlt_vla_node import serve_gr00t, serve_openpi
from rlt_vla_node.policy_service import PolicyService, ServedWith, ServiceError, served_token
from rlt_vla_node.remote_protocol import facts_from
from rlt_vla_node.rl_token import token_hash

SOURCES = Path(__file__).resolve().parents[2]


def request_for(service, seed=0, batch=3, **changes):
    rng = np.random.default_rng(seed)
    facts = facts_from(service.facts, "it")
    values = {
        "id": "a" * 32,
        "cameras": list(CAMERAS[:2]),
        "images": rng.integers(0, 256, (batch, 2, 16, 16, 3), dtype=np.uint8),
        "state": rng.normal(size=(batch, STATE)).astype(np.float32),
        "prompt": PROMPT,
        "steps": 4,
        "noise": rng.normal(size=(batch, facts.horizon, facts.noise_dim)).astype(np.float32),
        "want": "z",
    }
    return {**values, **changes}


def native_openpi(policy, request, row):
    """The chunk by openpi's own infer."""
    images = {n: request["images"][row, i].transpose(2, 0, 1) for i, n in enumerate(request["cameras"])}
    data = {"state": request["state"][row], "images": images, "prompt": request["prompt"]}
    return policy.infer(data, request["noise"][row], request["steps"])


def test_openpis_chunk_is_the_policys_own_and_takes_noise_and_steps_from_the_request():
    service, _ = build("openpi")
    request = request_for(service)
    reply = service.infer(request)
    untouched = TinyOpenpi()
    for row in range(3):
        np.testing.assert_allclose(reply["chunk"][row], native_openpi(untouched, request, row), atol=1e-5)
    assert reply["chunk"].shape == (3, HORIZON, STATE)
    again = service.infer(request)
    assert again["chunk"].tobytes() == reply["chunk"].tobytes(), "the same observation and noise give the same bits"
    other = service.infer({**request, "steps": 5})
    assert not np.allclose(other["chunk"], reply["chunk"])


def test_gr00ts_chunk_is_the_policys_own_from_the_noise_of_the_request(monkeypatch):
    service, _ = build("gr00t")
    request = request_for(service)
    reply = service.infer(request)
    drawn = request["noise"].reshape(3, -1)[:, : 40 * 132].reshape(3, 40, 132)
    untouched = TinyGr00t()
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.from_numpy(drawn.copy()).reshape(shape))
    parts = np.split(request["state"], np.cumsum(list(PARTS.values()))[:-1], axis=1)
    action, _ = untouched.get_action(
        {
            "video": {name: request["images"][:, i][:, None] for i, name in enumerate(CAMERAS[:2])},
            "state": {name: part[:, None] for name, part in zip(PARTS, parts, strict=True)},
            "language": {"annotation.human.task_description": [[PROMPT]] * 3},
        }
    )
    np.testing.assert_allclose(reply["chunk"], np.concatenate([action[n] for n in PARTS], axis=2), atol=1e-5)
    assert service.infer(request)["chunk"].tobytes() == reply["chunk"].tobytes()
    assert not np.allclose(service.infer({**request, "steps": 5})["chunk"], reply["chunk"])
    assert untouched.model.action_head.num_inference_timesteps == 4


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_over_the_prefix_gives_chunk_and_image_tokens(kind):
    service, policy = build(kind)
    encoder = policy._model.paligemma_with_expert if kind == "openpi" else policy.model.backbone
    before = encoder.passes
    request = request_for(service)
    reply = service.infer(request)
    assert encoder.passes == before + 1
    assert (reply["z"].dtype, reply["z"].shape) == (np.float16, (3, TOKENS[kind], WIDTH))
    third = [False] * 4 if kind == "openpi" else []
    assert reply["mask"].tolist() == [[True] * 8 + third] * 3, "a camera that is not there has no tokens to be read"
    assert not reply["z"][:, 8:].any()
    alone = service.infer({**request, "steps": 0})
    assert "chunk" not in alone, "no chunk is drawn where none is wanted"
    np.testing.assert_array_equal(alone["z"], reply["z"])


def test_the_prompt_reaches_the_policy():
    for kind in KINDS:
        service, _ = build(kind)
        request = request_for(service)
        other = service.infer({**request, "prompt": "plug in"})
        assert not np.array_equal(other["z"], service.infer(request)["z"]), kind


@pytest.mark.parametrize("kind", KINDS)
def test_z_rl_and_the_mean_are_those_of_the_embeddings_that_z_would_bring(kind, tmp_path):
    save(tmp_path / "vla", vla_config(kind, 1))
    service, _ = build(kind, tmp_path / "vla")
    request = request_for(service)
    full, short = service.infer(request), service.infer({**request, "want": "z_rl"})
    assert "z" not in short
    assert service.facts["rl_token"] == token_hash(tiny_token(kind))
    tokens, mask = torch.from_numpy(full["z"]).float(), torch.from_numpy(full["mask"])
    expected = tiny_token(kind).encode(tokens, mask).detach().numpy()
    np.testing.assert_array_equal(short["z_rl"], expected)
    np.testing.assert_allclose(short["z_mean"], tokens[:, :8].mean(1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(short["chunk"], full["chunk"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": 7}, "id and a prompt"),
        ({"prompt": None}, "id and a prompt"),
        ({"cameras": ["cam_high"]}, "the policy is served with"),
        ({"cameras": None}, "the policy is served with"),
        ({"state": np.zeros((3, 13), np.float32)}, r"state is float32 \(3, 13\), not float32 \(3, 14\)"),
        ({"state": np.zeros((0, 14), np.float32)}, "state is no"),
        ({"state": np.full((3, 14), np.nan, np.float32)}, "state holds a value that is not finite"),
        ({"state": [0.0]}, "state is no"),
        ({"images": np.zeros((3, 2, 16, 16, 3), np.float32)}, "images is float32"),
        ({"images": np.zeros((3, 1, 16, 16, 3), np.uint8)}, "images is uint8"),
        ({"images": None}, "images is NoneType"),
        ({"noise": np.zeros((3, HORIZON, 31), np.float32)}, "noise is float32"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": 2.0}, "steps is 2.0"),
        ({"want": "weights"}, "want is 'weights'"),
        ({"want": "z_rl"}, "without --rl-token"),
    ],
)
def test_a_request_that_cannot_be_used_is_refused_by_name(changes, words):
    service, _ = build("openpi")
    with pytest.raises(ValueError, match=words):
        service.infer(request_for(service, **changes))


def test_gr00ts_server_answers_whatever_comes_and_has_no_kill():
    service, _ = build("gr00t")
    known = serve_gr00t.endpoints(service)
    assert set(known) == {"ping", "rlt_describe", "rlt_infer"}

    def say(message):
        return serve_gr00t.GR00T.unpack(serve_gr00t.answer(known, message))

    pack = serve_gr00t.GR00T.pack
    assert say(pack({"endpoint": "ping"}))["status"] == "ok"
    assert say(pack({"endpoint": "rlt_describe"})) == service.facts
    for message in (b"", b"\xc1", pack(7), pack({"endpoint": "kill"}), pack({"endpoint": "rlt_infer", "data": [1]})):
        assert set(say(message)) == {"error"}
    assert "no endpoint 'kill'" in say(pack({"endpoint": "kill"}))["error"]


class Deaf:
    """A policy that draws its own noise."""

    noise_shape = (HORIZON, COLUMNS)

    def __init__(self, policy):
        self._policy = policy

    def run(self, images, state, prompt, noise, steps):
        return self._policy.run(images, state, prompt, np.zeros_like(noise), steps)


def test_a_policy_that_does_not_take_the_noise_is_not_served():
    service, _ = build("openpi")
    served = ServedWith("deaf", "0" * 16, CAMERAS[:2], STATE, (16, 16), PROMPT)
    with pytest.raises(ServiceError, match="does not take its noise from the request"):
        PolicyService(Deaf(service._policy), served)


def test_gr00ts_keys_and_frames_are_checked_at_the_start():
    with pytest.raises(ServiceError, match="--state names left_arm, the policy has left_arm, left_gripper"):
        serve_gr00t.Gr00tPolicy(TinyGr00t(), {"left_arm": 14})
    policy = TinyGr00t()
    policy.modality_configs["video"].delta_indices = [-1, 0]
    with pytest.raises(ServiceError, match="2 frames of video"):
        serve_gr00t.Gr00tPolicy(policy, PARTS)
    assert serve_gr00t.state_parts("a:6, b:1") == {"a": 6, "b": 1}
    for text in ("a", "a:0", "a:1,a:2", ":3"):
        with pytest.raises(ServiceError, match="--state"):
            serve_gr00t.state_parts(text)


def test_a_jax_checkpoint_of_openpi_is_refused_with_the_way_out():
    policy = TinyOpenpi()
    policy._is_pytorch_model = False
    with pytest.raises(ServiceError, match="convert_jax_model_to_pytorch"):
        build("openpi")[0]._policy.__class__(policy, None, "aloha")


def test_an_rl_token_of_another_policy_is_not_served(tmp_path):
    save(tmp_path / "vla", vla_config("openpi", 1))
    with pytest.raises(ServiceError, match="trained on a VLA with fingerprint"):
        served_token(tmp_path / "vla", "0" * 16)
    with pytest.raises(ServiceError, match="no VLA checkpoint here"):
        served_token(tmp_path / "nowhere", "0" * 16)


@pytest.mark.parametrize(
    ("module", "folder", "given", "others"),
    [
        (serve_openpi, "checkpoint", {"config": "pi05", "inputs": "aloha"}, {"config": "pi0", "inputs": "libero"}),
        (serve_gr00t, "model", {"embodiment": "new", "state": "a:6,b:1"}, {"embodiment": "gr1", "state": "b:1,a:6"}),
    ],
)
def test_the_fingerprint_is_of_weights_statistics_and_what_chooses_among_them(tmp_path, module, folder, given, others):
    model = torch.nn.Linear(2, 2)

    def found(**changes):
        return module.fingerprint(model, SimpleNamespace(**{folder: tmp_path, **given, **changes}))

    one = found()
    assert found(port=1, device="cuda", rl_token="elsewhere") == one, "where it runs does not matter"
    all_of_them = [one, *(found(**{name: value}) for name, value in others.items())]
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "norm_stats.json").write_text("{}")
    all_of_them.append(found())
    torch.nn.init.zeros_(model.bias)
    all_of_them.append(found())
    assert len(set(all_of_them)) == 5


def test_the_servers_need_no_ros_and_nothing_built():
    """In the VLA's own environment there are numpy, torch, safetensors, msgpack and zmq or websockets."""
    foreign = ("rclpy", "rlt_msgs", "mujoco", "scipy", "yaml", "cv2", "std_msgs", "mcap", "rosbags")
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {foreign!r}:
            raise ImportError(name + ' is not there')
sys.meta_path.insert(0, Absent())
import rlt_vla_node.serve_openpi, rlt_vla_node.serve_gr00t
assert 'openpi' not in sys.modules and 'gr00t' not in sys.modules
for main in (rlt_vla_node.serve_openpi.main, rlt_vla_node.serve_gr00t.main):
    try:
        main(['--help'])
    except SystemExit as end:
        assert end.code == 0
"""
    paths = os.pathsep.join(str(SOURCES / name) for name in ("rlt_common", "rlt_vla_node"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--rl-token" in done.stdout


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("serve_openpi", ["--config", "c", "--checkpoint", ".", "--inputs", "aloha", "--state-dim", "14"], "openpi's"),
        ("serve_gr00t", ["--model", ".", "--embodiment", "e", "--state", "a:1"], "GR00T's"),
        ("serve_gr00t", ["--model", "/nowhere", "--embodiment", "e", "--state", "a:1"], "no folder: give a local one"),
    ],
)
def test_outside_the_vlas_environment_a_server_says_where_it_runs(module, arguments, words):
    done = subprocess.run(
        [sys.executable, "-m", f"rlt_vla_node.{module}", "--cameras", "a", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
