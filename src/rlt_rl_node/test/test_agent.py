"""The agent against Eq. 3 to 5: targets worked out by hand, which gradients flow where, and that it really improves."""

from __future__ import annotations

import pytest
import torch
from rl_episodes import task_shape

from rlt_common.parameters import ParameterError
from rlt_rl_node.agent import Agent, AgentConfig, Batch
from rlt_rl_node.networks import Actor, Critics, Layout

QUIET = {"target_noise": 0.0, "reference_dropout": 0.0}


def agent(**config: object) -> Agent:
    settings = AgentConfig(**{"hidden": (8,), **QUIET, **config})
    limit = torch.full((2,), 3.0)
    return Agent(task_shape().layout(settings), settings, limit, torch.Generator().manual_seed(0))


def batch(count: int = 4, seed: int = 1, **changes: object) -> Batch:
    g = torch.Generator().manual_seed(seed)
    values = {
        "x": torch.randn(count, 5, generator=g),
        "action": torch.randn(count, 8, generator=g),
        "reference": torch.randn(count, 8, generator=g),
        "valid": torch.ones(count, 8),
        "rewards": torch.zeros(count),
        "bootstrap": torch.full((count,), 0.9),
        "next_x": torch.randn(count, 5, generator=g),
        "next_reference": torch.randn(count, 8, generator=g),
    }
    return Batch(**{**values, **changes})


def constant_critics(critics: Critics, values: list[float]) -> None:
    """Make critic i answer values[i] whatever it is asked."""
    with torch.no_grad():
        critics.weights[-1].zero_()
        critics.biases[-1].copy_(torch.tensor(values)[:, None, None])


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def changed(before: list[torch.Tensor], module: torch.nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_target_is_return_plus_discounted_minimum_of_the_two_targets():
    subject = agent()
    constant_critics(subject.target_critics, [0.8, 0.5])
    constant_critics(subject.critics, [0.3, 0.1])
    data = batch(2, rewards=torch.tensor([0.0, 0.81]), bootstrap=torch.tensor([0.9**4, 0.0]))
    metrics = subject.update_critic(data, subject.standardise(data.x))
    targets = [0.9**4 * 0.5, 0.81]
    expected = sum((q - y) ** 2 for q in (0.3, 0.1) for y in targets) / 2
    assert metrics["q_mean"].item() == pytest.approx(sum(targets) / 2)
    assert metrics["critic_loss"].item() == pytest.approx(expected)


@pytest.mark.parametrize(("clamp", "expected"), [(True, 1.0), (False, 1.7)])
def test_bootstrapped_values_are_clamped_to_the_possible_return(clamp, expected):
    subject = agent(clamp_targets=clamp)
    constant_critics(subject.target_critics, [1.7, 2.5])
    data = batch(2, bootstrap=torch.ones(2))
    assert subject.update_critic(data, data.x)["q_mean"].item() == pytest.approx(expected)


def test_the_target_action_is_the_actors_own_at_the_next_state_clipped_to_the_robot():
    subject = agent()
    with torch.no_grad():
        subject.actor.layers[-1].bias.fill_(50.0)
    seen = []
    subject.target_critics.register_forward_pre_hook(lambda _, args: seen.append(args))
    data = batch()
    subject.update_critic(data, data.x)
    x, action = seen[0]
    torch.testing.assert_close(x, data.next_x)
    torch.testing.assert_close(action, torch.full_like(action, 3.0))


def test_dropout_zeroes_the_actors_training_input_and_nothing_else():
    subject = agent(reference_dropout=1.0)
    seen = []
    subject.actor.register_forward_pre_hook(lambda _, args: seen.append(args[1].clone()))
    data = batch()
    subject.update_critic(data, data.x)
    metrics = subject.update_actor(data, data.x, bc_only=True)
    target_input, training_input = seen
    torch.testing.assert_close(target_input, data.next_reference)
    assert not training_input.any()
    # The loss still measures the distance to the reference that the actor could not see.
    with torch.no_grad():
        fresh = agent(reference_dropout=1.0)
        mean = fresh.actor(data.x, torch.zeros_like(data.reference))
    assert metrics["actor_loss"].item() == pytest.approx((mean - data.reference).square().sum(1).mean().item())


def test_dropout_drops_about_its_share_of_samples_whole():
    subject = agent(reference_dropout=0.5)
    seen = []
    subject.actor.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    data = batch(4000)
    subject.update_actor(data, data.x, bc_only=True)
    kept = (seen[0] != 0).all(1)
    dropped = (seen[0] == 0).all(1)
    assert (kept | dropped).all()
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_actors_loss_is_minus_q_plus_beta_times_the_summed_squared_distance():
    subject = agent(beta=0.25)
    constant_critics(subject.critics, [0.7, 0.4])
    data = batch()
    with torch.no_grad():
        mean = subject.actor(data.x, data.reference)
    expected = -0.4 + 0.25 * (mean - data.reference).square().sum(1).mean()
    assert subject.update_actor(data, data.x, bc_only=False)["actor_loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        ({"actor_objective": "min"}, 0.2),
        ({"actor_objective": "first"}, 0.8),
        ({"actor_objective": "bound", "actor_bound": 0.0}, 0.5),
        ({"actor_objective": "bound", "actor_bound": 0.5}, 0.35),
    ],
)
def test_the_objective_chooses_the_q_to_climb(objective, value):
    subject = agent(beta=0.0, **objective)
    constant_critics(subject.critics, [0.8, 0.2])
    data = batch()
    assert subject.update_actor(data, data.x, False)["actor_loss"].item() == pytest.approx(-value)


