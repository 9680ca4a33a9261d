"""The parameters of the graph's nodes that decide what is computed, for the same algorithm in one process.

They come from where the nodes have them: the dataclasses' defaults, and what the task file says under `nodes`. A key
that the in-process loop would not honour is an error, so that no setting is silently lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlt_common.config import TaskConfig
from rlt_common.parameters import ParameterError, from_mapping
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.budget import BudgetConfig
from rlt_rl_node.learner import LearnerConfig
from rlt_sim.lockstep import GATE_STEPS
from rlt_sim.operator import OperatorConfig
from rlt_vla_node.encoding import EncodingConfig

HONOURED: Mapping[str, tuple[str, ...]] = {
    "sim_robot": ("gate_steps",),
    "scripted_operator": ("operator",),
    "vla": ("flow_steps", "group_size"),
    "rl_learner": ("agent", "budget", "replay_capacity", "demonstrations"),
}


@dataclass(frozen=True)
class Settings:
    """Parameters of simulator gate, scripted operator, VLA node and learner."""

    run_seed: int
    gate_steps: int
    operator: OperatorConfig
    encoding: EncodingConfig
    learner: LearnerConfig


def settings(
    task: TaskConfig,
    run_seed: int,
    agent: Mapping[str, Any] | None = None,
    budget: Mapping[str, Any] | None = None,
    demonstrations: int | None = None,
) -> Settings:
    """The settings of a task; `agent`, `budget` and `demonstrations` override single values. Raises ParameterError."""
    for node, values in task.nodes.items():
        lost = sorted(set(values) - set(HONOURED.get(node, ())))
        if lost:
            raise ParameterError(
                f"task {task.name}: nodes: {node}: {lost[0]!r} has no effect in process: use the graph"
            )
    nodes = {name: task.nodes.get(name, {}) for name in HONOURED}
    learner = nodes["rl_learner"]
    if demonstrations is not None:
        learner = {**learner, "demonstrations": demonstrations}
    where = f"task {task.name}: nodes"
    return Settings(
        run_seed=run_seed,
        gate_steps=int(nodes["sim_robot"].get("gate_steps", GATE_STEPS)),
        operator=from_mapping(
            OperatorConfig, nodes["scripted_operator"].get("operator", {}), f"{where}: scripted_operator: operator"
        ),
        encoding=from_mapping(EncodingConfig, {**nodes["vla"], "run_seed": run_seed}, f"{where}: vla"),
        learner=LearnerConfig(
            seed=run_seed,
            **{key: learner[key] for key in ("replay_capacity", "demonstrations") if key in learner},
            agent=from_mapping(AgentConfig, {**learner.get("agent", {}), **(agent or {})}, f"{where}: agent"),
            budget=from_mapping(BudgetConfig, {**learner.get("budget", {}), **(budget or {})}, f"{where}: budget"),
        ),
    )
