"""The remote backends against real server processes: what comes back, what is refused, what is never delivered."""

import threading

import numpy as np
import pytest
import torch
from policy_server import build
from remote_rig import KINDS, TOKENS, open_backend, save, tiny_token, vla_config
from server_process import ServerProcess, free_port
from tiny_policies import STATE, WIDTH

from rlt_common.parameters import ParameterError
from rlt_vla_node.backend import BackendError, ObservationBatch
from rlt_vla_node.checkpoint import CheckpointError, load_checkpoint
from rlt_vla_node.handoff import head_inputs
from rlt_vla_node.inference import flow_noise
from rlt_vla_node.remote_backend import ServedToken
from rlt_vla_node.rl_token import RlToken

LIMIT_S = 60.0


@pytest.fixture(params=KINDS)
def server(request, tmp_path):
    """One that is not started yet."""
    server = ServerProcess(request.param, tmp_path / "server.log")
    yield server
    server.close()


@pytest.fixture(scope="module", params=KINDS)
def running(request, tmp_path_factory):
    """One that runs all the while."""
    server = ServerProcess(request.param, tmp_path_factory.mktemp(request.param) / "server.log")
    server.start()
    yield server
    server.close()


def batch_of(seed, size=2):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (size, 2, 16, 16, 3), dtype=np.uint8))
    return ObservationBatch(images, torch.from_numpy(rng.normal(size=(size, STATE)).astype(np.float32)))


def noise_for(backend, size=2):
    return torch.stack([flow_noise(seed, backend.spec.horizon, backend.spec.noise_dim) for seed in range(size)])


def expected(kind, batch, noise, steps, want="z", rl_token=None):
    """The same service in this process."""
    service, _ = build(kind, rl_token)
    request = {"id": "x", "cameras": ["cam_high", "cam_left_wrist"], "prompt": "turn the screw", "want": want}
    arrays = {"images": batch.images.numpy(), "state": batch.state.numpy(), "noise": noise.numpy()}
    return service.infer({**request, **arrays, "steps": steps})


def until_back(backend):
    """Wait for the backend to have a connection again."""
    pause = threading.Event()
    for _ in range(round(LIMIT_S / 0.05)):
        if not backend.lost():
            return
        pause.wait(0.05)
    raise AssertionError(f"not back: {backend.lost()}")


def test_facts_chunk_and_embeddings_come_from_the_server(running):
    backend = open_backend(vla_config(running.kind, running.port))
    spec, batch = backend.spec, batch_of(0)
    assert (spec.embed_dim, spec.max_tokens, spec.action_dim, spec.state_dim) == (WIDTH, TOKENS[running.kind], 14, 14)
    assert spec.horizon == (10 if running.kind == "openpi" else 16)
    assert spec.control_hz == 50.0
    assert spec.camera_keys == ("base", "wrist")
    assert spec.fingerprint == build(running.kind)[0].facts["fingerprint"]
    noise = noise_for(backend)
    prefix, chunk = backend.encode_and_sample(batch, steps=4, noise=noise)
    own = expected(running.kind, batch, noise, 4)
    np.testing.assert_allclose(chunk.numpy(), own["chunk"], atol=1e-5)
    np.testing.assert_allclose(prefix.tokens.numpy(), own["z"].astype(np.float32), atol=1e-3)
    np.testing.assert_array_equal(prefix.token_mask().numpy(), own["mask"])
    again, chunk_again = backend.encode_and_sample(batch, steps=4, noise=noise)
    assert torch.equal(chunk, chunk_again), "the same observation and seed give the same bits"
    assert torch.equal(prefix.tokens, again.tokens)
    assert torch.equal(backend.encode(batch).tokens, prefix.tokens)
    assert torch.equal(backend.sample_chunk(prefix, steps=4, noise=noise), chunk)
    row, _ = backend.encode_and_sample(batch.rows([1]), steps=4, noise=noise[1:])
    np.testing.assert_allclose(row.tokens[0].numpy(), prefix.tokens[1].numpy(), atol=1e-3)


