"""What one episode's file says about control: who drove, holds, limits, how even the steps came, what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlt_common import topics
from rlt_common.episode_file import Entry, read_messages
from rlt_common.health import ERROR
from rlt_msgs.msg import EpisodeState, ExecutedAction

READ = (topics.EXECUTED_ACTION, topics.EPISODE_STATE, topics.RECORDED_DIAGNOSTICS, topics.DIAGNOSTICS)
MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)
COUNTERS = ("missed_ticks", "dropped_chunks", "clamped_ticks", "dropped_requests", "dropped_observations")
"""Values of diagnostics whose rise within an episode is a fault."""
HOLDING = "holding: "


@dataclass
class EpisodeScan:
    """One episode. Steps are control steps of BASE and CRITICAL."""

    steps: int = 0
    human: int = 0
    held: int = 0
    critical: int = 0
    critical_human: int = 0
    critical_held: int = 0
    clamped: int = 0
    """Steps in which a limit changed the command."""
    takeovers: int = 0
    holds: int = 0
    """Stretches of steps without an action."""
    longest_hold: int = 0
    dry_run: bool = False
    estop: str = ""
    """Why it was stopped; empty: it was not."""
    uneven_ms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Of each two steps that follow each other: how far their stamps are from one period apart, ms."""
    delay_ms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Of each step with a chunk: age of the observation behind it, ms."""
    has_diagnostics: bool = False
    late_p99_ms: float = 0.0
    late_max_ms: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    """"node: counter" -> its rise within the episode."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why the arms held, in the executor's words -> words of diagnostics that said so."""
    errors: Counter[str] = field(default_factory=Counter)
    """"node: message" of diagnostics of level ERROR -> words that said so."""
    restarts: Counter[str] = field(default_factory=Counter)
    """Nodes whose counters began anew within the episode."""


def control_hz(path: Path) -> float | None:
    """Control steps per second, by the stamps of a file's first steps; None without two that follow each other.

    Raises EpisodeFileError.
    """
    found = []
    for entry in read_messages(path, (topics.EXECUTED_ACTION,)):
        found.append(_stamp_ms(entry.message))
        if len(found) == 200:
            break
    apart = np.diff(found)
    if not len(apart) or np.median(apart) <= 0:
        return None
    hz = 1e3 / float(np.median(apart))
    return float(round(hz)) if abs(hz - round(hz)) < 0.01 * hz else round(hz, 1)  # stamps of a robot are not even


def scan(path: Path, control_hz: float) -> EpisodeScan:
    """Read a file. Raises EpisodeFileError."""
    return scan_messages(read_messages(path, READ), control_hz)


def scan_messages(entries: Iterable[Entry], control_hz: float) -> EpisodeScan:
    """The same of messages in log order."""
    found, executed, seen = EpisodeScan(), [], {}
    for entry in entries:
        if entry.topic == topics.EXECUTED_ACTION:
            executed.append(entry.message)
        elif entry.topic == topics.EPISODE_STATE:
            if entry.message.phase == EpisodeState.PHASE_ESTOP or "emergency stop" in entry.message.reason.lower():
                found.estop = entry.message.reason or "no reason given"
        else:
            for status in entry.message.status:
                _diagnostics(found, status, seen)
    _steps(found, [message for message in executed if message.phase in MOVING], 1e3 / control_hz)
    return found


def _steps(found: EpisodeScan, executed: list[ExecutedAction], period_ms: float) -> None:
    if not executed:
        return
    source = np.array([message.source for message in executed])
    critical = np.array([message.phase == EpisodeState.PHASE_CRITICAL for message in executed])
    human, held = source == ExecutedAction.SOURCE_HUMAN, source == ExecutedAction.SOURCE_HOLD
    found.steps, found.critical = len(executed), int(critical.sum())
    found.human, found.held = int(human.sum()), int(held.sum())
    found.critical_human, found.critical_held = int((human & critical).sum()), int((held & critical).sum())
    found.clamped = sum(any(message.clamped) for message in executed)
    found.takeovers, _ = _stretches(human)
    found.holds, found.longest_hold = _stretches(held)
    found.dry_run = any(message.dry_run for message in executed)
    stamps = np.array([_stamp_ms(message) for message in executed])
    follow = np.diff([message.step for message in executed]) == 1
    found.uneven_ms = np.abs(np.diff(stamps)[follow] - period_ms)
    found.delay_ms = np.array([1e3 * message.delay_s for message in executed if message.chunk_id])


def _stretches(flags: np.ndarray) -> tuple[int, int]:
    """How many stretches of true values there are, and the length of the longest."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    lengths = edges[1::2] - edges[::2]
    return len(lengths), int(lengths.max(initial=0))


def _diagnostics(found: EpisodeScan, status: Any, seen: dict[tuple[str, str], float]) -> None:
    found.has_diagnostics = True
    values = {value.key: value.value for value in status.values}
    if status.level == ERROR:
        found.errors[f"{status.name}: {status.message}"] += 1
    for key in ("ticks", *COUNTERS):
        if (number := _number(values.get(key))) is None:
            continue
        before = seen.get((status.name, key), number)
        if number < before:
            if key == "ticks":
                found.restarts[status.name] += 1
        elif number > before and key != "ticks":
            found.counts[f"{status.name}: {key.replace('_', ' ')}"] += int(number - before)
        seen[status.name, key] = number
    if "late_p99_ms" in values:
        found.late_p99_ms = max(found.late_p99_ms, _number(values["late_p99_ms"]) or 0.0)
        found.late_max_ms = max(found.late_max_ms, _number(values.get("late_max_ms")) or 0.0)
        if status.message.startswith(HOLDING):
            found.reasons[status.message.removeprefix(HOLDING)] += 1


def _stamp_ms(message: ExecutedAction) -> float:
    return message.header.stamp.sec * 1e3 + message.header.stamp.nanosec / 1e6


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
