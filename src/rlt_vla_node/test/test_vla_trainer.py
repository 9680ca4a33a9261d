"""Training a VLA and its RL token: what is trained, that it resumes to the bit, on one process and on two."""

import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import tiny_lerobot
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_policy import CAMERAS, HORIZON, JOINTS, TinyNetwork, TinyPolicy, open_tiny, tiny_policy
from torch.utils.checkpoint import checkpoint

from rlt_vla_node.backends import open_backend
from rlt_vla_node.checkpoint_files import CheckpointError
from rlt_vla_node.lerobot_packages import extra_module
from rlt_vla_node.resume import ResumeError
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token
from rlt_vla_node.step_sampler import StepSampler
from rlt_vla_node.vla_adapt_config import VlaAdaptConfig

training = pytest.importorskip("rlt_vla_node.vla_trainer", reason="accelerate is not installed: make extras")
TrainingError, VlaTrainer = training.TrainingError, training.VlaTrainer
VlaAdaptation = pytest.importorskip("rlt_vla_node.vla_adaptation").VlaAdaptation

SMALL = {"steps": 6, "batch": 4, "warmup_steps": 2, "heads": 2, "workers": 0, "learning_rate": 1e-3}


class Samples(torch.utils.data.Dataset):
    """Made-up samples in LeRobot's names: the action follows from colour and state."""

    def __init__(self, count: int = 40, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.colour = torch.rand(count, len(CAMERAS), 3, 1, 1, generator=generator)
        self.state = 0.3 * torch.randn(count, JOINTS, generator=generator)

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, index: int) -> dict:
        seen = {f"observation.images.{n}": self.colour[index, i].expand(3, 6, 6) for i, n in enumerate(CAMERAS)}
        action = (self.state[index] + self.colour[index].mean()).expand(HORIZON, JOINTS)
        padded = torch.arange(HORIZON) >= HORIZON - index % 3
        return {**seen, "observation.state": self.state[index], "action": action, "action_is_pad": padded, "task": "go"}


def trainer(policy=None, **values):
    policy = tiny_policy() if policy is None else policy
    config = VlaAdaptConfig(**{**SMALL, **values})
    spec = policy.spec
    shape = RlTokenConfig(spec.embed_dim, spec.max_tokens, token_dim=4, encoder_blocks=1, decoder_blocks=1, heads=2)
    return VlaTrainer(config, policy, build_rl_token(shape, 1), Samples(), seed=3)


def weights(made):
    return {**made.token.state_dict(), **{f"vla.{k}": v.clone() for k, v in made.backend.module.state_dict().items()}}


def changed(before, after):
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def run(made):
    for _ in made.run():
        pass
    return made


def test_full_training_lowers_both_losses():
    made = trainer(steps=300, learning_rate=3e-3, token_learning_rate=3e-3)
    first = None
    for step in made.run():
        if step == 20:
            first = dict(made.losses)
    assert made.losses["flow"] < 0.8 * first["flow"]
    assert made.losses["reconstruction"] < 0.8 * first["reconstruction"]


def test_a_frozen_vla_keeps_every_bit_and_has_no_flow_loss():
    made = trainer(train="frozen")
    before = {k: v.clone() for k, v in weights(made).items()}
    run(made)
    assert "flow" not in made.losses
    assert "vla" not in changed(before, weights(made))
    assert changed(before, weights(made))


def test_adapters_train_and_are_merged_into_the_policy_in_the_end(tmp_path):
    try:
        extra_module("peft")
    except ImportError as error:
        pytest.skip(f"peft is an extra: `make extras` installs it ({error})")
    made = trainer(train="lora", lora_rank=2, learning_rate=1e-2)
    base = {k: v.clone() for k, v in made.backend.module.state_dict().items() if "lora" not in k}
    run(made).finish()
    names = set(tiny_policy().module.state_dict())
    assert set(made.backend.module.state_dict()) == names, "nothing of the adapters is left beside the weights"
    merged = made.backend.module.state_dict()
    assert any(
        not torch.equal(merged[n], base[n.replace(".weight", ".base_layer.weight")]) for n in names if "weight" in n
    )
    made.backend.save_policy(tmp_path)
    assert open_tiny(tmp_path).spec.fingerprint == made.backend.spec.fingerprint


