"""An environment that the agent practises as TD3, and what is published of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """An environment and how long it is practised."""

    environment: str
    steps: int
    warmup_steps: int  # random actions, no updates
    gamma: float
    learning_rate: float
    published: float
    goal: float  # the mean over the seeds must reach it
    evaluations: int = 20
