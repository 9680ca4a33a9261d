"""Whether a VLA is fast enough for a task on a robot's timer, and how far ahead chunks have to be asked for. Pure.

A chunk has `prefetch_steps` to come, from the stamp of its observation on. Meanwhile the VLA must also encode the
strided observations between two boundaries, or they pile up until the episode ends.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from rlt_common.config import RobotConfig, TaskConfig

TRANSPORT_S = 0.015
"""From request to chunk without the model: the 99th percentile of benchmarks/README.md (latency)."""
KEPT = 200
QUANTILE = 0.95
LEAST = 5
"""Boundaries before anything is said."""
ONE_CLOCK_S = 1.0
"""An observation that seems older than this, or not yet made, has a stamp of another clock: its age is not known."""


@dataclass(frozen=True)
class Verdict:
    """What a measured VLA means for a task.

    Attributes:
        boundary_s: QUANTILE of the time of a boundary observation, s.
        strided_s: mean time of a strided one, s; 0 before any.
        age_s: QUANTILE of the age at which a boundary observation was begun with, s; 0 where it is not known.
        prefetch_steps: control steps that a chunk has to be asked for ahead.
        problems: what does not fit, with what to change; empty when all does.
        notes: what to know all the same.
    """

    boundary_s: float
    strided_s: float
    prefetch_steps: int
    age_s: float = 0.0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(
    robot: RobotConfig, task: TaskConfig, boundary_s: float, strided_s: float = 0.0, age_s: float = 0.0
) -> Verdict:
    """The verdict on a VLA that takes so long, on a robot that ticks by a timer. Arguments as in Verdict."""
    needed = math.ceil((age_s + boundary_s + TRANSPORT_S) * robot.control_hz / task.stride) * task.stride
    rows = max(task.chunk_length, task.execute_steps)
    problems, notes = [], []
    if task.prefetch_steps < needed:
        fits = needed + rows <= task.horizon
        old = f" and observations are {age_s * 1e3:.0f} ms old before" if age_s else ""
        problems.append(
            f"a chunk takes {boundary_s * 1e3:.0f} ms{old}, asked for {task.prefetch_steps} steps ahead: "
            "the arms hold at every boundary"
            + (
                f"; set prefetch_steps: {needed} in the task file"
                if fits
                else f", and {needed} steps ahead leave no {rows} rows of horizon {task.horizon}: take a "
                "faster VLA (fewer flow_steps, compile, bfloat16, a GPU), a longer horizon, or a lower control rate"
            )
        )
    elif task.prefetch_steps >= needed + 2 * task.stride:
        notes.append(f"prefetch_steps: {needed} would be enough: the policy would act on newer observations")
    period = rows / robot.control_hz
    if boundary_s > period:
        problems.append(
            f"one boundary every {rows} steps is one in {period * 1e3:.0f} ms, and takes {boundary_s * 1e3:.0f} ms: "
            f"the least chunk that keeps up has {math.ceil(boundary_s * robot.control_hz)} rows"
        )
    behind = boundary_s + (task.chunk_length / task.stride - 1) * strided_s - task.chunk_length / robot.control_hz
    if strided_s and behind > 0 and boundary_s <= period:
        share = behind / (task.chunk_length / robot.control_hz)
        notes.append(
            f"strided observations take {strided_s * 1e3:.0f} ms each: after an episode they go on for {share:.0%} "
            "of its critical phase"
        )
    return Verdict(boundary_s, strided_s, needed, age_s, tuple(problems), tuple(notes))


@dataclass
class LatencyWatch:
    """Keeps the last durations of a running VLA and judges them."""

    robot: RobotConfig
    task: TaskConfig
    _boundaries: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _strided: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _ages: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def on_boundary(self, seconds: float) -> None:
        """A boundary observation took so long."""
        self._boundaries.append(seconds)

    def on_age(self, seconds: float) -> None:
        """A boundary observation was so old when it was begun with: camera, ingest and whatever it waited for."""
        if 0.0 <= seconds < ONE_CLOCK_S:
            self._ages.append(seconds)

    def on_strided(self, seconds: float) -> None:
        """A strided observation took so long, its share of the group's time."""
        self._strided.append(seconds)

    def verdict(self) -> Verdict | None:
        """None on a simulator that waits, and before LEAST boundaries."""
        if self.robot.tick != "timer" or len(self._boundaries) < LEAST:
            return None
        strided = float(np.mean(self._strided)) if self._strided else 0.0
        age = float(np.quantile(self._ages, QUANTILE)) if self._ages else 0.0
        return judge(self.robot, self.task, float(np.quantile(self._boundaries, QUANTILE)), strided, age)