@pytest.mark.parametrize("values", [{}, {"train": "frozen"}, {"ema": 0.9}, {"accumulate": 2}, {"context_dropout": 0.3}])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(tmp_path, values):
    whole = run(trainer(**values))
    stopped = trainer(**values)
    for step in stopped.run():
        if step == 2:
            break
    stopped.save(tmp_path / "state.safetensors", "this")
    resumed = trainer(tiny_policy(seed=9), **values) if values.get("train") != "frozen" else trainer(**values)
    resumed.restore(tmp_path / "state.safetensors", "this")
    assert resumed.step == 2
    run(resumed)
    for made in (whole, resumed):
        made.finish()
    assert not changed(weights(whole), weights(resumed))
    assert whole.losses == resumed.losses


def unreached(seed=0):
    """A tiny policy with a layer that its loss does not use."""
    policy = tiny_policy(seed)
    torch.manual_seed(seed)
    policy.module.idle = torch.nn.Linear(2, 2)
    return policy


def test_what_no_gradient_reaches_has_no_moments_and_all_others_must_have_them(tmp_path):
    path = tmp_path / "state.safetensors"
    whole, stopped = run(trainer(unreached())), trainer(unreached())
    next(stopped.run())
    stopped.save(path, "this")
    resumed = trainer(unreached(seed=9))
    resumed.restore(path, "this")
    run(resumed)
    assert not changed(weights(whole), weights(resumed))
    with safe_open(path, "pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert "optimiser.exp_avg.vla.idle.weight" not in tensors
    del tensors["optimiser.exp_avg.vla.mix.weight"]
    save_file(tensors, path, facts)
    with pytest.raises(ResumeError, match="torn"):
        trainer(unreached()).restore(path, "this")


def test_adapters_of_a_real_policy_resume_to_the_bit(tmp_path):
    pytest.importorskip("lerobot", reason="LeRobot is an extra: `make extras` installs requirements-lerobot.txt")
    tiny_lerobot.write_smolvla(tmp_path / "policy")
    values = {"train": "lora", "lora_rank": 2, "steps": 2, "batch": 2, "learning_rate": 1e-2}

    def made():
        return trainer(open_backend(tiny_lerobot.vla_file(tmp_path, "policy")), **values)

    whole, stopped, resumed = made(), made(), made()
    next(stopped.run())
    stopped.save(tmp_path / "state.safetensors", "this")
    resumed.restore(tmp_path / "state.safetensors", "this")
    before = {name: tensor.clone() for name, tensor in weights(whole).items()}
    for one in (whole, resumed):
        run(one)
    assert changed(before, weights(whole)) > {"vla"}
    assert not changed(weights(whole), weights(resumed))


def test_adapters_go_where_gradients_arrive():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(4, 2)
            self.out_proj, self.lm_head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 9)

    assert training.adapted_layers(Network()) == ["out_proj"]


def test_another_training_or_a_torn_state_is_refused(tmp_path):
    made, path = trainer(), tmp_path / "state.safetensors"
    next(made.run())
    made.save(path, "this")
    with pytest.raises(ResumeError, match="another configuration"):
        trainer().restore(path, "that")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ResumeError, match="torn"):
        trainer().restore(path, "this")


def test_averaged_weights_are_the_final_ones():
    plain, averaged = trainer(), trainer(ema=0.9)
    for made in (plain, averaged):
        run(made)
    assert not changed(weights(plain), weights(averaged))
    averaged.finish()
    assert changed(weights(plain), weights(averaged))


