"""Advice to the operator, derived from figures: what to do, and which figures say so. Pure: no ROS, no clock.

Here learning is judged, by the rows of metrics.jsonl; `health_advice` judges the running graph by its diagnostics. A
rule speaks once its measure reaches `enter` and is silent again only below `leave`, so that advice does not come and go
with every episode; and it says nothing before there are enough episodes to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlt_common.advice_rules import RULES, History, Rule, Severity
from rlt_common.metrics_log import Row, number

HISTORY = 100
"""Episodes over which a rule is followed; what it said before them is forgotten."""
TOKEN_RATIO = 1.2
"""L_ro with a foreign token over that with the right one: below it the token is ignored, healthy ones are above 20."""


@dataclass(frozen=True)
class Advice:
    """What to do and why, in words. `rule`: the name of the rule that says it."""

    rule: str
    text: str
    why: str
    severity: Severity


def advise(rows: Sequence[Row], vla: Mapping[str, object] | None = None) -> list[Advice]:
    """What the episodes so far say, warnings first.

    Args:
        rows: of metrics.jsonl in order, as `read_metrics` gives them.
        vla: what `metrics.json` beside the VLA holds; None: not known.
    """
    history = History(rows)
    found = []
    for rule in RULES:
        (*_, (speaks, why)) = followed(rule, history)
        if speaks:
            found.append(Advice(rule.name, rule.text, why, rule.severity))
    token = _token_ignored(vla or {})
    return sorted([*found, *([token] if token else [])], key=lambda advice: -advice.severity)


def followed(rule: Rule, history: History) -> Iterator[tuple[bool, str]]:
    """Whether a rule speaks, and the figures in words, before any episode and after each of the last HISTORY ones."""
    speaks, why = False, ""
    yield speaks, why
    for end in range(max(1, history.count - HISTORY + 1), history.count + 1):
        value, why = rule.measure(history, end)
        speaks = rule.speaks(value, speaks)
        yield speaks, why


def _token_ignored(vla: Mapping[str, object]) -> Advice | None:
    for own, other in (("reconstruction_loss", "shuffled_loss"), ("reconstruction", "shuffled")):
        right, wrong = number(vla, own), number(vla, other)
        if right > 0 and wrong < TOKEN_RATIO * right:
            return Advice(
                "token is ignored",
                "The decoder ignores the RL token: raise context_dropout, or adapt longer.",
                f"L_ro is {right:.3g} with the right token and {wrong:.3g} with that of another frame",
                Severity.WARNING,
            )
    return None
