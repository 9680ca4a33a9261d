"""Warm-up and online RL in process (Algorithm 1, lines 4 to 19): one episode, then its updates, then the next actor.

The order is that of the graph in lockstep: an episode is taken in, its whole update debt is paid, the new actor is
released, and only then the next episode starts with that actor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from harness.episode_loop import EpisodeLoop, LoopError, Plant
from harness.settings import Settings
from rlt_bringup.report import EpisodeOutcome
from rlt_rl_node.episode_store import trimmed
from rlt_rl_node.frozen_models import read_frozen_models
from rlt_rl_node.learner import Learner, TaskShape, task_shape
from rlt_rl_node.records import EpisodeData
from rlt_teleop.episode_machine import Driver, Purpose
from rlt_teleop.training_gate import Go, Training, decide


class Trainer:
    """A learner and the loop that gives it episodes."""

    def __init__(
        self, loop: EpisodeLoop, shape: TaskShape, settings: Settings, demonstrations: Iterable[EpisodeData] = ()
    ) -> None:
        """`demonstrations`: what the replay begins with."""
        self._loop = loop
        self.learner = Learner(shape, settings.learner)
        for demonstration in demonstrations:
            self.learner.add_demonstration(trimmed(demonstration, shape.chunk_length))

    def episode(self, seed: int) -> EpisodeOutcome:
        """One training episode on the reset `seed`, with everything that follows from it."""
        learner = self.learner
        go = decide(
            Purpose.TRAIN, Driver.RL, self._status(), lockstep=True, trained_episode=learner.progress().last_episode_id
        )
        if not isinstance(go, Go):
            raise LoopError(go.reason)
        outcome, data = self._loop.run(Purpose.TRAIN, go.driver, seed, explore=True, actor_version=go.actor_version)
        if data is not None:
            learner.add_episode(trimmed(data, learner.shape.chunk_length))
            while learner.owed:
                learner.run_updates(learner.owed)
        if learner.unreleased:
            self._loop.policy.on_actor(learner.release())
        return outcome

    def _status(self) -> Training:
        learner = self.learner
        return Training(
            ready=learner.ready and learner.version > 0,
            busy=False,
            last_episode_id=learner.progress().last_episode_id,
            actor_version=learner.version,
        )


def shape_of(plant: Plant, checkpoint: Path) -> TaskShape:
    """The learner's shape for a plant whose frozen VLA lies in `checkpoint`, with the plant's own state encoder."""
    frozen = read_frozen_models(checkpoint, plant.robot.action_dim)
    own = replace(frozen, hash=plant.model.hash, token_dim=plant.model.token.width)
    return task_shape(plant.robot, plant.task, own)
