"""Parameters of the learner node, and which robots it practises with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from rlt_common.parameters import ParameterError, param, validate
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.budget import BudgetConfig
from rlt_rl_node.learner import LearnerConfig

_NAMESPACE = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class LearnerParameters:
    """Parameters of the learner node; what decides the learning itself is in `agent` and `budget`."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    run_directory: str = param(
        description="where encodings, checkpoints and metrics lie; episodes too, unless robots is given"
    )
    vla_checkpoint: str = param(description="folder of the frozen VLA and RL token")
    robots: tuple[str, ...] = param(
        (),
        "namespaces of the robots that practise for this learner, each with the same robot file, task and VLA; empty: "
        "the learner's own namespace",
    )
    run_directories: tuple[str, ...] = param(
        (),
        "run directory of each of robots, where its episodes lie; an empty one: not on this machine; none at all: not "
        "one is",
    )
    run_seed: int = param(0, "of initial weights, batches and noise", minimum=0, maximum=2**31 - 1)
    freeze: bool = param(False, "learn nothing: publish the actor of a checkpoint (evaluation, deployment)")
    checkpoint: str = param("", "checkpoint folder to start from; empty: the newest of the run")
    checkpoint_every: int = param(10, "episodes between checkpoints", minimum=1, maximum=100_000)
    keep_checkpoints: int = param(3, "automatic checkpoints kept", minimum=1, maximum=1000)
    publish_every: int = param(100, "updates between actors on a robot", minimum=1, maximum=1_000_000)
    niceness: int = param(
        10, "on a robot: how far the process stands back behind those that move the arms (nice)", minimum=0, maximum=19
    )
    slice_s: float = param(0.05, "s of updates between callbacks", minimum=0.001, maximum=1.0)
    assembly_timeout_s: float = param(
        3.0, "s after a label before missing parts are looked for in the journal", minimum=0.1, maximum=600.0
    )
    replay_capacity: int = param(500_000, "transitions", minimum=1000, maximum=10_000_000)
    demonstrations: int = param(
        60,
        "demonstrations in <vla_checkpoint>/demonstrations whose critical phases the replay begins with; 0: none",
        minimum=0,
        maximum=100_000,
    )
    agent: AgentConfig = field(default_factory=AgentConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        validate(self)

    def learning(self) -> LearnerConfig:
        """What decides what is learned."""
        return LearnerConfig(
            seed=self.run_seed,
            replay_capacity=self.replay_capacity,
            demonstrations=self.demonstrations,
            agent=self.agent,
            budget=self.budget,
        )

    def robot_runs(self, namespace: str) -> dict[str, Path | None]:
        """Run directory of each robot, by its namespace without the leading slash; "": the learner's own.

        `namespace`: the learner's, to which relative names belong. Raises ParameterError for names that are none, a
        robot or a run directory given twice, and lists that do not fit.
        """
        if not self.robots:
            if self.run_directories:
                raise ParameterError("rl_learner: run_directories without robots: give the namespaces too")
            return {"": Path(self.run_directory)}
        names = []
        for given in self.robots:
            if not _NAMESPACE.fullmatch(given):
                raise ParameterError(f"rl_learner: robots: {given!r} is no namespace: letters, digits, _ and / between")
            whole = given if given.startswith("/") else f"{namespace.rstrip('/')}/{given}"
            names.append(whole.strip("/"))
        folders = self.run_directories or ("",) * len(names)
        if len(folders) != len(names):
            raise ParameterError(
                f"rl_learner: {len(names)} robots and {len(folders)} run_directories: one each, in the same order"
            )
        there = [str(Path(folder).resolve()) for folder in folders if folder]
        for what, items in (("robots", names), ("run_directories", there)):
            if twice := sorted({item for item in items if items.count(item) > 1}):
                raise ParameterError(f"rl_learner: {what}: {twice[0]!r} is given twice: every robot has its own")
        return {name: Path(folder) if folder else None for name, folder in zip(names, folders, strict=True)}
