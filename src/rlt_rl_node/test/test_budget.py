"""The update debt: counted once, capped, gating the actor only until the initial budget is paid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlt_rl_node.budget import INITIAL, ONLINE, WARMUP, BudgetConfig, UpdateBudget


def account(**config: object) -> UpdateBudget:
    values = {
        "warmup_episodes": 2,
        "warmup_steps": 300,
        "min_transitions": 100,
        "initial_updates": 5,
        "updates_per_transition": 0.5,
        "max_updates_per_episode": 40,
        "max_debt": 60,
    }
    return UpdateBudget(BudgetConfig(**{**values, **config}))


def pay_all(budget: UpdateBudget) -> int:
    paid = 0
    while budget.owed:
        budget.pay()
        paid += 1
    return paid


@pytest.mark.parametrize(("steps", "transitions"), [(299, 1000), (1000, 99)])
def test_warm_up_waits_for_episodes_steps_and_transitions(steps, transitions):
    budget = account()
    budget.credit(1000, 1000)
    assert budget.stage == WARMUP
    budget = account()
    budget.credit(0, 0)
    budget.credit(steps, transitions)
    assert budget.stage == WARMUP
    assert budget.owed == 0
    budget.credit(1, 1)
    assert budget.stage == INITIAL


def test_the_initial_budget_comes_first_and_only_once():
    budget = account(warmup_episodes=1)
    budget.credit(500, 250)
    assert budget.owed == 5
    budget.credit(20, 10)  # an episode that ends meanwhile waits its turn and does not hold the actor back
    assert budget.owed == 5
    assert pay_all(budget) == 5 + 5
    assert budget.stage == ONLINE
    budget.credit(20, 10)
    assert pay_all(budget) == 5


def test_no_initial_budget_goes_straight_online():
    budget = account(warmup_episodes=1, initial_updates=0)
    budget.credit(500, 250)
    assert budget.stage == ONLINE
    assert budget.owed == 0


def test_caps_per_episode_and_in_all():
    budget = account(warmup_episodes=1, initial_updates=0)
    budget.credit(500, 250)
    budget.credit(500, 250)
    assert budget.owed == 40
    budget.credit(500, 250)
    assert budget.owed == 60


def test_fractions_are_not_lost():
    budget = account(warmup_episodes=1, initial_updates=0, updates_per_transition=0.25)
    budget.credit(500, 250)
    paid = 0
    for _ in range(8):
        budget.credit(2, 1)
        paid += pay_all(budget)
    assert paid == 2


def test_paying_without_a_debt_is_an_error():
    with pytest.raises(ValueError, match="without a debt"):
        account().pay()


@given(st.lists(st.integers(0, 200), max_size=20))
def test_never_pays_more_than_the_ratio_allows(transitions):
    budget = account(warmup_episodes=0, warmup_steps=0, min_transitions=1, max_debt=10_000)
    credited, paid = 0, 0
    for count in transitions:
        online = budget.stage != WARMUP
        budget.credit(2 * count, count)
        credited += min(40, count * 0.5) if online else 0
        paid += pay_all(budget)
    initial = 5 if budget.stage == ONLINE else 0
    assert paid == initial + int(credited)


def test_state_goes_through_a_checkpoint():
    budget = account(warmup_episodes=1)
    budget.credit(500, 250)
    budget.pay()
    other = account(warmup_episodes=1)
    other.restore(budget.state())
    assert other == budget
