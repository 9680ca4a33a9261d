"""Whether a VLA is fast enough for a task on a robot's timer, and how far ahead chunks have to be asked for. Pure.

A chunk has `prefetch_steps` to come, from the stamp of its observation on. Meanwhile the VLA must also encode the
strided observations between two boundaries, or they pile up until the episode ends. A group of them cannot be
interrupted, so while the arms move one is begun only where it keeps no chunk waiting for longer than that has.
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


def group_time(robot: RobotConfig, task: TaskConfig, boundary_s: float, age_s: float = 0.0) -> float:
    """How long a group of strided observations may take, s, that is begun as soon as a chunk is made."""
    period = min(task.chunk_length, task.execute_steps) / robot.control_hz
    spare = task.prefetch_steps / robot.control_hz - age_s - boundary_s - TRANSPORT_S
    return period - boundary_s + max(0.0, spare)


def judge(
    robot: RobotConfig,
    task: TaskConfig,
    boundary_s: float,
    strided_s: float = 0.0,
    age_s: float = 0.0,
    group_size: int = 1,
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
    free = group_time(robot, task, boundary_s, age_s)
    if strided_s and group_size * strided_s > free and boundary_s <= period:
        most = int(free / strided_s)
        notes.append(
            f"a group of {group_size} strided observations takes {group_size * strided_s * 1e3:.0f} ms, and between "
            f"two chunks there are {max(0.0, free) * 1e3:.0f} ms: they are encoded after the episode"
            + (f"; group_size: {most} of the VLA node would fit" if most else "")
        )
    return Verdict(boundary_s, strided_s, needed, age_s, tuple(problems), tuple(notes))


@dataclass
class LatencyWatch:
    """Keeps the last durations of a running VLA and judges them."""

    robot: RobotConfig
    task: TaskConfig
    group_size: int = 1
    _begun_s: float | None = None
    _groups: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
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

    def on_group(self, seconds: float) -> None:
        """A group took so long."""
        self._groups.append(seconds)

    def begin_boundary(self, now_s: float) -> None:
        """A boundary observation is begun with at monotonic time `now_s`."""
        self._begun_s = now_s

    def may_encode(self, now_s: float) -> bool:
        """Whether a group that is begun while the arms move lets the next chunk be there in time.

        Of a group that was never timed the worst is expected: one observation after the other. Where nobody asks for
        chunks any more, because a person drives, it may.
        """
        verdict = self.verdict()
        if verdict is None or self._begun_s is None:
            return True
        since = now_s - self._begun_s
        if since > 2 * max(self.task.chunk_length, self.task.execute_steps) / self.robot.control_hz:
            return True
        takes = float(np.quantile(self._groups, QUANTILE)) if self._groups else self.group_size * verdict.boundary_s
        return since - verdict.boundary_s + takes <= group_time(
            self.robot, self.task, verdict.boundary_s, verdict.age_s
        )

    def verdict(self) -> Verdict | None:
        """None on a simulator that waits, and before LEAST boundaries."""
        if self.robot.tick != "timer" or len(self._boundaries) < LEAST:
            return None
        strided = float(np.mean(self._strided)) if self._strided else 0.0
        age = float(np.quantile(self._ages, QUANTILE)) if self._ages else 0.0
        boundary = float(np.quantile(self._boundaries, QUANTILE))
        return judge(self.robot, self.task, boundary, strided, age, self.group_size)
