"""Training the hand-off head, choosing its threshold, and how far it is from the operator on episodes not seen. Pure.

Episodes are split three ways: the head is trained on the first, its threshold chosen on the second, and every figure
of the report is of the third. Timing is what matters: the head is asked as it is in use, once per executed chunk, and
the step at which it calls is compared with the operator's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlt_common.handoff_rule import HandoffRule
from rlt_common.parameters import ParameterError, param, validate
from rlt_vla_node.handoff import HandoffHead, HeadConfig, build_head
from rlt_vla_node.handoff_data import Handoffs

QUANTILES = (0, 10, 50, 90, 100)
THRESHOLDS = tuple(torch.sigmoid(torch.linspace(-4.6, 4.6, 93)).tolist())
"""Candidates, 0.01 to 0.99, evenly spaced in the logit."""
MIN_EPISODES = 3


@dataclass(frozen=True)
class HandoffConfig:
    """How the hand-off head is trained."""

    hidden: int = param(64, "width of the head's hidden layer", minimum=1, maximum=4096)
    steps: int = param(600, "steps of training", minimum=1, maximum=1_000_000)
    batch: int = param(256, "observations per step, half of them from before the hand-off", minimum=2, maximum=65_536)
    learning_rate: float = param(3e-3, "AdamW, falling linearly to 0", minimum=1e-7, maximum=1.0)
    weight_decay: float = param(1e-3, "AdamW", minimum=0.0, maximum=10.0)
    window_steps: int = param(
        50,
        "control steps after the operator's hand-off in which every observation is used; a call that has not come by "
        "then is missing",
        minimum=1,
        maximum=10_000,
    )
    sparse_steps: int = param(
        20, "after that, observations are used whose control step is a multiple of this", minimum=1, maximum=10_000
    )
    premature_steps: int = param(
        10, "a call more control steps early than this is premature", minimum=0, maximum=10_000
    )
    validation_share: float = param(
        0.15, "share of the episodes on which the threshold is chosen", minimum=0.01, maximum=0.45
    )
    test_share: float = param(0.15, "share of the episodes that the report is on", minimum=0.01, maximum=0.45)
    report_steps: int = param(200, "steps between two progress lines", minimum=1, maximum=1_000_000)

    def __post_init__(self) -> None:
        validate(self)
        if self.batch % 2:
            raise ParameterError(f"HandoffConfig.batch is {self.batch}: it must be even")


@dataclass(frozen=True)
class Split:
    """Indices of episodes, each in one of the three."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def split_episodes(count: int, config: HandoffConfig, seed: int) -> Split:
    """Split `count` episodes at random; each part gets at least one. Raises ParameterError below three episodes."""
    if count < MIN_EPISODES:
        raise ParameterError(
            f"{count} episodes with an operator's hand-off: at least {MIN_EPISODES} are needed, one each to train on, "
            "to choose the threshold and to report on"
        )
    order = np.random.default_rng(seed).permutation(count).tolist()
    test = max(1, round(config.test_share * count))
    validation = max(1, round(config.validation_share * count))
    return Split(
        train=tuple(sorted(order[test + validation :])),
        validation=tuple(sorted(order[test : test + validation])),
        test=tuple(sorted(order[:test])),
    )


