"""What other projects' learners do per update, on the sizes of this project: the other side of `make bench-learner`.

Stable-Baselines3 is itself, its `TD3.train`. CleanRL's TD3 is a script and LeRobot's RLT is in no release yet, so
neither can be imported: `PlainTd3` and `PlainRlt` do the same work in the same manner (a module per network, autograd,
an optimiser over separate parameters, targets moved parameter by parameter in Python; RLT besides clips gradients and
reads its losses as numbers after each update), after
https://github.com/vwxyzjn/cleanrl cleanrl/td3_continuous_action.py and
https://github.com/huggingface/lerobot src/lerobot/rl/algorithms/rlt/rlt_algorithm.py (a9604bf5b1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import gymnasium
import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn
from torch.nn import functional

from harness.timing import STORED

LEARNING_RATE, TAU, GAMMA = 3e-4, 0.005, 0.99


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _move(target: nn.Module, source: nn.Module) -> None:
    for t, s in zip(target.parameters(), source.parameters(), strict=True):
        t.data.copy_(TAU * s.data + (1 - TAU) * t.data)


def _buffer(*widths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(STORED, width, generator=generator) for width in widths]


class _Still(gymnasium.Env):
    """An environment that is never stepped: it tells Stable-Baselines3 the sizes."""

    def __init__(self, x_dim: int, action_dim: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (x_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)


def stable_baselines3(x_dim: int, action_dim: int, hidden: tuple[int, ...], batch: int) -> Callable[[], None]:
    """Two updates (an actor update among them) of Stable-Baselines3's TD3."""
    model = TD3(
        "MlpPolicy",
        _Still(x_dim, action_dim),
        learning_rate=LEARNING_RATE,
        buffer_size=STORED,
        batch_size=batch,
        tau=TAU,
        gamma=GAMMA,
        policy_kwargs={"net_arch": list(hidden)},
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(1)
    for _ in range(STORED):
        x, following = rng.standard_normal((2, 1, x_dim), np.float32)
        action = rng.uniform(-1.0, 1.0, (1, action_dim)).astype(np.float32)
        model.replay_buffer.add(x, following, action, np.zeros(1), np.zeros(1), [{}])
    return lambda: model.train(2, batch)


class PlainTd3:
    """TD3 as CleanRL writes it down."""

    def __init__(self, x_dim: int, action_dim: int, hidden: tuple[int, ...], batch: int) -> None:
        self.batch = batch
        self.actor = _mlp(x_dim, *hidden, action_dim)
        self.q1, self.q2 = (_mlp(x_dim + action_dim, *hidden, 1) for _ in range(2))
        self.targets = [copy.deepcopy(net) for net in (self.actor, self.q1, self.q2)]
        self.q_optimiser = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], LEARNING_RATE)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), LEARNING_RATE)
        self.stored = _buffer(x_dim, action_dim, x_dim, 1)

    def two_updates(self) -> None:
        """Two critic updates, then one of the actor and of the targets."""
        for step in range(2):
            rows = torch.randint(STORED, (self.batch,))
            x, action, following, reward = (column[rows] for column in self.stored)
            with torch.no_grad():
                noise = (torch.randn_like(action) * 0.2).clamp(-0.5, 0.5)
                next_action = (torch.tanh(self.targets[0](following)) + noise).clamp(-1.0, 1.0)
                pair = torch.cat([following, next_action], 1)
                target = reward + GAMMA * torch.min(self.targets[1](pair), self.targets[2](pair))
            pair = torch.cat([x, action], 1)
            loss = functional.mse_loss(self.q1(pair), target) + functional.mse_loss(self.q2(pair), target)
            self.q_optimiser.zero_grad()
            loss.backward()
            self.q_optimiser.step()
            if step == 0:
                continue
            actor_loss = -self.q1(torch.cat([x, torch.tanh(self.actor(x))], 1)).mean()
            self.actor_optimiser.zero_grad()
            actor_loss.backward()
            self.actor_optimiser.step()
            for target_net, net in zip(self.targets, (self.actor, self.q1, self.q2), strict=True):
                _move(target_net, net)


class PlainRlt:
    """RLT's actor and critics as LeRobot writes them down: pass-through, dropout, twin critics, clipped gradients."""

    def __init__(self, x_dim: int, action_dim: int, hidden: tuple[int, ...], batch: int) -> None:
        self.batch = batch
        self.actor = _mlp(x_dim + action_dim, *hidden, action_dim)
        self.critics = nn.ModuleList(_mlp(x_dim + action_dim, *hidden, 1) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.q_optimiser = torch.optim.Adam(self.critics.parameters(), LEARNING_RATE)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), LEARNING_RATE)
        self.stored = _buffer(x_dim, action_dim, action_dim, x_dim, action_dim, 1)

    def two_updates(self) -> None:
        """Two critic updates, each followed by the targets', then one of the actor."""
        for step in range(2):
            rows = torch.randint(STORED, (self.batch,))
            x, action, reference, following, next_reference, reward = (column[rows] for column in self.stored)
            with torch.no_grad():
                pair = torch.cat([following, self.actor(torch.cat([following, next_reference], 1))], 1)
                lowest = torch.cat([q(pair) for q in self.targets], 1).min(1, keepdim=True).values
                target = reward + GAMMA**10 * lowest
            pair = torch.cat([x, action], 1)
            loss = sum(functional.mse_loss(q(pair), target) for q in self.critics)
            self._step(self.q_optimiser, loss, self.critics.parameters())
            if step:
                kept = (torch.rand(self.batch, 1) > 0.5).float()
                chosen = self.actor(torch.cat([x, reference * kept], 1))
                distance = functional.mse_loss(chosen, reference)
                actor_loss = 0.1 * distance - self.critics[0](torch.cat([x, chosen], 1)).mean()
                self._step(self.actor_optimiser, actor_loss, self.actor.parameters())
                distance.item()
            _move(self.targets, self.critics)

    def _step(self, optimiser: torch.optim.Optimizer, loss: Tensor, parameters: Iterator[nn.Parameter]) -> None:
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
        loss.item()