def test_the_servers_rl_token_is_taken_where_it_is_the_checkpoints_and_computed_here_where_not(server, tmp_path):
    own = save(tmp_path / "own", vla_config(server.kind, server.port))
    other = save(tmp_path / "other", vla_config(server.kind, server.port), seed=2)
    server.start("--rl-token", str(own))
    batch = batch_of(1)
    served, local = load_checkpoint(own), load_checkpoint(other)
    assert isinstance(served.token, ServedToken)
    assert isinstance(local.token, RlToken)
    assert served.hash != local.hash
    noise = noise_for(served.backend)
    short, chunk = served.backend.encode_and_sample(batch, steps=4, noise=noise)
    full, same = local.backend.encode_and_sample(batch, steps=4, noise=noise)
    assert short.tokens.shape == (2, 1, WIDTH)
    assert full.tokens.shape == (2, TOKENS[server.kind], WIDTH)
    assert torch.equal(chunk, same)
    by_hand = [tiny_token(server.kind, seed).encode(full.tokens, full.token_mask()).detach() for seed in (1, 2)]
    torch.testing.assert_close(served.token.represent(batch, short), by_hand[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(local.token.represent(batch, full), by_hand[1], atol=1e-5, rtol=0)
    seen = [head_inputs(p.tokens, p.token_mask(), batch.state) for p in (short, full)]
    torch.testing.assert_close(*seen, atol=1e-6, rtol=0)


def test_a_server_without_the_rl_token_gives_the_embeddings_and_z_rl_is_computed_here(running, tmp_path):
    folder = save(tmp_path / "vla", vla_config(running.kind, running.port))
    model, batch = load_checkpoint(folder), batch_of(1)
    prefix = model.backend.encode(batch)
    wanted = tiny_token(running.kind).encode(prefix.tokens, prefix.token_mask())
    torch.testing.assert_close(model.token.represent(batch, prefix), wanted.detach(), atol=1e-6, rtol=0)


def test_a_killed_server_is_an_error_at_once_and_comes_back_by_itself(server):
    server.start()
    backend, batch = open_backend(vla_config(server.kind, server.port, options={"timeout_s": 2.0})), batch_of(2)
    noise = noise_for(backend)
    _, before = backend.encode_and_sample(batch, steps=4, noise=noise)
    server.kill()
    for _ in range(3):
        with pytest.raises(BackendError, match=f"{server.kind} policy server at 127.0.0.1:{server.port}"):
            backend.encode_and_sample(batch, steps=4, noise=noise)
    assert str(server.port) in backend.lost()
    server.start()
    until_back(backend)
    _, after = backend.encode_and_sample(batch, steps=4, noise=noise)
    assert torch.equal(before, after)


def test_an_answer_that_comes_after_the_time_out_is_never_delivered(running):
    backend = open_backend(vla_config(running.kind, running.port, options={"timeout_s": 1.0}))
    first, second = batch_of(3), batch_of(4)
    noise = noise_for(backend)
    running.pause()
    with pytest.raises(BackendError, match="no answer"):
        backend.encode_and_sample(first, steps=4, noise=noise)
    running.go_on()
    until_back(backend)
    _, chunk = backend.encode_and_sample(second, steps=4, noise=noise)
    np.testing.assert_allclose(chunk.numpy(), expected(running.kind, second, noise, 4)["chunk"], atol=1e-5)


def test_a_server_that_reads_nothing_does_not_hold_up_a_large_request(running):
    backend = open_backend(vla_config(running.kind, running.port, options={"timeout_s": 1.0}))
    images = torch.zeros(64, 2, 224, 224, 3, dtype=torch.uint8)  # 19 MB: more than the sockets hold
    running.pause()
    with pytest.raises(BackendError, match=r"no answer|cannot send"):
        backend.encode(ObservationBatch(images, torch.zeros(64, STATE)))
    assert backend.lost()
    running.go_on()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("garbage", "not a msgpack message"),
        ("oversized", "too big|no answer of at most"),
        ("error", "the policy fell over"),
        ("nan", "chunk holds a value that is not finite"),
        ("short", "chunk is float32"),
    ],
)
def test_an_answer_that_is_none_is_refused_and_the_next_connection_is_clean(running, fault, words):
    options = {"timeout_s": 2.0, "max_reply_mib": 1}
    backend, batch = open_backend(vla_config(running.kind, running.port, options=options)), batch_of(5)
    noise = noise_for(backend)
    running.fail_by(fault)
    with pytest.raises(BackendError, match=words):
        backend.encode_and_sample(batch, steps=4, noise=noise)
    assert backend.lost()
    running.fail_by("")
    until_back(backend)
    _, chunk = backend.encode_and_sample(batch, steps=4, noise=noise)
    np.testing.assert_allclose(chunk.numpy(), expected(running.kind, batch, noise, 4)["chunk"], atol=1e-5)


