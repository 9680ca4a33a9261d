"""One experiment: what is trained and how it is evaluated, as data; and stages whose results are kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rlt_bringup.demo import EVALUATION_SEEDS, SEED_STRIDE, TRAIN_SEEDS
from rlt_bringup.report import source_commit
from rlt_common.atomic import write_atomic
from rlt_common.config import CurriculumStage, TaskConfig
from rlt_common.parameters import ParameterError, param, validate
from rlt_common.reading import read_json
from rlt_vla_node.state_encoder import STATE_ENCODERS

SELECTION_SEEDS = 800_000
"""Reset seeds on which a checkpoint is chosen: disjoint from those of training and of the evaluation."""
SELECTION_EPISODE_ID = 1_000_000
"""Episode ids of a selection start here: flow noise is seeded by them, and no other episode has the same."""
AS_TASK = -1
LATER = ("robot_minutes", "critical_episodes", "demonstrations")
"""Fields that came when there were kept results already."""
MAX_EPISODES = SELECTION_SEEDS - TRAIN_SEEDS


@dataclass(frozen=True)
class Experiment:
    """What differs from the task file, and how much of everything."""

    name: str = param("full", "names the results: letters, digits, '-', '_'")
    task: str = param("screw", "task name (config/tasks/<task>.yaml of rlt_bringup) or path of a task file")
    seed: int = param(0, "run seed: resets, noise, initial weights; its VLA was adapted with it", minimum=0)
    training_episodes: int = param(100, "at most, warm-up included", minimum=1, maximum=MAX_EPISODES)
    robot_minutes: float = param(
        0.0,
        "robot data at most: time of the training episodes' critical phases, warm-up included; 0: no limit",
        minimum=0.0,
    )
    evaluation_episodes: int = param(50, "held-out resets, the same for every policy", minimum=1, maximum=MAX_EPISODES)
    execute_steps: tuple[int, ...] = param((10, 20), "rows that the base VLA executes, one evaluation each")
    state_encoder: str = param("rl_token", "what the RL state holds beside proprioception", choices=STATE_ENCODERS)
    chunk_length: int = param(0, "C; 0: as the task says", minimum=0)
    stride: int = param(0, "control steps between observations; 0: as the task says", minimum=0)
    critical_episodes: int = param(
        0, "curriculum: training episodes that start in the critical phase, before all others start in BASE", minimum=0
    )
    demonstrations: int = param(AS_TASK, "with which the replay begins; -1: as the task says", minimum=AS_TASK)
    checkpoints: int = param(
        1, "actors to choose from: the last one and those before it at distances of checkpoint_every", minimum=1
    )
    checkpoint_every: int = param(10, "training episodes between two of them", minimum=1)
    selection_episodes: int = param(50, "resets on which they are compared", minimum=1, maximum=MAX_EPISODES)
    agent: Mapping[str, Any] = field(default_factory=dict)
    """Values of AgentConfig that differ from the task's."""
    budget: Mapping[str, Any] = field(default_factory=dict)
    """Values of BudgetConfig that differ from the task's."""

    def __post_init__(self) -> None:
        validate(self)
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ParameterError(f"experiment name {self.name!r}: use letters, digits, '-' and '_' only")
        if not self.execute_steps:
            raise ParameterError("execute_steps is empty: the base VLA needs at least one")

    def task_of(self, task: TaskConfig) -> TaskConfig:
        """The task with this experiment's chunk length, stride and curriculum. Raises ParameterError."""
        curriculum = task.curriculum
        if self.critical_episodes:
            curriculum = (CurriculumStage("critical", self.critical_episodes), CurriculumStage("full"))
        return replace(
            task,
            chunk_length=self.chunk_length or task.chunk_length,
            stride=self.stride or task.stride,
            curriculum=curriculum,
        )

    def first_seed(self, offset: int) -> int:
        """First reset seed of a kind: TRAIN_SEEDS, SELECTION_SEEDS or EVALUATION_SEEDS."""
        return self.seed * SEED_STRIDE + offset

    @property
    def reset_seeds(self) -> dict[str, int]:
        """For a report."""
        return {
            "run": self.seed,
            "training_resets": self.first_seed(TRAIN_SEEDS),
            "selection_resets": self.first_seed(SELECTION_SEEDS),
            "evaluation_resets": self.first_seed(EVALUATION_SEEDS),
        }

    def robot_steps(self, control_hz: float) -> float:
        """Control steps of robot data that fit into `robot_minutes`; infinite without a limit."""
        return round(self.robot_minutes * 60.0 * control_hz) if self.robot_minutes else math.inf

    def candidates(self, end: int) -> list[int]:
        """After how many training episodes an actor is kept, when training ended after `end` of them."""
        ends = range(end, 0, -self.checkpoint_every)
        return sorted(ends[: self.checkpoints])


def kept(path: Path, facts: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The result in `path`, made by `work` when it is not there yet; commit, wall and CPU time (s) are added.

    Raises ParameterError when `path` holds the result of other `facts` (plain JSON values).
    """
    facts = json.loads(json.dumps(facts))
    if path.exists():
        found = read_json(path)
        if found["facts"] != facts:
            different = sorted(k for k in {*facts, *found["facts"]} if facts.get(k) != found["facts"].get(k))
            raise ParameterError(
                f"{path} was made with another {', '.join(different)}: remove it, or give the experiment another name"
            )
        return found
    start, cpu_start = time.monotonic(), time.process_time()
    commit = source_commit(Path(__file__).resolve().parent)
    result = {"facts": facts, "commit": commit, **work()}
    result["seconds"], result["cpu_seconds"] = time.monotonic() - start, time.process_time() - cpu_start
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(result) + "\n").encode())
    return read_json(path)


def plain(experiment: Experiment) -> dict[str, Any]:
    """As JSON holds it, without the fields of LATER that have their default: older results do not know them."""
    values = asdict(experiment)
    default = {f.name: f.default for f in fields(Experiment) if f.name in LATER}
    return {name: value for name, value in values.items() if name not in default or value != default[name]}
