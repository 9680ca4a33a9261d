"""How many updates the learner owes: a fixed ratio of updates to new data (Sec. V), counted once and paid when it can.

An update is one critic step. During warm-up nothing is owed. Then an initial budget is paid, with the actor learning
from the reference alone, and the actor may drive; from there on every new transition adds `updates_per_transition`.
The debt never gates the actor again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rlt_common.parameters import param, validate

WARMUP, INITIAL, ONLINE = "warmup", "initial", "online"


@dataclass(frozen=True)
class BudgetConfig:
    """When learning starts and how much of it the data allows."""

    warmup_episodes: int = param(20, "episodes of the base VLA before the first update", minimum=0, maximum=100_000)
    warmup_steps: int = param(0, "N_warm, control steps of the base VLA before the first update", minimum=0)
    min_transitions: int = param(500, "transitions before the first update", minimum=1, maximum=1_000_000)
    initial_updates: int = param(800, "updates before the actor drives", minimum=0, maximum=1_000_000)
    updates_per_transition: float = param(
        1.0, "updates owed per new transition (Sec. V: 5; five per chunk of C = 10 is 1)", minimum=0.0, maximum=100.0
    )
    max_updates_per_episode: int = param(150, "most updates that one episode adds", minimum=0, maximum=1_000_000)
    max_debt: int = param(
        3000, "most updates owed at once: what a learner that fell behind forgets", minimum=1, maximum=10_000_000
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass
class UpdateBudget:
    """The account. All fields are plain numbers, so that a checkpoint holds it whole."""

    config: BudgetConfig
    stage: str = WARMUP
    episodes: int = 0
    steps: int = 0
    transitions: int = 0
    initial_left: int = 0
    debt: float = 0.0

    @property
    def owed(self) -> int:
        """Whole updates to be paid now."""
        return self.initial_left if self.stage == INITIAL else int(self.debt)

    def credit(self, steps: int, transitions: int) -> None:
        """Count one new episode. Ends the warm-up when there is enough."""
        self.episodes += 1
        self.steps += steps
        self.transitions += transitions
        if self.stage != WARMUP:
            due = min(transitions * self.config.updates_per_transition, self.config.max_updates_per_episode)
            self.debt = min(self.debt + due, float(self.config.max_debt))
        elif (
            self.episodes >= self.config.warmup_episodes
            and self.steps >= self.config.warmup_steps
            and self.transitions >= self.config.min_transitions
        ):
            self.stage = INITIAL if self.config.initial_updates else ONLINE
            self.initial_left = self.config.initial_updates

    def grant(self, updates: int) -> None:
        """Owe so many more, beyond what the data allows. Raises ValueError in warm-up: nothing is learned there."""
        if self.stage == WARMUP:
            raise ValueError("the warm-up is not over: nothing can be learned yet")
        self.debt += updates

    def pay(self) -> None:
        """Count one update. Raises ValueError when none is owed."""
        if self.owed < 1:
            raise ValueError("an update without a debt")
        if self.stage == INITIAL:
            self.initial_left -= 1
            if self.initial_left == 0:
                self.stage = ONLINE
        else:
            self.debt -= 1.0

    def state(self) -> dict[str, Any]:
        """Everything but the configuration, for a checkpoint."""
        return {name: value for name, value in asdict(self).items() if name != "config"}

    def restore(self, state: dict[str, Any]) -> None:
        """Take :meth:`state` back."""
        for name in self.state():
            setattr(self, name, type(getattr(self, name))(state[name]))