@pytest.mark.parametrize("objective", [{"actor_objective": "min"}, {"actor_objective": "bound", "actor_bound": 1.5}])
def test_the_objective_s_derivative_is_autograd_s(objective):
    subject = agent(critics=5, **objective)
    q = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = q.amin(0) if objective["actor_objective"] == "min" else q.mean(0) - 1.5 * q.std(0, correction=0)
    expected.sum().backward()
    value, derivative = subject._climb(q.detach())
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(derivative, q.grad)


def test_the_bound_of_critics_that_agree_is_their_mean():
    subject = agent(critics=3, actor_objective="bound")
    value, derivative = subject._climb(torch.full((3, 4), 0.4))
    torch.testing.assert_close(value, torch.full((4,), 0.4))
    torch.testing.assert_close(derivative, torch.full((3, 4), 1.0 / 3.0))


def test_two_critic_updates_per_actor_update():
    subject = agent()
    actor_changed = []
    for i in range(6):
        before = weights(subject.actor)
        subject.update(batch(seed=i))
        actor_changed.append(changed(before, subject.actor))
    assert actor_changed == [False, True] * 3
    assert subject.updates == 6


def test_each_loss_moves_only_its_own_network():
    subject = agent()
    data = batch()
    actor, critics, targets = weights(subject.actor), weights(subject.critics), weights(subject.target_critics)
    subject.update_actor(data, data.x, bc_only=False)
    assert changed(actor, subject.actor)
    assert not changed(critics, subject.critics)
    actor = weights(subject.actor)
    subject.update_critic(data, data.x)
    assert not changed(actor, subject.actor)
    assert changed(critics, subject.critics)
    assert changed(targets, subject.target_critics)


def test_target_networks_follow_by_tau():
    subject = agent(tau=0.25)
    old = weights(subject.target_critics)
    data = batch()
    subject.update_critic(data, data.x)
    for before, online, target in zip(
        old, subject.critics.parameters(), subject.target_critics.parameters(), strict=True
    ):
        torch.testing.assert_close(target, before + 0.25 * (online.detach() - before))


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_the_averaged_actor_weighs_new_ones_more_and_never_less_than_its_rate(rate):
    subject = agent(average_rate=rate, updates_per_actor_update=1)
    expected = None
    for i, share in enumerate([1.0, 10 / 11, 10 / 12, 10 / 13, 10 / 14]):
        subject.update(batch(seed=i))
        weight = max(share, rate)
        newest = subject.actor.flat.clone()
        expected = newest if expected is None else (1 - weight) * expected + weight * newest
        torch.testing.assert_close(subject.average.flat, expected)


def test_an_average_at_rate_1_is_the_actor():
    subject = agent(average_rate=1.0)
    for i in range(6):
        subject.update(batch(seed=i))
    assert torch.equal(subject.average.flat, subject.actor.flat)


def test_the_target_actor_follows_only_when_it_is_used():
    for used in (False, True):
        subject = agent(target_actor=used)
        before = weights(subject.target_actor)
        subject.update_actor(batch(), batch().x, bc_only=True)
        assert changed(before, subject.target_actor) == used


