"""The agent as TD3 on an environment of gymnasium: what `make bench-td3` repeats per seed."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import torch

from harness.td3_task import Task
from rlt_rl_node.agent import Agent, AgentConfig, Batch
from rlt_rl_node.networks import Layout


class Memory:
    """Single steps of any environment; the robot's replay holds chunks and knows no other reward than success."""

    def __init__(self, size: int, x_dim: int, action_dim: int) -> None:
        self.x, self.next_x = np.zeros((2, size, x_dim), np.float32)
        self.action = np.zeros((size, action_dim), np.float32)
        self.reward, self.alive = np.zeros((2, size), np.float32)
        self.size = 0

    def add(self, x: np.ndarray, action: np.ndarray, reward: float, next_x: np.ndarray, terminated: bool) -> None:
        """One step; a time limit is no terminal."""
        i = self.size
        self.x[i], self.action[i], self.reward[i], self.next_x[i], self.alive[i] = (
            x,
            action,
            reward,
            next_x,
            not terminated,
        )
        self.size += 1

    def sample(self, count: int, gamma: float, rng: np.random.Generator) -> Batch:
        """`count` transitions of one step each, as the agent takes them."""
        rows = rng.integers(self.size, size=count)
        action = torch.from_numpy(self.action[rows])
        none = torch.zeros_like(action)
        return Batch(
            x=torch.from_numpy(self.x[rows]),
            action=action,
            reference=none,
            valid=torch.ones_like(action),
            rewards=torch.from_numpy(self.reward[rows]),
            bootstrap=gamma * torch.from_numpy(self.alive[rows]),
            next_x=torch.from_numpy(self.next_x[rows]),
            next_reference=none,
        )


def make_agent(task: Task, environment: gymnasium.Env, seed: int, bfloat16: bool) -> Agent:
    """The agent as TD3. Actions in the environment's units, noise in shares of their limit."""
    limit = torch.from_numpy(environment.action_space.high.astype(np.float32))
    scale = float(limit.max())
    config = AgentConfig(
        gamma=task.gamma,
        beta=0.0,
        sigma_independent=0.1 * scale,
        sigma_chunk=0.0,
        target_noise=0.2 * scale,
        target_noise_clip=0.5 * scale,
        target_actor=True,
        tau=0.005,
        actor_lr=task.learning_rate,
        critic_lr=task.learning_rate,
        batch_size=100,
        critic_layer_norm=False,
        clamp_targets=False,
        actor_objective="first",
        reference_dropout=0.0,
        use_reference=False,
        use_rl_token=False,
        squash=True,
        products="bfloat16" if bfloat16 else "float32",
    )
    layout = Layout(
        token_dim=0,
        state_dim=environment.observation_space.shape[0],
        action_dim=len(limit),
        chunk_length=1,
        hidden=config.hidden,
        use_rl_token=False,
        use_reference=False,
        squash=True,
    )
    return Agent(layout, config, limit, torch.Generator().manual_seed(seed))


@torch.no_grad()
def act(agent: Agent, x: np.ndarray) -> np.ndarray:
    """The actor's mean at one observation."""
    state = agent.standardise(torch.from_numpy(x.astype(np.float32))[None])
    return agent.actor(state, torch.zeros(1, agent.layout.chunk_dim))[0].numpy()


def evaluate(agent: Agent, task: Task, seed: int) -> float:
    """Mean return over fresh episodes, without noise."""
    environment, returns = gymnasium.make(task.environment), []
    for i in range(task.evaluations):
        x, _ = environment.reset(seed=1_000_000 + 1000 * seed + i)
        total, over = 0.0, False
        while not over:
            x, reward, terminated, truncated, _ = environment.step(act(agent, x))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def practise(task: Task, seed: int, bfloat16: bool) -> dict[str, Any]:
    """One seed: what it reached after `task.steps` steps, with one update per step."""
    environment = gymnasium.make(task.environment)
    environment.action_space.seed(seed)
    agent = make_agent(task, environment, seed, bfloat16)
    memory = Memory(task.steps, agent.layout.state_dim, agent.layout.action_dim)
    rng = np.random.default_rng(seed)
    high, start, updating = environment.action_space.high, time.perf_counter(), 0.0
    x, _ = environment.reset(seed=seed)
    for step in range(task.steps):
        if step < task.warmup_steps:
            action = environment.action_space.sample()
        else:
            noise = agent.config.sigma_independent * rng.standard_normal(len(high))
            action = np.clip(act(agent, x) + noise, -high, high).astype(np.float32)
        next_x, reward, terminated, truncated, _ = environment.step(action)
        memory.add(x, action, float(reward), next_x, terminated)
        x = environment.reset()[0] if terminated or truncated else next_x
        if step == task.warmup_steps:
            agent.standardise.fit(torch.from_numpy(memory.x[: memory.size]))
        if step >= task.warmup_steps:
            begin = time.perf_counter()
            agent.update(memory.sample(agent.config.batch_size, task.gamma, rng))
            updating += time.perf_counter() - begin
        if step % 5000 == 4999:
            left = (time.perf_counter() - start) / (step + 1) * (task.steps - step - 1)
            print(f"td3: {task.environment}, seed {seed}: {step + 1}/{task.steps}, {left:.0f} s left", flush=True)
    return {
        "environment": task.environment,
        "seed": seed,
        "bfloat16": bfloat16,
        "steps": task.steps,
        "return": evaluate(agent, task, seed),
        "evaluations": task.evaluations,
        "published": task.published,
        "updates_per_s": agent.updates / updating,
    }
