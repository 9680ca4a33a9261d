"""Which GPU each process of a training takes, told without a GPU; and that nothing is opened before it is taken."""

import pytest
import torch
from tiny_policy import tiny_policy

from rlt_common.parameters import ParameterError
from rlt_vla_node.backend import BackendError, ObservationBatch
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token
from rlt_vla_node.training_device import own_gpu, token_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_each_of_several_processes_takes_a_gpu_of_its_own_and_one_alone_any():
    assert [own_gpu({"LOCAL_RANK": rank}, 2) for rank in ("0", "1", "2")] == [0, 1, None]
    assert own_gpu({}, 2) is None
    assert own_gpu({"LOCAL_RANK": "0"}, 0) is None


@pytest.mark.parametrize(
    ("opened", "here", "rank", "gpus", "found"),
    [
        (CPU, True, None, 0, "cpu"),
        (CPU, True, None, 2, "cpu"),
        (CUDA, True, None, 2, "cuda"),
        (torch.device("cuda:1"), True, None, 2, "cuda:1"),
        (CUDA, True, 1, 2, "cuda:1"),
        (torch.device("cuda:1"), True, 1, 2, "cuda:1"),
        (CPU, True, 1, 2, "cpu"),
        (CPU, False, None, 0, "cpu"),
        (CPU, False, None, 2, "cuda"),
        (CPU, False, 1, 2, "cuda:1"),
        (CPU, False, 1, 0, "cpu"),
    ],
)
def test_the_token_is_trained_beside_the_vla_and_on_a_gpu_where_the_vla_is_at_a_server(opened, here, rank, gpus, found):
    assert str(token_device(opened, here, rank, gpus)) == found


def test_processes_without_a_gpu_each_are_refused():
    with pytest.raises(ParameterError, match="one process per GPU"):
        token_device(CUDA, True, 2, 2)
    with pytest.raises(ParameterError, match="CUDA_VISIBLE_DEVICES"):
        token_device(torch.device("cuda:1"), True, 0, 2)


def test_a_token_takes_embeddings_from_another_device():
    shape = RlTokenConfig(embed_dim=8, max_tokens=3, token_dim=4, encoder_blocks=1, decoder_blocks=1, heads=2)
    token, policy = build_rl_token(shape, 1).to("meta"), tiny_policy()
    seen = ObservationBatch(torch.zeros(2, 2, 6, 6, 3, dtype=torch.uint8), torch.zeros(2, 14))
    prefix = policy.encode(seen)
    assert token.represent(seen, prefix).device.type == "meta"
    assert token.reconstruction_loss(prefix.tokens, prefix.token_mask()).device.type == "meta"
    with pytest.raises(RuntimeError, match=r"item.* on meta"):  # the loss is there, and has no value on that device
        token.health(prefix.tokens, prefix.token_mask(), torch.Generator())


def test_the_loss_of_a_token_apart_from_a_frozen_vla_is_where_the_token_is():
    training = pytest.importorskip("rlt_vla_node.vla_trainer", reason="accelerate is not installed: make extras")
    from test_vla_trainer import Samples

    shape = RlTokenConfig(embed_dim=8, max_tokens=3, token_dim=4, encoder_blocks=1, decoder_blocks=1, heads=2)
    frozen = training.VlaAdaptConfig(train="frozen")
    joint = training.JointLoss(tiny_policy(), build_rl_token(shape, 1).to("meta"), frozen)
    batch = torch.utils.data.default_collate([Samples()[0], Samples()[1]])
    assert [loss.device.type for loss in joint(batch)] == ["meta", "meta"]


def test_a_process_takes_its_gpu_before_the_vla_is_opened(cell, tmp_path, monkeypatch):
    adaptation = pytest.importorskip("rlt_vla_node.vla_adaptation", reason="accelerate is not installed: make extras")
    done = []

    def open_backend(config):
        done.append("opened")
        raise BackendError("far enough")

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: done.append(gpu))
    monkeypatch.setattr(adaptation, "open_backend", open_backend)
    (tmp_path / "vla.yaml").write_text(
        "backend: lerobot\nsource: policy\ncontrol_hz: 50.0\nstate: [left.joints]\nactions: [left.joints]\n"
        "action_kind: absolute\ncameras: {a: wrist}\n"
    )
    words = ["--vla", tmp_path / "vla.yaml", "--robot", cell.robot_path, "--task", cell.task_path]
    with pytest.raises(SystemExit, match="far enough"):
        adaptation.main([*map(str, words), "--output", str(tmp_path / "out"), "--dataset", str(tmp_path)])
    assert done == [1, "opened"]
