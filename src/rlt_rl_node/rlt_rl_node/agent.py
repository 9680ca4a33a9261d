"""The actor-critic of RL Token: Eq. 3 to 5 of the paper (Sec. IV-B), in the order of the paper.

Read `Agent.update_critic` against Eq. 3 and `Agent.update_actor` against Eq. 4 and 5. Notation: x the RL state,
a a chunk of C actions flattened to C*d values, a~ (`reference`) the VLA's chunk, psi' (`target_critics`) the
target networks.

Actions, noise and the beta term are in units of the demonstrations' spread per dimension. So beta = 0.004 weighs
the SUM over C*d squared deviations, each measured in standard deviations of the demonstrations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlt_common.parameters import ParameterError, param, validate
from rlt_rl_node.networks import Actor, Critics, Layout, Standardiser, processor_has_bfloat16

RETURN_RANGE = (0.0, 1.0)  # the reward is +1 at success and 0 otherwise (Sec. V)
NORM_EVERY = 10
"""Updates between two measured gradient norms: each is a pass over all parameters."""
DEVIATION_FLOOR = 1e-6  # of the critics' values: critics that agree to float32's digits have no deviation to divide by


@dataclass(frozen=True)
class AgentConfig:
    """Hyper-parameters of actor and critic. Defaults: what works in the simulated cell; the paper's where it says."""

    gamma: float = param(
        0.99, "discount per control step; 0.995 for critical phases beyond 10 s", minimum=0.0, maximum=1.0
    )
    beta: float = param(
        0.004, "weight of the squared distance to the reference, summed over C*d in spread units (Eq. 5)", minimum=0.0
    )
    beta_start: float = param(
        0.0,
        "beta at the first update; it falls geometrically to `beta` over `beta_updates`, so that a critic that has "
        "seen little moves the actor little; 0: `beta` from the start",
        minimum=0.0,
    )
    beta_updates: int = param(6000, "updates over which beta falls", minimum=1)
    sigma_independent: float = param(0.2, "exploration noise per action value, spread units (Eq. 4)", minimum=0.0)
    sigma_chunk: float = param(0.5, "exploration noise constant over a chunk, spread units", minimum=0.0)
    target_noise: float = param(
        0.2, "noise of a' in the target, the sample of Eq. 3, spread units; 0: the mean", minimum=0.0
    )
    target_noise_clip: float = param(0.5, "the target noise is clipped to this, spread units (TD3)", minimum=0.0)
    target_actor: bool = param(False, "a' comes from a slowly following copy of the actor (TD3), not the actor (Eq. 3)")
    actor_noise: bool = param(False, "the actor's loss samples a with the exploration noise instead of using the mean")
    tau: float = param(0.01, "how far the target networks follow per update", minimum=0.0, maximum=1.0)
    actor_lr: float = param(5e-4, "Adam learning rate of the actor", minimum=0.0, maximum=1.0)
    critic_lr: float = param(5e-4, "Adam learning rate of the critics", minimum=0.0, maximum=1.0)
    batch_size: int = param(128, "transitions per update", minimum=1, maximum=65536)
    hidden: tuple[int, ...] = param((256, 256), "hidden widths of actor and critics (App. B: 256, 256; screw 512 x 3)")
    critics: int = param(2, "Q functions; the target is the minimum over all", minimum=1, maximum=10)
    critic_layer_norm: bool = param(True, "LayerNorm in the critics")
    clamp_targets: bool = param(True, "clamp bootstrapped values to the possible return, 0 to 1")
    actor_objective: str = param(
        "min",
        "which Q the actor climbs: the lowest, a lower bound (mean minus `actor_bound` standard deviations over the "
        "critics), or the first's",
        choices=("min", "bound", "first"),
    )
    actor_bound: float = param(
        1.0, "how many standard deviations below the mean the bound lies; 0: the mean", minimum=0.0, maximum=10.0
    )
    average_rate: float = param(
        0.001,
        "how far the averaged actor, which acts where nothing is explored, follows the actor per actor update; "
        "1: it is the actor",
        minimum=0.0,
        maximum=1.0,
    )
    updates_per_actor_update: int = param(2, "critic updates per actor update (Sec. V)", minimum=1, maximum=100)
    reference_dropout: float = param(
        0.5,
        "share of training samples whose reference is zeroed at the actor's input (App. B)",
        minimum=0.0,
        maximum=1.0,
    )
    partial_chunks: str = param(
        "mask",
        "rows of a chunk behind the episode's end: zeroed and left out of the loss, or the last action repeated",
        choices=("mask", "repeat"),
    )
    use_reference: bool = param(True, "the actor sees the reference; false: the ablation without pass-through")
    use_rl_token: bool = param(True, "x holds z_rl; false: the ablation without RL token")
    squash: bool = param(False, "tanh at the actor's output, scaled to the robot's limits (TD3)")
    products: str = param(
        "float32",
        "what the factors of matrix products are rounded to; bfloat16 is faster where the processor has instructions "
        "for it, and auto takes it there and float32 elsewhere",
        choices=("float32", "bfloat16", "auto"),
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.beta_start and not self.beta:
            raise ParameterError("beta_start falls geometrically to beta: beta must be above 0")
        if not self.hidden or min(self.hidden) < 1:
            raise ParameterError(f"hidden is {self.hidden}: it needs at least one width of 1 or more")


@dataclass(frozen=True)
class Batch:
    """B transitions, as the replay gathers them. Chunks are flattened to C*d values in spread units."""

    x: Tensor  # (B, X) not standardised
    action: Tensor  # (B, C*d) executed; rows behind the valid length repeat the last one
    reference: Tensor  # (B, C*d) a~, the human's action at human steps
    valid: Tensor  # (B, C*d) 1 within the valid length n, else 0
    rewards: Tensor  # (B,) sum over n steps of gamma^(t'-1) r
    bootstrap: Tensor  # (B,) gamma^n; 0 where terminal
    next_x: Tensor  # (B, X)
    next_reference: Tensor  # (B, C*d)


class Agent:
    """Actor, critics, their targets and optimisers. Deterministic: all randomness comes from `generator`."""

    def __init__(self, layout: Layout, config: AgentConfig, action_limit: Tensor, generator: torch.Generator) -> None:
        """`action_limit` (d,): the robot's limit per control step, in spread units."""
        self.layout, self.config, self.generator = layout, config, generator
        self.action_limit = action_limit.repeat(layout.chunk_length)
        self.standardise = Standardiser(layout.x_dim)
        bfloat16 = config.products == "bfloat16" or (config.products == "auto" and processor_has_bfloat16())
        self.actor = Actor(layout, generator, self.action_limit, bfloat16)
        self.critics = Critics(layout, config.critics, config.critic_layer_norm, generator, bfloat16)
        self.target_actor, self.target_critics = self.actor.clone(), self.critics.clone()
        self.average = self.actor.clone()
        self.actor_optimiser = self.actor.optimiser(config.actor_lr)
        self.critic_optimiser = self.critics.optimiser(config.critic_lr)
        self.updates = 0

    @property
    def beta(self) -> float:
        """The weight of the squared distance to the reference now."""
        config = self.config
        left = max(0.0, 1.0 - self.updates / config.beta_updates)
        if config.beta_start == 0.0 or left == 0.0:
            return config.beta
        return config.beta * (config.beta_start / config.beta) ** left

    @torch.no_grad()
    def update(self, batch: Batch, bc_only: bool = False) -> dict[str, Tensor]:
        """One critic update and, every `updates_per_actor_update`-th time, one actor update.

        With `bc_only` the actor learns from the distance to the reference alone: Q means nothing yet.
        Returns scalars.
        """
        x = self.standardise(batch.x)
        metrics = self.update_critic(batch, x)
        self.updates += 1
        if self.updates % self.config.updates_per_actor_update == 0:
            metrics |= self.update_actor(batch, x, bc_only)
        return metrics

    @torch.no_grad()
    def update_critic(self, batch: Batch, x: Tensor) -> dict[str, Tensor]:
        """Eq. 3: one step on the squared TD error. `x` is the standardised batch.x."""
        next_x = self.standardise(batch.next_x)
        next_action = self._target_action(next_x, batch.next_reference)
        next_q = self.target_critics(next_x, next_action).amin(0)
        if self.config.clamp_targets:
            next_q = next_q.clamp(*RETURN_RANGE)
        target = batch.rewards + batch.bootstrap * next_q

        tape: list[Tensor] = []
        error = self.critics(x, self._visible(batch.action, batch.valid), tape) - target
        self.critics.backward(tape, error * (2.0 / len(x)))
        metrics = {"critic_loss": error.square().mean(1).sum(), "q_mean": target.mean()}
        if self.updates % NORM_EVERY == 0:
            metrics["critic_gradient_norm"] = self.critics.flat_gradient.norm()
        self.critic_optimiser.step()
        self.target_critics.follow(self.critics, self.config.tau)
        return metrics

    @torch.no_grad()
    def update_actor(self, batch: Batch, x: Tensor, bc_only: bool) -> dict[str, Tensor]:
        """Eq. 4 and 5: one step on -Q + beta * squared distance. Dropout touches the actor's input, nothing else."""
        kept = self._uniform(len(x), 1) >= self.config.reference_dropout
        tape: list[Tensor] = []
        mean = self.actor(x, batch.reference * kept, tape)
        deviation = self._visible(mean - batch.reference, batch.valid)
        distance = deviation.square().sum(1).mean()
        gradient = deviation * (2.0 / len(x))  # of the distance, with respect to the mean
        if bc_only:
            loss = distance
        else:
            action = mean + self._chunk_noise(len(x)) if self.config.actor_noise else mean
            q_tape: list[Tensor] = []
            members = 1 if self.config.actor_objective == "first" else None
            q = self.critics(x, self._visible(action, batch.valid), q_tape, members)
            value, share = self._climb(q)
            ascent = self.critics.action_gradient(q_tape, share * (-1.0 / len(x)))
            gradient = self._visible(ascent, batch.valid) + self.beta * gradient
            loss = -value.mean() + self.beta * distance

        self.actor.backward(tape, gradient)
        metrics = {"actor_loss": loss, "distance": distance / self.layout.chunk_dim}
        if self.updates // self.config.updates_per_actor_update % NORM_EVERY == 0:
            metrics["actor_gradient_norm"] = self.actor.flat_gradient.norm()
        self.actor_optimiser.step()
        if self.config.target_actor:
            self.target_actor.follow(self.actor, self.config.tau)
        self.average.follow(self.actor, self._average_rate())
        return metrics

    def _average_rate(self) -> float:
        """The share of the newest actor in the average.

        Early on it is about the mean over the latest tenth of all actors, the polynomial-decay averaging of Shamir and
        Zhang (2013) with eta = 9: what the first updates left soon weighs nothing.
        """
        done = max(1, self.updates // self.config.updates_per_actor_update)
        return max(self.config.average_rate, 10.0 / (done + 9.0))

    def _climb(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Of the critics' values (N, B) the one that the actor climbs (B,), and its derivative by each (N, B).

        The bound's derivative weighs a critic the less the higher it is above the others: where a step along the
        action makes them disagree the bound falls, so that the actor goes where they agree that it is better.
        """
        if self.config.actor_objective == "min":
            value, index = q.min(0, keepdim=True)
            return value[0], torch.zeros_like(q).scatter_(0, index, 1.0)
        mean = q.mean(0)
        if self.config.actor_objective == "first" or not self.config.actor_bound:
            return mean, torch.full_like(q, 1.0 / len(q))
        above = q - mean
        deviation = above.square().mean(0).sqrt().clamp(min=DEVIATION_FLOOR)
        return mean - self.config.actor_bound * deviation, (1.0 - self.config.actor_bound * above / deviation) / len(q)

    def _target_action(self, next_x: Tensor, next_reference: Tensor) -> Tensor:
        """a' ~ pi(x', a~'): reference never dropped, clipped to what the robot would execute."""
        actor = self.target_actor if self.config.target_actor else self.actor
        action = actor(next_x, next_reference)
        if self.config.target_noise > 0.0:
            noise = self._normal(*action.shape) * self.config.target_noise
            action = action + noise.clamp(-self.config.target_noise_clip, self.config.target_noise_clip)
        return torch.minimum(torch.maximum(action, -self.action_limit), self.action_limit)

    def _visible(self, chunk: Tensor, valid: Tensor) -> Tensor:
        return chunk * valid if self.config.partial_chunks == "mask" else chunk

    def _chunk_noise(self, count: int) -> Tensor:
        c, d = self.layout.chunk_length, self.layout.action_dim
        independent = self._normal(count, c, d) * self.config.sigma_independent
        constant = self._normal(count, 1, d) * self.config.sigma_chunk
        return (independent + constant).flatten(1)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)
