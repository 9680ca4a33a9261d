"""The operator's hand-offs as training data: encoded observations of recorded episodes, before and after.

An observation belongs to the first control step executed at or after its stamp. It is negative in the BASE phase and
positive from the operator's hand-off on. Those of steps in which a human repositioned the arms are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlt_common.codecs import CodecError, ObservationData, observation_from_msg
from rlt_common.episode_file import EpisodeFileError
from rlt_common.relabels import episode_facts
from rlt_msgs.msg import EpisodeState
from rlt_vla_node.dataset import DatasetError, read_joined
from rlt_vla_node.handoff import head_inputs
from rlt_vla_node.inference import FrozenModel, LayoutError

PURPOSES = ("collect", "train")
"""Purposes of the episodes that are read: evaluation episodes stay unseen, deployed ones have no operator."""
DISCARD = "discard"


@dataclass(frozen=True)
class Handoffs:
    """N observations of E episodes, each with one hand-off.

    Attributes:
        inputs: (N, F) float32, what the head reads.
        step: (N,) int64, control step.
        episode: (N,) int64, index of the episode, 0 to E - 1, in file order.
        handoff_step: (E,) int64, first control step of the critical phase.
        files: names of the E files.
    """

    inputs: Tensor
    step: Tensor
    episode: Tensor
    handoff_step: Tensor
    files: tuple[str, ...]

    @property
    def after(self) -> Tensor:
        """(N,) int64, control steps since the operator's hand-off; negative before it."""
        return self.step - self.handoff_step[self.episode]


def load_handoffs(
    folder: Path | str,
    model: FrozenModel,
    period_s: float,
    window_steps: int,
    sparse_steps: int,
    batch: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Handoffs:
    """Read and encode every episode in `folder` in which the operator handed off.

    Args:
        folder: of episode files.
        model: the frozen model.
        period_s: control period, s.
        window_steps: every observation is used until so many control steps after the hand-off,
        sparse_steps: and from there on those whose control step is a multiple of this.
        batch: observations encoded at a time: a policy server's limits are those of the graph's batches.
        progress: called with (files read, files in all).

    Raises DatasetError naming the file that is torn or does not fit, and when no episode is left.
    """
    paths = sorted(Path(folder).glob("*.mcap"))
    inputs, steps, handoffs, files = [], [], [], []
    for done, path in enumerate(paths, start=1):
        try:
            facts = episode_facts(path)
            if facts.get("purpose") in PURPOSES and facts.get("label") != DISCARD:
                chosen, handoff_step = _observations(path, round(1e9 * period_s), window_steps, sparse_steps)
                if any(step < handoff_step for step, _ in chosen) and any(step >= handoff_step for step, _ in chosen):
                    inputs.append(_encode(model, [observation for _, observation in chosen], batch))
                    steps.append(torch.tensor([step for step, _ in chosen]))
                    handoffs.append(handoff_step)
                    files.append(path.name)
        except (EpisodeFileError, CodecError, LayoutError) as error:
            raise DatasetError(f"{path}: {error}: remove the file, or name the run it belongs to") from error
        progress(done, len(paths))
    if not files:
        raise DatasetError(
            f"{folder}: none of its {len(paths)} episodes is a training episode with an operator's hand-off: record "
            "some that start in the BASE phase (start_in: full)"
        )
    return Handoffs(
        inputs=torch.cat(inputs),
        step=torch.cat(steps),
        episode=torch.repeat_interleave(torch.arange(len(files)), torch.tensor([len(s) for s in steps])),
        handoff_step=torch.tensor(handoffs),
        files=tuple(files),
    )


def _observations(
    path: Path, period_ns: int, window_steps: int, sparse_steps: int
) -> tuple[list[tuple[int, ObservationData]], int]:
    """(control step, observation) of those to use, in order of steps; and the step of the hand-off."""
    executed, observed = read_joined(path, period_ns)
    critical = (message.step for message in executed if message.phase == EpisodeState.PHASE_CRITICAL)
    handoff_step = min(critical, default=0)
    chosen = {}
    for row, message in observed.items():
        step = executed[row].step
        if executed[row].repositioning:
            continue
        if step < handoff_step + window_steps or step % sparse_steps == 0:
            chosen[step] = message
    return [(step, observation_from_msg(message)) for step, message in sorted(chosen.items())], handoff_step


@torch.inference_mode()
def _encode(model: FrozenModel, observations: list[ObservationData], size: int) -> Tensor:
    """(n, F) of n observations, so many at a time."""
    parts = []
    for first in range(0, len(observations), size):
        batch = model.batch(observations[first : first + size])
        prefix = model.backend.encode(batch)
        parts.append(head_inputs(prefix.tokens, prefix.token_mask(), batch.state).cpu())
    return torch.cat(parts)