def test_the_initial_phase_ignores_q():
    subject, blind = agent(), agent()
    constant_critics(blind.critics, [9.0, 9.0])
    data = batch()
    subject.update_actor(data, data.x, bc_only=True)
    blind.update_actor(data, data.x, bc_only=True)
    for a, b in zip(subject.actor.parameters(), blind.actor.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(("mode", "same"), [("mask", True), ("repeat", False)])
def test_rows_behind_the_valid_length_count_only_when_repeated(mode, same):
    valid = torch.ones(4, 8)
    valid[:, 4:] = 0
    losses = []
    for filler in (0.0, 5.0):
        data = batch(valid=valid)
        data.action[:, 4:] = filler
        losses.append(agent(partial_chunks=mode).update_critic(data, data.x)["critic_loss"].item())
    assert (losses[0] == losses[1]) == same


def test_masked_rows_have_no_say_in_the_distance():
    valid = torch.ones(4, 8)
    valid[:, 4:] = 0
    subject = agent(use_reference=False)
    data = batch(valid=valid)
    with torch.no_grad():
        mean = subject.actor(data.x, data.reference)
    expected = (mean - data.reference)[:, :4].square().sum(1).mean().item()
    assert subject.update_actor(data, data.x, bc_only=True)["actor_loss"].item() == pytest.approx(expected)


def test_without_pass_through_the_actor_does_not_see_the_reference():
    subject = agent(use_reference=False)
    x = torch.randn(3, 5)
    torch.testing.assert_close(subject.actor(x, torch.zeros(3, 8)), subject.actor(x, torch.ones(3, 8)))


def test_first_actions_are_small_and_depend_on_the_seed_alone():
    first, again = agent(hidden=(64, 64)), agent(hidden=(64, 64))
    data = batch(64)
    action = first.actor(data.x, data.reference)
    assert action.abs().max() < 0.3
    torch.testing.assert_close(action, again.actor(data.x, data.reference), rtol=0, atol=0)


def test_batched_critics_equal_separate_networks():
    layout = Layout(token_dim=3, state_dim=2, action_dim=2, chunk_length=4, hidden=(16, 16, 16))
    critics = Critics(layout, 3, layer_norm=True, generator=torch.Generator().manual_seed(0))
    x, action = torch.randn(5, 5), torch.randn(5, 8)
    together = critics(x, action)
    for i in range(3):
        value = torch.cat([x, action], 1)
        for k, (w, b) in enumerate(zip(critics.weights, critics.biases, strict=True)):
            value = value @ w[i] + b[i]
            if k < 3:
                value = torch.relu(torch.nn.functional.layer_norm(value, (16,)))
        torch.testing.assert_close(together[i], value[:, 0], rtol=1e-5, atol=1e-6)


def test_standardised_states_are_clamped():
    subject = agent()
    subject.standardise.fit(torch.randn(100, 5) * torch.tensor([1.0, 10.0, 0.1, 1.0, 0.0]))
    assert subject.standardise(torch.full((1, 5), 1e6)).max() == 5.0
    assert torch.isfinite(subject.standardise.std).all()
    assert (subject.standardise.std > 0).all()


@pytest.mark.parametrize(
    "bad", [{"gamma": 1.5}, {"batch_size": 0}, {"actor_objective": "max"}, {"tau": float("nan")}, {"critics": 0}]
)
def test_a_value_out_of_range_is_refused(bad):
    with pytest.raises(ParameterError):
        AgentConfig(**bad)


def test_hidden_needs_a_width():
    with pytest.raises(ParameterError, match="hidden"):
        AgentConfig(hidden=())


def toy_batch(count: int, generator: torch.Generator) -> Batch:
    """One chunk decides: it succeeds when its mean comes near a goal that x tells and the reference misses by 1."""
    x = torch.randn(count, 5, generator=generator)
    goal = x[:, :1].clamp(-1, 1)
    reference = (goal - 1.0).expand(-1, 8)
    noise = 0.6 * torch.randn(count, 1, generator=generator) + 0.2 * torch.randn(count, 8, generator=generator)
    action = reference + 0.5 + noise
    success = ((action.mean(1) - goal[:, 0]).abs() < 0.4).float()
    done = torch.zeros(count)
    return Batch(x, action, reference, torch.ones(count, 8), success, done, x, reference)


def toy_success(actor: Actor, generator: torch.Generator) -> float:
    data = toy_batch(1000, generator)
    goal = data.x[:, 0].clamp(-1, 1)
    with torch.no_grad():
        return ((actor(data.x, data.reference).mean(1) - goal).abs() < 0.4).float().mean().item()


def test_the_agent_improves_on_a_reference_that_always_fails():
    subject = agent(hidden=(64, 64), reference_dropout=0.5, actor_lr=1e-3, critic_lr=1e-3, beta=0.01)
    generator = torch.Generator().manual_seed(7)
    for _ in range(300):
        subject.update(toy_batch(128, generator), bc_only=True)
    imitation = toy_success(subject.actor, generator)
    for _ in range(900):
        subject.update(toy_batch(128, generator))
    assert imitation < 0.1
    assert toy_success(subject.actor, generator) > 0.8


def test_a_large_beta_keeps_the_actor_at_the_reference():
    subject = agent(hidden=(64, 64), actor_lr=1e-3, critic_lr=1e-3, beta=10.0)
    generator = torch.Generator().manual_seed(7)
    for _ in range(600):
        subject.update(toy_batch(128, generator))
    assert toy_success(subject.actor, generator) < 0.1


def test_beta_falls_geometrically_and_then_stays():
    subject = agent(beta=0.01, beta_start=1.0, beta_updates=10)
    seen = []
    for _ in range(13):
        seen.append(subject.beta)
        subject.update(batch())
    assert seen[0] == pytest.approx(1.0)
    assert seen[5] == pytest.approx(0.1)
    assert seen[10:] == [0.01] * 3


def test_beta_cannot_fall_to_nothing():
    with pytest.raises(ParameterError, match="beta must be above 0"):
        AgentConfig(beta=0.0, beta_start=0.1)


def test_products_follow_the_processor_only_when_asked(monkeypatch):
    for has in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        found = {products: agent(products=products).critics.bfloat16 for products in ("float32", "bfloat16", "auto")}
        assert found == {"float32": False, "bfloat16": True, "auto": has}
