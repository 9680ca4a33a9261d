"""The hand-off head: what it reads, its file, training on hand-offs it can and cannot see, and its figures by hand."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlt_common.atomic import sha256_hex
from rlt_common.parameters import ParameterError
from rlt_vla_node import handoff_command
from rlt_vla_node.builtin import BuiltinBackend
from rlt_vla_node.checkpoint import load_checkpoint, save_checkpoint
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.encoding import EncodingConfig
from rlt_vla_node.handoff import (
    FACTS_FILE,
    TENSORS_FILE,
    HandoffError,
    HeadConfig,
    build_head,
    has_head,
    head_inputs,
    load_head,
    read_facts,
    save_head,
)
from rlt_vla_node.handoff_data import Handoffs, load_handoffs
from rlt_vla_node.handoff_training import (
    HandoffConfig,
    Split,
    call_errors,
    choose_threshold,
    report,
    split_episodes,
)

LAYOUT = (("ee_pose", 12), ("joint_effort", 14))
HASH = "a" * 16


# -- what it reads


def test_it_reads_the_mean_of_the_real_tokens_whatever_the_padding_holds():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [float("nan"), 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert head_inputs(tokens, mask, torch.tensor([[7.0]])).tolist() == [[2.0, 4.0, 7.0]]


# -- its file


@pytest.fixture
def head(tmp_path):
    made = build_head(HeadConfig(embed_dim=6, state_dim=3, hidden=4), seed=1)
    made.set_statistics(torch.randn(20, 9, generator=torch.Generator().manual_seed(2)))
    made.threshold = 0.7
    save_head(tmp_path, made, HASH, {"seed": 1})
    return made.eval()


def test_the_loaded_head_gives_the_same_bits(head, tmp_path):
    loaded = load_head(tmp_path, HASH, 6, 3)
    inputs = torch.randn(5, 9)
    assert torch.equal(loaded(inputs), head(inputs))
    assert loaded.threshold == 0.7
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_head_runs_where_the_vla_does_and_takes_proprioception_from_anywhere(head, tmp_path):
    there = torch.device("meta")  # like a GPU, it takes no tensor of the CPU into a sum
    loaded = load_head(tmp_path, HASH, 6, 3, there)
    tokens, mask = torch.zeros(5, 4, 6, device=there), torch.ones(5, 4, dtype=torch.bool, device=there)
    probability = loaded.probability(tokens, mask, torch.zeros(5, 3))
    assert (probability.device, probability.shape) == (there, (5,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("b" * 16, 6, 3), f"belongs to VLA {HASH}, this one is {'b' * 16}: train it again"),
        ((HASH, 8, 3), "embeddings of width 6 and 3 proprioception values, the VLA gives 8 and 3"),
        ((HASH, 6, 4), "the VLA gives 6 and 4"),
    ],
)
def test_a_head_of_another_vla_is_refused(head, tmp_path, arguments, message):
    with pytest.raises(HandoffError, match=message):
        load_head(tmp_path, *arguments)


def test_a_missing_head_says_what_to_do(tmp_path):
    with pytest.raises(HandoffError, match=r"no hand-off head: train one with `handoff`.*auto_handoff:=false"):
        load_head(tmp_path, HASH, 6, 3)
    assert not has_head(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: {"format": 1}, "has no 'vla_hash'"),
        (lambda facts: {**facts, "format": 2}, "format 2"),
        (lambda facts: {**facts, "threshold": 1.5}, "threshold 1.5"),
        (lambda facts: {**facts, "threshold": "high"}, "not a hand-off head of this version"),
        (lambda facts: {**facts, "head": {"embed_dim": 6}}, "missing key"),
        (lambda facts: {**facts, "head": {"embed_dim": 6, "state_dim": 3, "hidden": 5}}, "does not fit the shape"),
    ],
)
def test_facts_that_were_changed_are_errors(head, tmp_path, change, message):
    path = tmp_path / FACTS_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(HandoffError, match=message):
        load_head(tmp_path, HASH, 6, 3)


def test_a_torn_tensor_file_and_weights_that_are_not_finite_are_errors(head, tmp_path):
    path = tmp_path / TENSORS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(HandoffError, match="torn"):
        load_head(tmp_path, HASH, 6, 3)
    path.write_bytes(whole)
    tensors = load_file(path)
    tensors["layers.0.weight"][0, 0] = float("nan")
    save_file(tensors, path)
    facts = json.loads((tmp_path / FACTS_FILE).read_text())
    facts["file_sha256"] = sha256_hex(path.read_bytes())
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(HandoffError, match=r"layers\.0\.weight"):
        load_head(tmp_path, HASH, 6, 3)


def test_adapting_again_takes_the_head_away(head, tmp_path, vla, rl_token):
    save_checkpoint(tmp_path, vla, rl_token, LAYOUT, {}, {})
    assert not has_head(tmp_path)
    assert not (tmp_path / TENSORS_FILE).exists()


# -- figures by hand: observations every 2 control steps, the head is asked every 4


def made_up(handoff_steps, last_step):
    """Episodes of `last_step` control steps; their inputs do not matter."""
    steps = torch.arange(0, last_step + 1, 2)
    count = len(handoff_steps)
    return Handoffs(
        inputs=torch.zeros(count * len(steps), 1),
        step=steps.repeat(count),
        episode=torch.repeat_interleave(torch.arange(count), len(steps)),
        handoff_step=torch.tensor(handoff_steps),
        files=tuple(f"{i}.mcap" for i in range(count)),
    )


DATA = made_up([4, 6, 8], 12)
# Control steps:            0    2    4    6    8    10   12
PROBABILITY = torch.tensor(
    [
        *(0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9),  # asked at 0, 4, 8, 12: calls at 4, its hand-off is at 4
        *(0.9, 0.2, 0.2, 0.9, 0.9, 0.9, 0.9),  # calls at 0, 6 early; two in a row only at 12, 6 late
        *(0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9),  # calls at 12, 4 late
    ]
)


def errors(**changes):
    values = {"execute_steps": 4, "outputs": 1, "window_steps": 10, **changes}
    return call_errors(DATA, PROBABILITY, (0, 1, 2), 0.5, **values).tolist()


def test_call_errors_by_hand():
    assert errors() == [0, -6, 4]
    assert errors(outputs=2) == [4, 6, pytest.approx(np.nan, nan_ok=True)]
    assert errors(window_steps=4) == [0, -6, pytest.approx(np.nan, nan_ok=True)]
    assert errors(execute_steps=6) == [2, -6, 4]


def test_the_report_by_hand():
    split = Split(train=(), validation=(), test=(0, 1, 2))
    config = HandoffConfig(window_steps=4, premature_steps=5)
    made = report(DATA, PROBABILITY, split, 0.5, config, execute_steps=4, outputs=1)
    # Until 4 steps after the hand-off: episode 0 has 2 negative and 2 positive ones, 1 has 3 and 2, 2 has 4 and 2.
    assert made["tested_observations"] == {"base": 9, "critical": 6}
    assert made["precision"] == pytest.approx(5 / 7)
    assert made["recall"] == pytest.approx(5 / 6)
    assert made["timing_error"]["steps"] == [0, -6, None]
    assert made["timing_error"]["mean_absolute"] == 3.0
    assert made["timing_error"]["quantiles"]["50"] == -3.0
    assert (made["premature_share"], made["missing_share"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    json.dumps(made, allow_nan=False)


def test_the_threshold_with_the_best_f1_and_of_equals_the_middle():
    data = made_up([4], 8)  # two observations before the hand-off, three after
    # Every threshold above 0.3 and up to 0.6 is perfect; half-way in the logit is 0.445.
    clear = torch.tensor([0.1, 0.3, 0.6, 0.8, 0.9])
    assert choose_threshold(data, clear, (0,), 10) == pytest.approx(0.445, abs=0.03)
    # Above 0.5 and up to 0.7: 2 right of 2 called, F1 0.8. Up to 0.4: 3 right of 4, F1 0.857, so it is 0.2 to 0.4.
    unclear = torch.tensor([0.2, 0.5, 0.4, 0.7, 0.8])
    assert 0.2 < choose_threshold(data, unclear, (0,), 10) <= 0.4


def test_a_report_without_any_call_has_no_precision_and_no_timing():
    made = report(DATA, torch.zeros(21), Split((), (), (0, 1, 2)), 0.5, HandoffConfig(), execute_steps=4, outputs=1)
    assert (made["precision"], made["recall"], made["missing_share"]) == (None, 0.0, 1.0)
    assert made["timing_error"]["mean_absolute"] is None
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize("count", [3, 4, 20, 101])
def test_every_episode_is_in_exactly_one_part(count):
    split = split_episodes(count, HandoffConfig(), seed=5)
    assert sorted((*split.train, *split.validation, *split.test)) == list(range(count))
    assert min(map(len, (split.train, split.validation, split.test))) >= 1
    assert split == split_episodes(count, HandoffConfig(), seed=5)


def test_two_episodes_are_too_few():
    with pytest.raises(ParameterError, match="2 episodes with an operator's hand-off: at least 3"):
        split_episodes(2, HandoffConfig(), seed=0)


# -- the command, on a random VLA


@pytest.fixture
def run(tmp_path, vla, rl_token):
    """A run directory with a random VLA and no episodes yet."""
    save_checkpoint(tmp_path / "run" / "vla", vla, rl_token, LAYOUT, {}, {})
    (tmp_path / "run" / "episodes").mkdir()
    return tmp_path / "run"


def train(cell, run, *options):
    arguments = ("--robot", cell.robot_path, "--task", cell.task_path, "--run", run, "--steps", "200", *options)
    handoff_command.main([str(a) for a in arguments])
    return read_facts(run / "vla")["report"]


def record(run, write_episode, count, **options):
    for seed in range(1, count + 1):
        path = run / "episodes" / f"{seed:06d}.mcap"
        write_episode(path, seed, steps=60, handoff_step=16 + 2 * (seed % 5), targets=False, **options)


def test_hand_offs_that_can_be_seen_are_learned_and_the_command_repeats_itself(cell, run, write_episode, capsys):
    record(run, write_episode, 20, visible=True, purpose="train")
    figures = train(cell, run, "--window-steps", "30")
    assert figures["episodes"] == {"train": 14, "validation": 3, "test": 3}
    assert (figures["precision"], figures["recall"]) == (1.0, 1.0)
    # Asked every 10 steps, at 20 for hand-offs at 16 to 20 and at 30 for those at 22 and 24.
    assert all(0 <= error <= 8 for error in figures["timing_error"]["steps"])
    assert (figures["premature_share"], figures["missing_share"]) == (0.0, 0.0)
    assert "precision 1.000, recall 1.000" in capsys.readouterr().out
    first = (run / "vla" / TENSORS_FILE).read_bytes()
    train(cell, run, "--window-steps", "30")
    assert (run / "vla" / TENSORS_FILE).read_bytes() == first
    model = load_checkpoint(run / "vla")
    spec = model.backend.spec
    assert load_head(run / "vla", model.hash, spec.embed_dim, spec.state_dim).config.hidden == 64


def test_hand_offs_that_cannot_be_seen_are_not_learned(cell, run, write_episode):
    record(run, write_episode, 12, visible=False, purpose="train")
    figures = train(cell, run, "--window-steps", "30")
    assert figures["precision"] is None or figures["precision"] < 0.9


def test_observations_are_encoded_as_many_at_a_time_as_in_the_graph(cell, run, write_episode, monkeypatch):
    sizes, encode = [], BuiltinBackend.encode
    monkeypatch.setattr(
        BuiltinBackend, "encode", lambda s, batch: (sizes.append(len(batch.state)), encode(s, batch))[1]
    )
    record(run, write_episode, 3, purpose="train")
    train(cell, run)
    assert max(sizes) == EncodingConfig().group_size == 16, "a policy server is sized for these"


def test_only_training_and_collected_episodes_with_a_hand_off_are_read(cell, run, write_episode):
    folder = run / "episodes"
    for seed, options in enumerate(
        (
            {"purpose": "train"},
            {"purpose": "collect"},
            {"purpose": "evaluate"},
            {"purpose": "deploy"},
            {"purpose": "train", "label": "discard"},
            {"purpose": "train", "handoff_step": 0},
            {"purpose": "train", "handoff_step": 99},
            {"purpose": "train", "repositioning": range(2, 5)},
        ),
        start=1,
    ):
        write_episode(folder / f"{seed:06d}.mcap", seed, **options)
    data = load_handoffs(folder, load_checkpoint(run / "vla"), cell.robot.period_s, 8, 6, 16)
    assert data.files == ("000001.mcap", "000002.mcap", "000008.mcap")
    assert data.handoff_step.tolist() == [4, 4, 4]
    assert data.step[data.episode == 2].tolist() == [0, 6, 8, 10, 12, 18], "not those of repositioning"
    assert data.step[data.episode == 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 18]
    assert data.after[data.episode == 1].tolist() == [-4, -2, 0, 2, 4, 6, 8, 14]


def test_a_run_without_hand_offs_and_a_torn_episode_are_named(cell, run, write_episode):
    with pytest.raises(SystemExit, match="none of its 0 episodes is a training episode with an operator's hand-off"):
        train(cell, run)
    record(run, write_episode, 2, purpose="train")
    with pytest.raises(SystemExit, match="2 episodes with an operator's hand-off: at least 3"):
        train(cell, run)
    path = run / "episodes" / "000002.mcap"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"000002\.mcap"):
        load_handoffs(run / "episodes", load_checkpoint(run / "vla"), 0.02, 8, 6, 16)
    assert not has_head(run / "vla")


def test_a_parameter_in_the_task_file_counts_and_an_unknown_one_is_refused(cell, run):
    text = cell.task_path.read_text()
    cell.task_path.write_text(text + "nodes: {handoff: {stepz: 3}}\n")
    with pytest.raises(SystemExit, match=r"nodes: handoff: unknown key 'stepz'"):
        train(cell, run)
    with pytest.raises(ParameterError, match="must be even"):
        HandoffConfig(batch=7)
