"""Which action chunk is in play, which row of it is due, and when to ask for the next one. Pure.

A chunk that was asked for ahead waits until its first step is due; until then the one in play is played to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlt_control.records import Chunk, Episode, Request, RobotState, Source


@dataclass(frozen=True)
class Refusal:
    """Why a chunk was not taken. `broken`: it was meant for now and cannot be trusted; else it is only out of date."""

    reason: str
    broken: bool


class ChunkPlay:
    """The chunk in play and the request for the next one.

    Args:
        dim: d, length of an action.
        arm_names: the arms in the order of the action; a chunk that names others, or none, is refused.
        stride: control steps between observations; chunks start on multiples of it.
        prefetch_steps: control steps between an observation and row 0 of its chunk.
        request_retry_s: an unanswered request is sent again after this time.
    """

    def __init__(
        self, dim: int, arm_names: tuple[str, ...], stride: int, prefetch_steps: int, request_retry_s: float
    ) -> None:
        self._dim = dim
        self._arm_names = arm_names
        self._stride = stride
        self._prefetch_steps = prefetch_steps
        self._request_retry_s = request_retry_s
        self._request_sent_s = 0.0
        self._request: Request | None = None
        self._next: Chunk | None = None
        self.chunk: Chunk | None = None

    def drop(self) -> None:
        """Forget the chunk in play and the one that waits; a request under way stays open."""
        self.chunk = self._next = None

    def flush(self) -> None:
        """Forget chunks and the request under way: whatever comes next is asked for anew."""
        self.drop()
        self._request = None

    def offer(self, chunk: Chunk, episode: Episode | None, step: int) -> Refusal | None:
        """Take a chunk for `episode` at control step `step`, or say why not.

        A broken chunk of the running episode and epoch ends the one in play as well: its maker is not to be trusted.
        The request stays open, so it is repeated in its time.
        """
        refusal = self._refusal(chunk, episode, step)
        if refusal is None:
            self._next, self._request = chunk, None
        elif refusal.broken:
            self.drop()
        return refusal

    def row(self, step: int) -> int | None:
        """The row of `chunk` that is due at `step`; None when there is none."""
        if self._next is not None and step >= self._next.first_step:
            self.chunk, self._next = self._next, None
        if self.chunk is None:
            return None
        row = step - self.chunk.first_step
        return row if 0 <= row < len(self.chunk.actions) else None

    def next_request(
        self,
        episode: Episode,
        step: int,
        state: RobotState,
        now_s: float,
        anchor: Callable[[np.ndarray], np.ndarray | None] = lambda planned: None,
    ) -> Request | None:
        """The request to send now, if any; one without an answer is repeated under its own id.

        Once the steps that it asked for have all passed, no answer to it could be played: it is asked anew.

        `anchor` says what will be commanded (d,) once the rows (n, d) before the chunk's first have been played.
        """
        if self._request is not None and step >= self._request.first_step + self._request.rows:
            self._request = None
        if self._request is not None:
            if now_s - self._request_sent_s < self._request_retry_s:
                return None
            self._request_sent_s = now_s
            return self._request
        last = self._next or self.chunk
        end = last.first_step + len(last.actions) if last else step
        first = max(end, step + self._prefetch_steps)
        if step < first - self._prefetch_steps or step % self._stride:
            return None
        self._request_sent_s = now_s
        self._request = Request(
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            # Unique within a run even when the executor was restarted in the middle of an episode.
            request_id=((episode.episode_id & 0xFFFFFF) << 40) | ((episode.epoch & 0xFFFF) << 24) | (step & 0xFFFFFF),
            not_before_ns=state.stamp_ns,
            boundary_step=step,
            first_step=step + self._prefetch_steps,
            rows=episode.rows,
            anchor=anchor(self._planned(step, step + self._prefetch_steps)),
        )
        return self._request

    def _planned(self, step: int, end: int) -> np.ndarray:
        """(n, d) rows of the chunks at hand for control steps `step` to `end`; zeros where there are none."""
        rows = np.zeros((end - step, self._dim))
        for chunk in (self.chunk, self._next):
            if chunk is not None:
                first, last = max(step, chunk.first_step), min(end, chunk.first_step + len(chunk.actions))
                if first < last:
                    rows[first - step : last - step] = chunk.actions[first - chunk.first_step : last - chunk.first_step]
        return rows

    def _refusal(self, chunk: Chunk, episode: Episode | None, step: int) -> Refusal | None:
        if episode is None or chunk.episode_id != episode.episode_id:
            current = episode.episode_id if episode else "none"
            return Refusal(f"chunk of episode {chunk.episode_id}, current is {current}", broken=False)
        if chunk.epoch != episode.epoch:
            return Refusal(f"chunk of epoch {chunk.epoch}, current is {episode.epoch}", broken=False)
        shape = chunk.actions.shape
        if chunk.arm_names != self._arm_names:
            return Refusal(f"chunk for arms {list(chunk.arm_names)}, expected {list(self._arm_names)}", broken=True)
        if len(shape) != 2 or shape[1] != self._dim or shape[0] == 0 or chunk.reference.shape != shape:
            reason = f"chunk of shape {shape} with reference {chunk.reference.shape}, expected (rows, {self._dim})"
            return Refusal(reason, broken=True)
        if not (np.isfinite(chunk.actions).all() and np.isfinite(chunk.reference).all()):
            return Refusal("chunk holds a value that is not finite", broken=True)
        if chunk.source not in (Source.VLA, Source.RL):
            return Refusal(f"chunk names source {chunk.source}", broken=True)
        if chunk.first_step + shape[0] <= step:
            return Refusal(f"chunk ends at step {chunk.first_step + shape[0]}, the robot is at {step}", broken=False)
        asked = self._request
        if asked is None or (chunk.chunk_id, chunk.first_step) != (asked.request_id, asked.first_step):
            wanted = f"request {asked.request_id} is for step {asked.first_step}" if asked else "no request is open"
            return Refusal(f"chunk {chunk.chunk_id} for step {chunk.first_step}: {wanted}", broken=False)
        return None
