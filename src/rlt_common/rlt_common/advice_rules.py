"""The rules of advice on learning: measures over the episodes so far, thresholds, and what they say. See `advice`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from rlt_common.metrics_log import Row, number

WINDOW = 20
"""Episodes in a rate: chance alone moves a success rate of 20 by 0.1."""
SHORT = 10
"""Episodes in a median of a figure that every episode measures over hundreds of transitions."""
SETTLED = 20
"""Episodes after the warm-up before the critics are judged: until then Q is still being learned."""


class Severity(IntEnum):
    """As in rlt_msgs/Advice."""

    NOTE = 0
    WARNING = 1


@dataclass(frozen=True)
class Rule:
    """A measure with two thresholds. `reason`: why they stand where they do."""

    name: str
    severity: Severity
    text: str
    when: str
    enter: float
    leave: float
    reason: str
    measure: Callable[[History, int], tuple[float, str]]
    """(history, episodes so far) -> the measure (NaN: too little to judge) and the figures in words."""
    below: bool = False
    """The measure is bad when it is small."""

    def speaks(self, value: float, before: bool) -> bool:
        """Whether it speaks at this measure, given whether it did `before`."""
        return reached(value, self.enter, self.below) or (before and reached(value, self.leave, self.below))


class History:
    """Rows as columns; discarded episodes are left out."""

    def __init__(self, rows: Sequence[Row]) -> None:
        rows = [row for row in rows if row["label"] in ("success", "failure", "timeout")]
        self.count = len(rows)
        self.success = np.array([row["label"] == "success" for row in rows], bool)
        self.timeout = np.array([row["label"] == "timeout" for row in rows], bool)
        self.online = np.array([row.get("stage") == "online" for row in rows], bool)
        self.from_journal = np.array([bool(row.get("from_journal")) for row in rows], bool)
        self.steps, self.human, self.held = (_column(rows, f"{name}_steps") for name in ("critical", "human", "held"))
        self.returned, self.beta = _column(rows, "episode_return"), _column(rows, "beta")
        self.q, self.loss, self.distance = (
            _medians(_column(rows, name)) for name in ("q_mean", "critic_loss", "reference_distance")
        )
        """Medians over SHORT episodes, by the last of them."""
        self.owed, self.transitions = _column(rows, "owed"), _column(rows, "transitions")
        self.begun = int(np.argmax(self.online)) if self.online.any() else self.count
        """Index of the first episode behind which the actor drives."""
        self.least_loss = np.fmin.accumulate(np.where(np.arange(self.count) < self.begun + SETTLED, np.nan, self.loss))
        """The least of `loss` so far, once the critics are to be judged."""

    def settled(self, end: int) -> bool:
        """Whether the critics are to be judged after `end` episodes."""
        return end - self.begun >= SETTLED


def reached(value: float, threshold: float, below: bool) -> bool:
    """Whether a measure is at a threshold or beyond it; NaN never is."""
    return value <= threshold if below else value >= threshold


def _column(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([number(row, key) for row in rows], float)


def _medians(values: np.ndarray) -> np.ndarray:
    """(N,) of the last SHORT values that are not NaN, of fewer at the beginning; NaN where there is none."""
    if not len(values):
        return values
    padded = np.concatenate([np.full(SHORT - 1, np.nan), values])
    windows = np.ma.masked_invalid(np.lib.stride_tricks.sliding_window_view(padded, SHORT))
    return np.ma.filled(np.ma.median(windows, axis=1), np.nan)


def _share(part: np.ndarray, whole: np.ndarray, end: int) -> float:
    if end < SHORT:
        return math.nan
    window = slice(end - SHORT, end)
    total = whole[window].sum()
    return float(part[window].sum() / total) if total > 0 else math.nan


# ---- measures; NaN is no judgement


def _no_success(h: History, end: int) -> tuple[float, str]:
    window = 30
    if end < window:
        return math.nan, ""
    lost = int((~h.success[end - window : end]).sum())
    return lost / window, f"no success in the last {window} episodes"


def _success_falls(h: History, end: int) -> tuple[float, str]:
    if end < 3 * WINDOW:
        return math.nan, ""
    now = h.success[end - WINDOW : end].mean()
    earlier = np.convolve(h.success[: end - WINDOW], np.ones(WINDOW) / WINDOW, "valid")
    best = int(np.argmax(earlier))
    words = (
        f"{now:.0%} of the last {WINDOW} episodes succeed, {earlier[best]:.0%} of those up to number {best + WINDOW}"
    )
    return float(earlier[best] - now), words


def _interventions(h: History, end: int) -> tuple[float, str]:
    if end < 2 * WINDOW or np.isnan(h.human[:end]).any():
        return math.nan, ""
    helped = h.human[:end] > 0
    before, now = (helped[end - 2 * WINDOW : end - WINDOW].mean(), helped[end - WINDOW :].mean())
    pooled = (before + now) / 2
    deviation = math.sqrt(2 * pooled * (1 - pooled) / WINDOW)
    words = f"you took over in {now:.0%} of the last {WINDOW} episodes, in {before:.0%} of the {WINDOW} before"
    return float((now - before) / deviation) if deviation else 0.0, words


def _human_share(h: History, end: int) -> tuple[float, str]:
    share = _share(h.human, h.steps, end) if h.online[end - 1] else math.nan
    return share, f"{share:.0%} of the critical steps of the last {SHORT} episodes were yours"


def _held_share(h: History, end: int) -> tuple[float, str]:
    share = _share(h.held, h.steps, end)
    return share, f"in {share:.0%} of the critical steps of the last {SHORT} episodes the arms held"


def _copies(h: History, end: int) -> tuple[float, str]:
    distance = float(h.distance[end - 1]) if h.settled(end) else math.nan
    if h.success[max(0, end - WINDOW) : end].mean() >= 0.9:  # nothing is wrong with a copy that succeeds
        distance = math.nan
    falling = "; beta still falls" if end > 1 and h.beta[end - 1] < h.beta[end - 2] else ""
    return distance, f"|pi - reference| is {distance:.2f} spreads{falling}"


def _strays(h: History, end: int) -> tuple[float, str]:
    distance = float(h.distance[end - 1]) if h.settled(end) else math.nan
    return distance, f"|pi - reference| is {distance:.1f} spreads of the demonstrations"


def _over_estimates(h: History, end: int) -> tuple[float, str]:
    if not h.settled(end):
        return math.nan, ""
    expected = float(h.q[end - 1])
    returned = h.returned[end - WINDOW : end]
    if np.isnan(returned).all():
        return math.nan, ""
    had = float(np.nanmean(returned))
    return expected - had, f"the critics expect {expected:.2f}, the last {WINDOW} episodes returned {had:.2f}"


def _loss_grows(h: History, end: int) -> tuple[float, str]:
    now, least = float(h.loss[end - 1]), float(h.least_loss[end - 1])
    words = f"critic_loss is {now:.3g}, it was {least:.3g}"
    return now / least if least > 0 else math.nan, words


def _debt(h: History, end: int) -> tuple[float, str]:
    if end - h.begun < SHORT:
        return math.nan, ""
    added = np.nan_to_num(h.transitions[end - SHORT : end]).max()
    owed = h.owed[end - SHORT : end]
    words = f"{owed[-1]:.0f} updates are owed, {owed[0]:.0f} were {SHORT} episodes ago"
    return float(owed[-1] / added) if added > 0 and owed[-1] > owed[0] else 0.0, words


def _timeouts(h: History, end: int) -> tuple[float, str]:
    share = float(h.timeout[end - WINDOW : end].mean()) if end >= WINDOW else math.nan
    return share, f"{share:.0%} of the last {WINDOW} episodes ended by the time limit"


def _journal(h: History, end: int) -> tuple[float, str]:
    count = int(h.from_journal[end - SHORT : end].sum()) if end >= SHORT else math.nan
    return count, f"{count} of the last {SHORT} episodes had to be completed from their files"


NOTE, WARNING = Severity.NOTE, Severity.WARNING
RULES = (
    Rule(
        "no success",
        WARNING,
        "RL has nothing to learn from: take over so that episodes succeed, begin nearer to the goal (a curriculum), or "
        "adapt the VLA on more demonstrations.",
        "share of failures in 30 episodes",
        1.0,
        1.0,
        "the only reward is that of a success; a policy that succeeds in one of ten would have shown one in 30 with "
        "96 %",
        _no_success,
    ),
    Rule(
        "success falls",
        WARNING,
        "Success falls after it had risen. Look at cameras, scene and workpieces first; if nothing changed there, go "
        "on from a checkpoint of the better time with a larger beta.",
        "success rate of the best 20 earlier episodes minus that of the last 20",
        0.45,
        0.3,
        "three standard deviations of what chance does to two windows of 20, and more than picking the best one adds",
        _success_falls,
    ),
    Rule(
        "interventions rise",
        WARNING,
        "You take over more often than before: check the cameras (moved, dirty, other light), the scene and the "
        "workpieces.",
        "rise over the 20 episodes before, in standard deviations of chance",
        3.0,
        1.5,
        "chance reaches 3 about once in 700 windows",
        _interventions,
    ),
    Rule(
        "human drives",
        NOTE,
        "You drive most of the time: the policy sees few of its own mistakes. Let it try, and take over only before "
        "something breaks.",
        "human's share of the critical steps of 10 episodes, the actor driving",
        0.6,
        0.4,
        "interventions are data of a human; what the actor does itself is what its critics have to judge",
        _human_share,
    ),
    Rule(
        "policy copies the VLA",
        NOTE,
        "Reference and policy agree everywhere: lower beta, or wait while it still falls.",
        "|pi - reference|, median of 10 episodes, below this while success is below 0.9",
        0.1,
        0.15,
        "a tenth of the demonstrations' spread is no other action",
        _copies,
        below=True,
    ),
    Rule(
        "policy strays",
        WARNING,
        "The policy is far from what the VLA proposes: raise beta.",
        "|pi - reference|, median of 10 episodes",
        3.0,
        2.0,
        "at three spreads in the mean over all values hardly an action is one that was ever demonstrated",
        _strays,
    ),
    Rule(
        "critics over-estimate",
        WARNING,
        "The critics expect more than comes: more critics, or a larger beta.",
        "q_mean minus the mean return of the last 20 episodes",
        0.2,
        0.1,
        "returns lie in 0 to 1, and the replay's states are on average no better than those met now",
        _over_estimates,
    ),
    Rule(
        "critic loss grows",
        WARNING,
        "The critics diverge: lower critic_lr or updates_per_transition.",
        "critic_loss over the least it was, medians of 10 episodes",
        5.0,
        3.0,
        "new data moves it by a factor of two",
        _loss_grows,
    ),
    Rule(
        "debt grows",
        NOTE,
        "The learner is too slow for the data: practise more slowly, take a faster machine, or lower "
        "updates_per_transition.",
        "updates owed, in transitions of the largest of 10 episodes, while it rises",
        3.0,
        1.0,
        "one or two episodes' worth is waiting whenever episodes are short",
        _debt,
    ),
    Rule(
        "time-outs",
        NOTE,
        "Most episodes end by the time limit: raise max_critical_steps, or end those that are lost with failure.",
        "share of time-outs in 20 episodes",
        0.6,
        0.4,
        "a time-out tells the critics neither success nor failure",
        _timeouts,
    ),
    Rule(
        "arms hold",
        WARNING,
        "The arms often hold in the critical phase: chunks come late, raise prefetch_steps or speed the VLA up.",
        "share of critical steps of 10 episodes",
        0.1,
        0.05,
        "a tenth of the time is lost, and the policy learns pauses",
        _held_share,
    ),
    Rule(
        "messages are lost",
        NOTE,
        "Messages are lost on the way to the learner: look at the network and the machine's load. The files have "
        "everything, nothing is lost by it.",
        "of 10 episodes, those completed from their files",
        4,
        2,
        "a restart of the learner makes one or two",
        _journal,
    ),
)
"""Rules on learning."""