def train_head(
    data: Handoffs,
    episodes: Sequence[int],
    shape: HeadConfig,
    config: HandoffConfig,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> HandoffHead:
    """A head trained on these episodes; each batch is half from before and half from after the hand-off.

    The same data, seed and threads give the same head. `progress` is called with (steps done, loss of the last).
    """
    rows = _rows(data, episodes)
    inputs, after = data.inputs[rows], data.after[rows] >= 0
    classes = [torch.nonzero(~after).flatten(), torch.nonzero(after).flatten()]
    head = build_head(shape, seed)
    head.set_statistics(inputs)
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    half = config.batch // 2
    label = torch.cat([torch.zeros(half), torch.ones(half)])
    for step in range(1, config.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (1.0 - (step - 1) / config.steps)
        drawn = torch.cat([c[torch.randint(len(c), (half,), generator=generator)] for c in classes])
        loss = functional.binary_cross_entropy_with_logits(head(inputs[drawn]), label)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % config.report_steps == 0 or step == config.steps:
            progress(step, float(loss.detach()))
    return head.eval().requires_grad_(False)


@torch.no_grad()
def probabilities(head: HandoffHead, data: Handoffs) -> Tensor:
    """(N,) in 0 to 1, of every observation."""
    return torch.sigmoid(head(data.inputs))


def call_errors(
    data: Handoffs,
    probability: Tensor,
    episodes: Sequence[int],
    threshold: float,
    *,
    execute_steps: int,
    outputs: int,
    window_steps: int,
) -> np.ndarray:
    """(episodes,) control steps from the operator's hand-off to the head's call, early is negative; NaN: no call.

    The head is asked once per `execute_steps` control steps from the start of the episode on, as it is while the VLA
    drives, until `window_steps` after the operator's hand-off.
    """
    errors = np.full(len(episodes), np.nan)
    for index, episode in enumerate(episodes):
        rows = torch.nonzero((data.episode == episode) & (data.after < window_steps)).flatten()
        rule, due = HandoffRule(outputs), 0
        for row in rows.tolist():
            step = int(data.step[row])
            if step < due:
                continue
            due = step + execute_steps
            if rule.take(float(probability[row]), threshold):
                errors[index] = int(data.after[row])
                break
    return errors


def choose_threshold(data: Handoffs, probability: Tensor, episodes: Sequence[int], window_steps: int) -> float:
    """The candidate with the best F1 (harmonic mean of precision and recall) over these episodes.

    Observations count until `window_steps` after the operator's hand-off. Of equally good candidates the middle one is
    taken: it leaves room on both sides.
    """
    rows = _near(data, episodes, window_steps)
    critical = data.after[rows] >= 0

    def f1(threshold: float) -> float:
        called = probability[rows] >= threshold
        return 2.0 * int((called & critical).sum()) / int(called.sum() + critical.sum())

    scores = [f1(threshold) for threshold in THRESHOLDS]
    best = [threshold for threshold, score in zip(THRESHOLDS, scores, strict=True) if score == max(scores)]
    return best[len(best) // 2]


def report(
    data: Handoffs,
    probability: Tensor,
    split: Split,
    threshold: float,
    config: HandoffConfig,
    *,
    execute_steps: int,
    outputs: int,
) -> dict[str, object]:
    """How far the head is from the operator on the test episodes: plain JSON values, None for what is not defined.

    precision, recall: over the observations from the start until `window_steps` after the operator's hand-off.
    timing_error: control steps, see :func:`call_errors`; `mean_absolute` and `quantiles` over the calls that came.
    premature_share, missing_share: of the test episodes.
    """
    rows = _near(data, split.test, config.window_steps)
    called, critical = probability[rows] >= threshold, data.after[rows] >= 0
    right = int((called & critical).sum())
    errors = call_errors(
        data,
        probability,
        split.test,
        threshold,
        execute_steps=execute_steps,
        outputs=outputs,
        window_steps=config.window_steps,
    )
    came = errors[~np.isnan(errors)]
    base = torch.bincount(data.episode[data.after < 0], minlength=len(data.files))
    return {
        "episodes": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "observations": {"base": int((data.after < 0).sum()), "critical": int((data.after >= 0).sum())},
        "base_observations_per_episode": float(base.double().median()),
        "threshold": threshold,
        "outputs_in_a_row": outputs,
        "execute_steps": execute_steps,
        "window_steps": config.window_steps,
        "tested_observations": {"base": int((~critical).sum()), "critical": int(critical.sum())},
        "precision": right / int(called.sum()) if bool(called.any()) else None,
        "recall": right / int(critical.sum()) if bool(critical.any()) else None,
        "timing_error": {
            "mean_absolute": float(np.abs(came).mean()) if came.size else None,
            "quantiles": {str(q): float(np.percentile(came, q)) if came.size else None for q in QUANTILES},
            "steps": [None if np.isnan(error) else int(error) for error in errors],
        },
        "premature_steps": config.premature_steps,
        "premature_share": float((came < -config.premature_steps).sum() / len(errors)),
        "missing_share": float(np.isnan(errors).mean()),
    }


def _rows(data: Handoffs, episodes: Sequence[int]) -> Tensor:
    """Indices of the observations of these episodes."""
    return torch.nonzero(torch.isin(data.episode, torch.tensor(list(episodes)))).flatten()


def _near(data: Handoffs, episodes: Sequence[int], window_steps: int) -> Tensor:
    """Indices of their observations from the start until `window_steps` after the operator's hand-off."""
    rows = _rows(data, episodes)
    return rows[data.after[rows] < window_steps]