def test_what_only_training_needs_is_let_go_of_in_the_end():
    """A second policy is opened then, to see that what was written opens: on a GPU there has to be room for it."""
    made = run(trainer(half_policy(), ema=0.9))
    moments = [value for state in made._optimiser.state.values() for value in state.values()]
    own = {id(p) for p in (*made.token.parameters(), *made.backend.module.parameters())}
    masters = [p for p in made._masters.values() if id(p) not in own]
    held = [weakref.ref(tensor) for tensor in (*moments, *masters, *made._average.values())]
    assert masters
    del moments, masters
    made.finish()
    assert not [ref for ref in held if ref() is not None]
    assert not [p for p in (*made.token.parameters(), *made.backend.module.parameters()) if p.grad is not None]


def test_gradient_checkpointing_is_found_in_the_model_within_a_policy_and_changes_no_bit():
    class Model(torch.nn.Module):
        """As LeRobot's PI05Pytorch: it computes, and computes again in the backward pass where that is enabled."""

        def __init__(self, mix):
            super().__init__()
            self.mix, self.enabled, self.passes = mix, False, 0

        def gradient_checkpointing_enable(self):
            self.enabled = True

        def forward(self, x):
            return checkpoint(self.once, x, use_reentrant=False) if self.enabled and self.training else self.once(x)

        def once(self, x):
            self.passes += 1
            return self.mix(x)

    def made(**values):
        policy = tiny_policy()
        policy.module.model = Model(policy.module.mix)
        policy.module.mix = policy.module.model
        return run(trainer(policy, **values))

    plain, spared = made(), made(gradient_checkpointing=True)
    assert not changed(weights(plain), weights(spared))
    assert spared.backend.module.model.passes == 2 * plain.backend.module.model.passes


class HalfNetwork(TinyNetwork):
    """The tiny network in bfloat16, with float32 outside as LeRobot's policies have it."""

    def tokens(self, colours, state):
        return super().tokens(colours.bfloat16(), state.bfloat16()).float()

    def velocity(self, tokens, x, time):
        return super().velocity(tokens.bfloat16(), x.bfloat16(), time.bfloat16()).float()


def half_policy():
    network = HalfNetwork()
    network.load_state_dict(tiny_policy().module.state_dict())
    return TinyPolicy(network.bfloat16())


STEADY = {"learning_rate": 2e-5, "steps": 60, "warmup_steps": 0, "weight_decay": 0.0}
"""No step moves a weight of size 0.1 by as much as bfloat16 can tell; sixty do."""


def moved(begun, made):
    """Share of the larger weights of the policy that are not what they were."""
    large = {n: t.abs() > 0.03 for n, t in begun.items() if n.startswith("vla.") and n.endswith("weight")}
    now = weights(made)
    return float(torch.cat([(now[n] != begun[n])[large[n]] for n in large]).float().mean())


def test_steps_too_small_for_bfloat16_add_up_in_its_float32_masters():
    made = trainer(half_policy(), **STEADY)
    begun = weights(made)
    run(made)
    assert {p.dtype for p in made.backend.module.parameters()} == {torch.bfloat16}, "it computes as on the robot"
    assert moved(begun, made) > 0.5


def test_averages_of_bfloat16_weights_follow_them_and_resume_to_the_bit(tmp_path):
    values = {**STEADY, "ema": 0.99}
    whole, stopped, resumed = (trainer(half_policy(), **values) for _ in range(3))
    begun = weights(whole)
    for step in stopped.run():
        if step == 20:
            break
    stopped.save(tmp_path / "state.safetensors", "this")
    resumed.restore(tmp_path / "state.safetensors", "this")
    assert not changed(weights(stopped), weights(resumed))
    for made in (whole, resumed):
        run(made)
        made.finish()
    assert not changed(weights(whole), weights(resumed))
    assert moved(begun, whole) > 0.5


