"""Small made-up episodes for the tests."""

from __future__ import annotations

import numpy as np

from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.budget import BudgetConfig
from rlt_rl_node.learner import Learner, LearnerConfig, TaskShape
from rlt_rl_node.records import EpisodeData, Label, Source

D = 2  # action values per step
TOKEN, STATE = 3, 2


def episode(
    episode_id: int = 1,
    steps: range | list[int] = range(20),
    encoded: range | list[int] | None = None,
    label: Label = Label.SUCCESS,
    sources: list[Source] | None = None,
    delay: int = 0,
    horizon: int = 12,
    scale: float = 1.0,
) -> EpisodeData:
    """Values name their place: action j of step s is s + j/10, reference row r seen at step s is 100 s + r + j/10."""
    steps = list(steps)
    encoded = [s for s in steps if s % 2 == 0] if encoded is None else list(encoded)
    columns = np.arange(D) / 10
    actions = np.array(steps, np.float32)[:, None] + columns
    rows = np.arange(horizon, dtype=np.float32)[:, None] + columns
    references = 100.0 * np.array(encoded, np.float32)[:, None, None] + rows
    tokens = np.array(encoded, np.float32)[:, None] + np.arange(TOKEN) / 10
    states = -np.array(encoded, np.float32)[:, None] - np.arange(STATE) / 10
    return EpisodeData(
        episode_id=episode_id,
        label=label,
        delay=delay,
        steps=np.array(steps, np.int64),
        sources=np.array(sources if sources is not None else [Source.RL] * len(steps), np.uint8),
        actions=(scale * actions).astype(np.float32),
        encoded_steps=np.array(encoded, np.int64),
        boundary=np.array([s % 4 == 0 for s in encoded], np.bool_),
        rl_tokens=tokens.astype(np.float32),
        rl_states=states.astype(np.float32),
        references=(scale * references).astype(np.float32),
    )


def random_episode(episode_id: int, length: int = 40, label: Label = Label.SUCCESS) -> EpisodeData:
    """Noise of one standard deviation everywhere, seeded by the id."""
    rng = np.random.default_rng(episode_id)
    encoded = np.arange(0, length, 2)
    return EpisodeData(
        episode_id=episode_id,
        label=label,
        delay=0,
        steps=np.arange(length),
        sources=rng.choice([Source.RL, Source.HUMAN], length).astype(np.uint8),
        actions=rng.normal(size=(length, D)).astype(np.float32),
        encoded_steps=encoded,
        boundary=encoded % 4 == 0,
        rl_tokens=rng.normal(size=(len(encoded), TOKEN)).astype(np.float32),
        rl_states=rng.normal(size=(len(encoded), STATE)).astype(np.float32),
        references=rng.normal(size=(len(encoded), 8, D)).astype(np.float32),
    )


def ids(learner: Learner) -> tuple[int, ...]:
    """Of the episodes in its replay, in their order."""
    return tuple(key.episode_id for key in learner.replay.episodes)


def task_shape(**changes: object) -> TaskShape:
    """C = 4, stride 2, unit spread."""
    values = {
        "token_dim": TOKEN,
        "state_dim": STATE,
        "chunk_length": 4,
        "stride": 2,
        "spread": np.ones(D, np.float32),
        "step_limit": np.full(D, 3.0, np.float32),
        "vla_hash": "0123456789abcdef",
    }
    return TaskShape(**{**values, **changes})


def learner_config(**agent: object) -> LearnerConfig:
    """Small networks; learning starts with episode two: 6 initial updates, then half an update per transition."""
    values = {"hidden": (16, 16), "batch_size": 8}
    budget = BudgetConfig(
        warmup_episodes=2, min_transitions=1, initial_updates=6, updates_per_transition=0.5, max_updates_per_episode=30
    )
    return LearnerConfig(seed=3, agent=AgentConfig(**{**values, **agent}), budget=budget)
