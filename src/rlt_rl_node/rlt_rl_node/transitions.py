"""From one episode to chunk transitions, exactly (Sec. V, "Subsampling Action Chunks", and Eq. 3).

Every encoded observation on the stride starts one transition, that is, each one that comes at least a stride after the
last such: where jitter on a robot moves an observation by a control step, the grid goes on from there. Chunk boundaries
and replans play no part in it.

A transition from the observation at control step s pairs

    x      the observation at s,
    a      the executed actions of steps s+d .. s+d+n-1,
    a~     rows d .. d+n-1 of that observation's OWN reference, overwritten by the human's action at human steps,
    r      the rewards of the same n steps; the only reward is +1 at an episode's last step when it was a success,
    x'     the observation at s+n, with its own reference, for the bootstrap gamma^n Q'(x', a').

n is C except where less is there:

- The episode ends inside the chunk. Success and failure are terminal: n runs to the end and nothing is bootstrapped.
  A time-out is not: n runs to the last encoded observation (with a delay, to the one whose actions would begin at the
  end), and that is x'. The VLA encodes only what lies before an executed step, so that the steps of a time-out from
  there on, at most as many as the stride, are in no transition.
- An observation at s+C is missing: n shrinks to the newest one at or before it, so that the bootstrap stays exact.
- A control step is missing: no chunk spans the gap.

- A human repositions the arms (`repositioning` in an executed action: a ramp onto a pose, no demonstration): no chunk
  holds such a step or bridges one, with the delay before it neither; where such steps end an episode, what was
  practised before them is not terminal, and no reward is theirs.

HOLD steps (the chunk was late, the arms stood still) are executed actions of zero like any other; their reference
rows stay the observation's own. HOLD steps at the very end are cut off: the arms waited for the label, the policy had
ended. A transition that consists of HOLD steps alone is left out, because no policy chose it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlt_rl_node.records import EpisodeData, Label, Source


@dataclass(frozen=True)
class TransitionTable:
    """Transitions of one episode as indices into its arrays."""

    encoding: np.ndarray  # (K,) int64, index of x among the encodings
    next_encoding: np.ndarray  # (K,) int64, index of x'; equal to `encoding` where terminal
    first_action: np.ndarray  # (K,) int64, index of the first of n consecutive steps
    length: np.ndarray  # (K,) int64, n, 1 to C
    terminal: np.ndarray  # (K,) bool, no bootstrap
    rewards: np.ndarray  # (N,) float32, per control step of the episode (not per transition)

    def __len__(self) -> int:
        return len(self.encoding)


def acting_steps(sources: np.ndarray) -> int:
    """How many steps remain when the HOLD steps at the end are cut off."""
    moving = np.flatnonzero(sources != Source.HOLD)
    return int(moving[-1]) + 1 if len(moving) else 0


def assemble(episode: EpisodeData, chunk_length: int, stride: int) -> TransitionTable:
    """All transitions of `episode` for chunks of `chunk_length` (C) rows, in order of their observation.

    Raises ValueError for a label that never enters the replay (none, discard) and when C or the delay does not fit
    the stride.
    """
    if not episode.label.trainable:
        raise ValueError(f"episode {episode.episode_id} is labelled {episode.label.name}: it has no transitions")
    if chunk_length % stride or episode.delay % stride:
        raise ValueError(f"C = {chunk_length} and d = {episode.delay} must be multiples of the stride {stride}")
    if episode.references.shape[1] < episode.delay + chunk_length and len(episode.encoded_steps):
        raise ValueError(
            f"references of {episode.references.shape[1]} rows do not cover d + C = {episode.delay + chunk_length}"
        )

    count = acting_steps(episode.sources)
    steps = episode.steps[:count]
    rewards = np.zeros(len(episode.steps), np.float32)
    if count and episode.label is Label.SUCCESS:
        rewards[count - 1] = 1.0

    rows: list[tuple[int, int, int, int, bool]] = []
    observed = episode.encoded_steps
    repositioned = np.concatenate([[0], np.cumsum(episode.sources[:count] == Source.REPOSITIONING)])
    run_ends = _run_ends(steps, repositioned)
    on_stride = -stride
    for i, start in enumerate(observed):
        if start - on_stride < stride:
            continue
        on_stride = start
        first = int(np.searchsorted(steps, start + episode.delay))
        if first == count or steps[first] != start + episode.delay:
            continue
        before = int(np.searchsorted(steps, start))
        if repositioned[first + 1] > repositioned[before]:
            continue
        available = int(min(chunk_length, run_ends[first] - first))
        terminal = episode.label.terminal and first + available == count
        following = i
        if not terminal:
            following = int(np.searchsorted(observed, start + available, side="right")) - 1
            available = int(observed[following] - start)
        if available > 0 and (episode.sources[first : first + available] != Source.HOLD).any():
            rows.append((i, following, first, available, terminal))

    table = np.array(rows, np.int64).reshape(-1, 5)
    return TransitionTable(
        encoding=table[:, 0],
        next_encoding=table[:, 1],
        first_action=table[:, 2],
        length=table[:, 3],
        terminal=table[:, 4].astype(bool),
        rewards=rewards,
    )


def _run_ends(steps: np.ndarray, repositioned: np.ndarray) -> np.ndarray:
    """For each of N steps, the index just behind the run of consecutive steps, none repositioned, that it belongs to.

    `repositioned` (N + 1,): how many steps before each were.
    """
    ends = np.empty(len(steps), np.int64)
    end = len(steps)
    for i in range(len(steps) - 1, -1, -1):
        if i + 1 < len(steps) and (steps[i + 1] != steps[i] + 1 or repositioned[i + 2] > repositioned[i + 1]):
            end = i + 1
        ends[i] = end
    return ends
