"""Which action chunk is in play, which row of it is due, and when to ask for the next one. Pure.

A chunk belongs to the control step t of its observation, the first one whose robot state is no older than that: its row
0 is played at t + d. In lockstep the observation is of the very state of the request. On a robot's timer observations
come on a grid of their own, so t is only known with the answer. The next observation is asked for half a stride before
the control step at which it is due, since stamps jitter; where it belongs to an earlier step, its chunk takes over
earlier, and where to a later one, the arms hold until then. Chunks that are anchored to what will be commanded when all
rows before them have been played are asked for no earlier than they are due.

A chunk that was asked for ahead waits until its first step is due; until then the one in play is played on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
        lockstep: there is an observation at every multiple of `stride`, with the stamp of that step's robot state.
    """

    def __init__(
        self,
        dim: int,
        arm_names: tuple[str, ...],
        stride: int,
        prefetch_steps: int,
        request_retry_s: float,
        lockstep: bool = False,
    ) -> None:
        self._dim = dim
        self._arm_names = arm_names
        self._stride = stride
        self._prefetch_steps = prefetch_steps
        self._request_retry_s = request_retry_s
        self._lockstep = lockstep
        self._request_sent_s = 0.0
        self._request: Request | None = None
        self._stamps: list[tuple[int, int]] = []  # control steps since the request, and stamps of their robot states
        self._answer: Chunk | None = None  # taken, its observation newer than any of these
        self._next: Chunk | None = None
        self.chunk: Chunk | None = None

    def drop(self) -> None:
        """Forget the chunk in play and the one that waits; a request under way stays open."""
        self.chunk = self._next = self._answer = None

    def flush(self) -> None:
        """Forget chunks and the request under way: whatever comes next is asked for anew."""
        self.drop()
        self._request = None
        self._stamps = []

    def offer(self, chunk: Chunk, episode: Episode | None, step: int) -> Refusal | None:
        """Take a chunk for `episode` at control step `step`, or say why not.

        A broken chunk of the running episode and epoch ends the one in play as well: its maker is not to be trusted.
        The request stays open, so it is repeated in its time.
        """
        refusal = self._refusal(chunk, episode, step)
        if refusal is None:
            self._answer, self._request = chunk, None
            self._place_answer()
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

        To be called in every control step in which chunks are played, before `row`: it tells observations' steps.

        `anchor` says what will be commanded (d,) once the rows (n, d) before the chunk's first have been played.
        """
        not_before_ns = self._note(step, state.stamp_ns)
        self._place_answer()
        if self._answer is not None:
            return None
        if self._request is not None and step >= self._request.first_step + self._request.rows:
            self._request = None
        if self._request is not None:
            if now_s - self._request_sent_s < self._request_retry_s:
                return None
            self._request_sent_s = now_s
            return self._request
        last = self._next or self.chunk
        end = last.first_step + len(last.actions) if last else step
        boundary = max(end - self._prefetch_steps, step)
        if self._lockstep:
            if step < boundary or step % self._stride:
                return None
        elif step < boundary - (0 if self._next is not None or (last and last.anchored) else self._stride // 2):
            return None
        self._request_sent_s = now_s
        self._stamps = self._stamps[-1:]
        self._request = Request(
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            # Unique within a run even when the executor was restarted in the middle of an episode.
            request_id=((episode.episode_id & 0xFFFFFF) << 40) | ((episode.epoch & 0xFFFF) << 24) | (step & 0xFFFFFF),
            stamp_ns=state.stamp_ns,
            not_before_ns=not_before_ns,
            boundary_step=boundary,
            first_step=boundary + self._prefetch_steps,
            rows=episode.rows,
            anchor=anchor(self._planned(step, boundary + self._prefetch_steps)),
        )
        return self._request

    def _note(self, step: int, stamp_ns: int) -> int:
        """Note the stamp of a control step's robot state. Returns the least stamp that belongs to no step before it."""
        if self._stamps and self._stamps[-1][0] == step:
            self._stamps.pop()
        before, before_ns = self._stamps[-1] if self._stamps else (-1, 0)
        self._stamps.append((step, stamp_ns))
        if self._lockstep or step == 0 or before_ns > stamp_ns:
            return stamp_ns
        # A step that is not known may have had this very state: a robot's states may be fewer than the ticks.
        return (before_ns if before == step - 1 else stamp_ns) + 1

    def _first_step(self, chunk: Chunk) -> int | None:
        """The control step of row 0; None while the chunk's observation is newer than every robot state so far."""
        belongs_to = next((step for step, stamp_ns in self._stamps if stamp_ns >= chunk.observation_stamp_ns), None)
        return None if belongs_to is None else belongs_to + self._prefetch_steps

    def _place_answer(self) -> None:
        """Let the chunk that was taken wait for its turn, as soon as that is known."""
        if self._answer is not None and (first := self._first_step(self._answer)) is not None:
            self._next, self._answer = replace(self._answer, first_step=first), None

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
        asked = self._request
        mine = asked is not None and (chunk.chunk_id, chunk.first_step) == (asked.request_id, asked.first_step)
        first = self._first_step(chunk) if mine else chunk.first_step
        if first is not None and first + shape[0] <= step:
            return Refusal(f"chunk ends at step {first + shape[0]}, the robot is at {step}", broken=False)
        if not mine:
            wanted = f"request {asked.request_id} is for step {asked.first_step}" if asked else "no request is open"
            return Refusal(f"chunk {chunk.chunk_id} for step {chunk.first_step}: {wanted}", broken=False)
        return None