def test_an_answer_to_another_request_is_passed_over_or_an_error_and_never_taken(running):
    backend, batch = open_backend(vla_config(running.kind, running.port)), batch_of(6)
    noise = noise_for(backend)
    running.fail_by("another id")
    if running.kind == "openpi":
        _, chunk = backend.encode_and_sample(batch, steps=4, noise=noise)
        np.testing.assert_allclose(chunk.numpy(), expected("openpi", batch, noise, 4)["chunk"], atol=1e-5)
    else:
        with pytest.raises(BackendError, match="answered another request"):
            backend.encode_and_sample(batch, steps=4, noise=noise)
    running.fail_by("")


def test_another_policy_at_the_same_address_is_not_talked_to(server):
    server.start()
    backend, batch = open_backend(vla_config(server.kind, server.port, options={"timeout_s": 2.0})), batch_of(7)
    server.kill()
    with pytest.raises(BackendError):
        backend.encode(batch)
    server.start("--seed", "1")
    pause = threading.Event()
    for _ in range(round(LIMIT_S / 0.05)):
        if "another policy is served now: fingerprint is" in backend.lost():
            break
        pause.wait(0.05)
    else:
        raise AssertionError(backend.lost())


def test_at_the_start_a_server_that_is_not_there_or_does_not_fit_is_an_error(server, tmp_path):
    config = vla_config(server.kind, server.port, options={"timeout_s": 0.5})
    where = f"{server.kind} policy server at 127.0.0.1:{server.port}: "
    with pytest.raises(BackendError, match=where):
        open_backend(config)
    folder = save(tmp_path / "vla", config)
    with pytest.raises(CheckpointError, match=where):
        load_checkpoint(folder)
    server.start("--seed", "1")
    with pytest.raises(CheckpointError, match="the RL token was trained on a VLA with fingerprint"):
        load_checkpoint(folder)
    cameras = {"cam_high": "base", "front": "wrist"}
    with pytest.raises(
        BackendError, match="started with cameras cam_high, cam_left_wrist, the VLA file sends cam_high"
    ):
        open_backend(vla_config(server.kind, server.port, cameras=cameras))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_file_says_of_the_server_is_checked(kind):
    for changes, words in (
        ({"options": {"timeout": 1.0}}, "unknown key 'timeout'"),
        ({"options": {"timeout_s": 0.0}}, "timeout_s is 0.0"),
        ({"source": "robot"}, "is not the address of a policy server"),
        ({"source": "host:port"}, "is not the address"),
        ({"source": "host:99999"}, "is not the address"),
        ({"source": "ws://host:80/path"}, "is not the address"),
    ):
        with pytest.raises(ParameterError, match=words):
            open_backend(vla_config(kind, 1, **changes))


def test_another_server_at_the_address_is_named_as_such(tmp_path):
    """openpi's own server says its metadata, and nothing of embeddings."""
    for kind, other in (("openpi", "gr00t"), ("gr00t", "openpi")):
        server = ServerProcess(other, tmp_path / "server.log")
        server.start()
        try:
            with pytest.raises(BackendError, match=f"{kind} policy server .* is it rlt_vla_node.serve_{kind}"):
                open_backend(vla_config(kind, server.port, options={"timeout_s": 1.0}))
        finally:
            server.close()


def test_a_port_where_nobody_listens_is_refused_without_waiting_for_the_time_out():
    config = vla_config("openpi", free_port(), options={"timeout_s": 600.0})
    with pytest.raises(BackendError, match="cannot connect"):
        open_backend(config)
