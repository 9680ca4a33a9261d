"""One policy on a row of resets, and how far a stage of an experiment is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.episode_loop import EpisodeLoop, Plant
from harness.settings import Settings
from rlt_bringup.report import EpisodeOutcome, PolicyResult
from rlt_rl_node.actor_codec import PolicyWeights
from rlt_teleop.episode_machine import Driver, Purpose

PROGRESS_S = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """One policy on a row of resets."""

    name: str
    driver: Driver
    episodes: int
    first_seed: int
    first_episode_id: int
    execute_steps: int = 0
    actor: PolicyWeights | None = None


def run_evaluation(plant: Plant, own: Settings, evaluation: Evaluation, say: Say) -> dict[str, Any]:
    """Its episodes in order: {"outcomes": [EpisodeOutcome as plain data]}."""
    loop = EpisodeLoop(plant, own, evaluation.first_episode_id)
    version = 0
    if evaluation.actor is not None:
        loop.policy.on_actor(evaluation.actor)
        version = evaluation.actor.version
    progress = Progress(evaluation.name, evaluation.episodes, say)
    outcomes = []
    for i in range(evaluation.episodes):
        outcome, _ = loop.run(
            Purpose.EVALUATE,
            evaluation.driver,
            evaluation.first_seed + i,
            execute_steps=evaluation.execute_steps,
            actor_version=version,
        )
        outcomes.append(asdict(outcome))
        progress.show(outcome)
    return {"outcomes": outcomes}


def policy_result(name: str, rows: int, stored: Mapping[str, Any]) -> PolicyResult:
    """What :func:`run_evaluation` gave, as the report takes it; `rows` that are executed of a chunk."""
    return PolicyResult(name, rows, [EpisodeOutcome(**outcome) for outcome in stored["outcomes"]])


class Progress:
    """Says how far a stage is, every ten seconds and at its end."""

    def __init__(self, title: str, total: int, say: Say) -> None:
        self._title, self._total, self._say = title, total, say
        self._start = self._last = time.monotonic()
        self._seen: list[EpisodeOutcome] = []

    def show(self, outcome: EpisodeOutcome, more: str = "", share: float | None = None) -> None:
        """One more episode is done; `share` of the stage that is done, when it does not end by episodes alone."""
        self._seen.append(outcome)
        now, done = time.monotonic(), len(self._seen)
        if done < self._total and now - self._last < PROGRESS_S:
            return
        self._last = now
        recent = self._seen[-10:]
        share = done / self._total if share is None else share
        left_min = (now - self._start) * (1.0 / share - 1.0) / 60.0
        self._say(
            f"{self._title} {done}/{self._total}: last {len(recent)}: {sum(o.success for o in recent)} successes, "
            f"{sum(o.critical_steps for o in recent) / len(recent):.0f} steps{more}; about {left_min:.1f} min left"
        )