def test_what_cannot_be_trained_says_so():
    class Served:
        """A policy elsewhere: it is encoded with, not trained."""

        def __init__(self, policy):
            self.spec, self.device, self.encode = policy.spec, policy.device, policy.encode

    run(trainer(Served(tiny_policy()), train="frozen"))
    with pytest.raises(TrainingError, match="train: frozen"):
        trainer(Served(tiny_policy()))
    with pytest.raises(TrainingError, match="no gradient checkpointing"):
        trainer(gradient_checkpointing=True)


def test_every_sample_comes_once_an_epoch_over_all_processes():
    taken = [
        [row for batch in StepSampler(12, 2, 1, 2, rank, seed=1, first=0, last=6) for row in batch] for rank in (0, 1)
    ]
    first = [row for a, b in zip(taken[0][:6], taken[1][:6], strict=True) for row in (a, b)]
    assert sorted(first) == list(range(12))
    assert sorted(taken[0][6:] + taken[1][6:]) == list(range(12))
    assert taken[0][:6] != taken[0][6:]


def test_a_resumed_sampler_goes_on_where_it_was():
    whole = list(StepSampler(10, 3, 2, 2, 1, seed=5, first=0, last=8))
    assert list(StepSampler(10, 3, 2, 2, 1, seed=5, first=5, last=8)) == whole[10:]


def one_resumes_with_the_other(made, folder):
    """In each of two processes: they go on from one state, or neither does."""
    assert made.main_says(made.main), "what the other thinks does not count"
    assert not made.resume(folder / "nothing", "this")
    own, shared = folder / f"state of {made.main}", folder / "state"
    other = trainer(train="frozen")
    next(other.run())
    other.save(shared, "this")
    other.accelerator.wait_for_everyone()
    if made.main:
        own.hardlink_to(shared)
    with pytest.raises(ResumeError, match="not all processes found it"):
        trainer(train="frozen").resume(own, "this")
    with pytest.raises(ResumeError, match="another configuration" if made.main else "not all processes found it"):
        trainer(train="frozen").resume(shared, "that" if made.main else "this")
    (folder / "folder").mkdir(exist_ok=True)
    with pytest.raises(ResumeError, match="cannot be read" if made.main else "not all processes found it"):
        trainer(train="frozen").resume(folder / "folder" if made.main else folder / "nothing", "this")
    assert other.resume(shared, "this")
    assert other.step == 1
    one_of_the_two_cannot_tell_whether_it_is_finished(made, folder)


def one_of_the_two_cannot_tell_whether_it_is_finished(made, folder):
    """The main process finds a damaged checkpoint: both say so, and none waits for the other."""
    adaptation = object.__new__(VlaAdaptation)
    adaptation.trainer, adaptation.identity, adaptation.output = made, "this", folder / "damaged"
    if made.main:
        adaptation.output.mkdir()
        (adaptation.output / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON" if made.main else "the main process"):
        adaptation.finished()


def test_two_processes_end_where_one_with_twice_the_batch_ends(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_vla_trainer import one_resumes_with_the_other, run, trainer, weights\n"
        "from safetensors.torch import save_file\n"
        "torch.set_num_threads(1)\n"
        "made = trainer(train='frozen', batch=int(sys.argv[2]))\n"
        "if made.accelerator.num_processes > 1: one_resumes_with_the_other(made, Path(sys.argv[1]).parent)\n"
        "run(made)\n"
        "made.finish()\n"
        "if made.main: save_file({k: v.contiguous() for k, v in weights(made).items()}, sys.argv[1])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for command, out, batch in (([*two], "two", "4"), ([sys.executable], "one", "8")):
        subprocess.run([*command, str(script), str(tmp_path / out), batch], check=True, env=environment, timeout=240)
    one, both = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    start = weights(trainer(train="frozen"))
    for name, tensor in one.items():
        torch.testing.assert_close(both[name], tensor, atol=5e-5, rtol=1e-3)  # Adam makes much of rounding
    assert any(not torch.allclose(one[n], start[n], atol=5e-4) for n in one), "ten times as far from where it began"
