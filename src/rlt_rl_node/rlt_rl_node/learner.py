"""Replay, update budget and agent as one learner: episodes in, updates, an actor out (Algorithm 1, lines 4 to 19).

The sequence of updates depends on the episodes, their order and the seed alone, not on how `run_updates` is sliced.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.parameters import param, validate
from rlt_rl_node.actor_codec import PolicyWeights
from rlt_rl_node.agent import Agent, AgentConfig
from rlt_rl_node.budget import INITIAL, ONLINE, BudgetConfig, UpdateBudget
from rlt_rl_node.corrections import Correction, Progress
from rlt_rl_node.frozen_models import FrozenModels
from rlt_rl_node.networks import Layout
from rlt_rl_node.records import EpisodeData, EpisodeKey
from rlt_rl_node.replay import Replay

METRICS = ("critic_loss", "q_mean", "actor_loss", "distance", "critic_gradient_norm", "actor_gradient_norm")


@dataclass(frozen=True)
class LearnerConfig:
    """Everything that decides what is learned from given episodes."""

    seed: int = param(0, "of initial weights, batches and noise", minimum=0)
    replay_capacity: int = param(500_000, "transitions", minimum=1, maximum=10_000_000)
    demonstrations: int = param(
        60, "demonstrations whose critical phases the replay begins with; 0: none", minimum=0, maximum=100_000
    )
    agent: AgentConfig = field(default_factory=AgentConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class TaskShape:
    """What task, robot and VLA fix: sizes, the action units and the hash of the frozen models."""

    token_dim: int
    state_dim: int
    chunk_length: int
    stride: int
    spread: np.ndarray  # (d,) float32, spread of the demonstrations, robot units
    step_limit: np.ndarray  # (d,) float32, the executor's limit per control step, robot units
    vla_hash: str

    def layout(self, config: AgentConfig) -> Layout:
        """Shapes of the networks for this task."""
        return Layout(
            token_dim=self.token_dim,
            state_dim=self.state_dim,
            action_dim=len(self.spread),
            chunk_length=self.chunk_length,
            hidden=config.hidden,
            use_rl_token=config.use_rl_token,
            use_reference=config.use_reference,
            squash=config.squash,
        )


def task_shape(robot: RobotConfig, task: TaskConfig, frozen: FrozenModels) -> TaskShape:
    """The shape that robot, task and frozen models give."""
    return TaskShape(
        token_dim=frozen.token_dim,
        state_dim=sum(robot.block_sizes[name] for name in task.rl_state),
        chunk_length=task.chunk_length,
        stride=task.stride,
        spread=frozen.action_spread,
        step_limit=robot.step_limit,
        vla_hash=frozen.hash,
    )


class Learner:
    """Takes in episodes, pays the update debt and hands out actors."""

    def __init__(self, shape: TaskShape, config: LearnerConfig) -> None:
        self.shape, self.config = shape, config
        self.layout = shape.layout(config.agent)
        self.generator = torch.Generator().manual_seed(config.seed)
        spread = torch.tensor(shape.spread, dtype=torch.float32)
        limit = torch.tensor(shape.step_limit, dtype=torch.float32) / spread
        self.agent = Agent(self.layout, config.agent, limit, self.generator)
        self.replay = Replay(self.layout, shape.stride, config.agent.gamma, spread, config.replay_capacity)
        self.budget = UpdateBudget(config.budget)
        self.version = 0  # of the newest released actor
        self.released_updates = 0  # critic updates behind it
        self.robots: dict[str, Progress] = {}  # those of which anything was heard, as in EpisodeKey
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    @property
    def stage(self) -> str:
        """ "warmup", "initial" or "online"."""
        return self.budget.stage

    @property
    def ready(self) -> bool:
        """The initial budget is paid: the actor may drive."""
        return self.budget.stage == ONLINE

    @property
    def unreleased(self) -> bool:
        """The actor may drive and was never released, or has changed since."""
        return self.ready and (self.agent.updates > self.released_updates or not self.version)

    @property
    def owed(self) -> int:
        """Updates to be paid now; none without a transition to make them of."""
        return self.budget.owed if len(self.replay) else 0

    def progress(self, robot: str = "") -> Progress:
        """How far it is with a robot."""
        return self.robots.setdefault(robot, Progress())

    def add_episode(self, episode: EpisodeData) -> int:
        """Take in one labelled episode; returns its transitions. An episode without any leaves everything as it was.

        Raises RecordError or ValueError when it does not fit, and takes in nothing then.
        """
        transitions = self.replay.add(episode)
        self.pass_over(episode.key)
        if transitions:
            warm = self.stage
            self.budget.credit(len(episode.steps), transitions)
            if self.stage != warm:
                self.agent.standardise.fit(self.replay.states())
        return transitions

    def relabel(self, correction: Correction, episode: EpisodeData | None, robot: str = "") -> int:
        """Follow a corrected label; returns the transitions that the episode has in the replay now.

        What was trained is not undone, and nothing more is owed. A corrected episode is the newest of the replay.

        Args:
            correction: the newest one, in its order.
            episode: the training episode with whatever label; None when it is none, or not to be taken in now.
            robot: whose episode it is.

        Raises RecordError when the episode does not fit; then it has left the replay.
        """
        progress, key = self.progress(robot), EpisodeKey(correction.episode_id, robot)
        progress.corrections = correction.sequence
        progress.labels[correction.episode_id] = correction.label
        if key in self.replay.episodes:
            self.replay.remove(key)
        if episode is None or not correction.label.trainable:
            return 0
        return self.replay.add(dataclasses.replace(episode, label=correction.label))

    def add_demonstration(self, episode: EpisodeData) -> int:
        """Take in what a human showed before the run; returns its transitions. It is no robot data of the run: it ends
        no warm-up and owes no updates.

        Raises RecordError or ValueError when it does not fit.
        """
        return self.replay.add(episode)

    def pass_over(self, key: EpisodeKey) -> None:
        """Note that an episode is done with, taken in or not."""
        progress = self.progress(key.robot)
        progress.last_episode_id = max(progress.last_episode_id, key.episode_id)

    def run_updates(self, limit: int) -> int:
        """Pay up to `limit` of the owed updates; returns how many were done."""
        done = 0
        while done < limit and self.owed:
            batch = self.replay.sample(self.config.agent.batch_size, self.generator)
            for name, value in self.agent.update(batch, bc_only=self.stage == INITIAL).items():
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
            self.budget.pay()
            done += 1
        return done

    def metrics(self) -> dict[str, float]:
        """Means since the last call; NaN where nothing was measured.

        critic_loss; q_mean: TD target; actor_loss; reference_distance: root mean square of (actor mean - reference),
        spread units, with the training dropout; critic_gradient_norm, actor_gradient_norm: of every NORM_EVERY-th step.
        """
        means = {
            name: float(self._sums[name]) / self._counts[name] if name in self._sums else math.nan for name in METRICS
        }
        self._sums, self._counts = {}, {}
        means["reference_distance"] = math.sqrt(means.pop("distance"))
        return means

    def release(self) -> PolicyWeights:
        """The actor of this moment under the next version number."""
        self.version += 1
        self.released_updates = self.agent.updates
        return self.policy()

    def policy(self) -> PolicyWeights:
        """Copies of the averaged actor and of the actor of this moment under the newest version number.

        They act with float32 products, whatever they learn with, as do all that are read from a file or message.
        """
        average, explorer = self.agent.average.clone(), self.agent.actor.clone()
        average.bfloat16 = explorer.bfloat16 = False
        return PolicyWeights(
            actor=average,
            explorer=explorer,
            standardise=copy.deepcopy(self.agent.standardise),
            spread=np.asarray(self.shape.spread, np.float32),
            sigma_independent=self.config.agent.sigma_independent,
            sigma_chunk=self.config.agent.sigma_chunk,
            vla_hash=self.shape.vla_hash,
            version=self.version,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Every weight, optimiser moment and the generator's state, for a checkpoint."""
        arrays = {name: tensor.detach().numpy().copy() for name, tensor in self._tensors().items()}
        for prefix, flat, optimiser in self._optimised():
            for key, value in optimiser.state[flat].items():
                arrays[f"{prefix}.{key}"] = value.numpy().copy()
        arrays["generator"] = self.generator.get_state().numpy().copy()
        return arrays

    def counters(self) -> dict[str, Any]:
        """The plain numbers of a checkpoint."""
        return {
            "budget": self.budget.state(),
            "updates": self.agent.updates,
            "version": self.version,
            "released_updates": self.released_updates,
            "robots": {robot: progress.state() for robot, progress in sorted(self.robots.items())},
        }

    def restore(self, arrays: dict[str, np.ndarray], counters: dict[str, Any]) -> None:
        """Take back :meth:`arrays` and :meth:`counters`. Raises ValueError naming what is missing or misshapen."""
        used = {"generator"}
        for name, tensor in self._tensors().items():
            with torch.no_grad():
                tensor.copy_(_taken(arrays, name, tensor.shape))
            used.add(name)
        for prefix, flat, optimiser in self._optimised():
            if f"{prefix}.step" not in arrays:
                continue
            shapes = {"step": (), "exp_avg": flat.shape, "exp_avg_sq": flat.shape}
            optimiser.state[flat] = {part: _taken(arrays, f"{prefix}.{part}", s) for part, s in shapes.items()}
            used |= {f"{prefix}.{part}" for part in shapes}
        if unknown := sorted(set(arrays) - used):
            raise ValueError(f"array {unknown[0]!r} has no place in this agent")
        state = self.generator.get_state()
        self.generator.set_state(_taken(arrays, "generator", state.shape))
        self.budget.restore(counters["budget"])
        self.agent.updates = int(counters["updates"])
        self.version = int(counters["version"])
        self.released_updates = int(counters["released_updates"])
        self.robots = progress_of(counters)

    def _tensors(self) -> dict[str, torch.Tensor]:
        modules = {
            "x": self.agent.standardise,
            "actor": self.agent.actor,
            "critics": self.agent.critics,
            "average": self.agent.average,
            "target_actor": self.agent.target_actor,
            "target_critics": self.agent.target_critics,
        }
        return {f"{name}.{key}": value for name, module in modules.items() for key, value in _named(module).items()}

    def _optimised(self) -> tuple[tuple[str, torch.Tensor, torch.optim.Optimizer], ...]:
        return (
            ("actor_optimiser", self.agent.actor.flat, self.agent.actor_optimiser),
            ("critic_optimiser", self.agent.critics.flat, self.agent.critic_optimiser),
        )


def progress_of(counters: dict[str, Any]) -> dict[str, Progress]:
    """How far it was with each robot, out of :meth:`Learner.counters`."""
    return {str(robot): Progress.of(state) for robot, state in counters["robots"].items()}


def settings(config: LearnerConfig) -> dict[str, Any]:
    """The configuration as plain data, as checkpoints and reports carry it."""
    return dataclasses.asdict(config)


def _named(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _taken(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name not in arrays:
        raise ValueError(f"array {name!r} is missing")
    if tuple(arrays[name].shape) != tuple(shape):
        raise ValueError(f"array {name!r} has shape {arrays[name].shape}, this agent's is {tuple(shape)}")
    return torch.tensor(arrays[name])
