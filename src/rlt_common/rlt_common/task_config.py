"""A task file as frozen, validated dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlt_common.parameters import ParameterError, param, validate
from rlt_common.robot_config import BLOCKS


@dataclass(frozen=True)
class CurriculumStage:
    """One stage of the curriculum of training episodes (Sec. V)."""

    start_in: str = param(description="where its episodes start", choices=("full", "critical"))
    episodes: int = param(0, "training episodes of this stage; 0, in the last stage only: all that follow", minimum=0)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class TaskConfig:
    """A task: chunk sizes, time-outs, which proprioception goes where, and parameters of single nodes."""

    name: str = param(description="task name")
    instruction: str = param(description="language instruction for VLAs that take one")
    vla_state: tuple[str, ...] = param(description="proprioception blocks the VLA takes")
    rl_state: tuple[str, ...] = param(description="proprioception blocks of the RL state x = (z_rl, s^p), Sec. IV-B")
    max_base_steps: int = param(description="control steps, time-out of the BASE phase", minimum=1, maximum=1_000_000)
    max_critical_steps: int = param(
        description="control steps, time-out of the CRITICAL phase", minimum=1, maximum=1_000_000
    )
    horizon: int = param(50, "H, rows of a reference chunk (1 s at 50 Hz)", minimum=1, maximum=1000)
    chunk_length: int = param(10, "C, rows of an RL chunk (App. B)", minimum=1, maximum=1000)
    stride: int = param(2, "control steps between observations (App. B)", minimum=1, maximum=100)
    execute_steps: int = param(10, "rows executed before replanning while the VLA drives", minimum=1, maximum=1000)
    prefetch_steps: int = param(
        0, "d, control steps between an observation and row 0 of its chunk", minimum=0, maximum=1000
    )
    start_in: str = param("full", "where episodes start that do not say it themselves", choices=("full", "critical"))
    curriculum: tuple[CurriculumStage, ...] = param(
        (), "stages of the training episodes, in order, in place of start_in; empty: no curriculum"
    )
    handoff_outputs: int = param(
        1,
        "boundary outputs in a row that must call for the hand-off before it is automatic",
        minimum=1,
        maximum=100,
    )
    nodes: Mapping[str, Any] = field(default_factory=dict)
    """Node or command -> its parameters, nested or dotted."""
    simulation: Mapping[str, Any] = field(default_factory=dict)
    """The simulated cell's own keys (docs/simulation.md)."""

    def __post_init__(self) -> None:
        validate(self)
        for name in (*self.vla_state, *self.rl_state):
            if name not in BLOCKS:
                raise ParameterError(
                    f"task {self.name}: unknown proprioception block {name!r}; known: {', '.join(BLOCKS)}"
                )
        for name in ("chunk_length", "execute_steps", "prefetch_steps"):
            if getattr(self, name) % self.stride:
                raise ParameterError(f"task {self.name}: {name} must be a multiple of stride {self.stride}")
        for name in ("chunk_length", "execute_steps"):
            if getattr(self, name) + self.prefetch_steps > self.horizon:
                raise ParameterError(
                    f"task {self.name}: {name} + prefetch_steps must fit into the horizon {self.horizon}"
                )
        *stages, last = self.curriculum or (None,)
        if any(stage.episodes == 0 for stage in stages) or (last is not None and last.episodes != 0):
            raise ParameterError(
                f"task {self.name}: curriculum: every stage but the last needs a number of episodes, and the last has "
                "none: it goes on to the end"
            )

    def training_start(self, episodes_done: int) -> str:
        """Where the next training episode starts, after `episodes_done` of the run: the curriculum stage."""
        for stage in self.curriculum:
            if episodes_done < stage.episodes or stage.episodes == 0:
                return stage.start_in
            episodes_done -= stage.episodes
        return self.start_in
