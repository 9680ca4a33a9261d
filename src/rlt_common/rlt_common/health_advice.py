"""Advice to the operator, derived from the diagnostics of the running graph. Pure: no ROS, no clock. See `advice`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlt_common.advice import Advice
from rlt_common.advice_rules import Severity, reached

NOTE, WARNING = Severity.NOTE, Severity.WARNING


@dataclass(frozen=True)
class HealthRule:
    """A figure of a node's diagnostics with two thresholds; of a counter, its rise between two words of the node."""

    name: str
    node: str
    key: str
    counter: bool
    severity: Severity
    text: str
    enter: float
    leave: float
    below: bool = False
    """The figure is bad when it is small."""

    def speaks(self, value: float, before: bool) -> bool:
        """Whether it speaks at this measure, given whether it did `before`."""
        return reached(value, self.enter, self.below) or (before and reached(value, self.leave, self.below))


HEALTH_RULES = (
    HealthRule(
        "ticks are late",
        "chunk_executor",
        "late_p99_ms",
        False,
        WARNING,
        "The robot PC is overloaded: see docs/robot_pc.md.",
        10.0,
        5.0,
    ),
    HealthRule(
        "observations are dropped",
        "vla",
        "dropped_observations",
        True,
        WARNING,
        "The VLA is slower than the robot: a GPU, or a larger stride.",
        1.0,
        1.0,
    ),
    HealthRule(
        "states and images do not match",
        "camera_ingest",
        "unmatched_states",
        True,
        NOTE,
        "Observations come late or not at all: check the cameras' rate and clocks (docs/cameras.md).",
        5.0,
        2.0,
    ),
    HealthRule(
        "the clock was set",
        "camera_ingest",
        "clock_resets",
        True,
        WARNING,
        "A clock was set while the graph ran: stop whatever sets it in steps.",
        1.0,
        1.0,
    ),
    HealthRule(
        "chunks are refused",
        "chunk_executor",
        "dropped_chunks",
        True,
        WARNING,
        "The executor refuses chunks: its last_refusal says why.",
        3.0,
        2.0,
    ),
    HealthRule(
        "disk is filling up",
        "recorder",
        "free_gib",
        False,
        WARNING,
        "The disk is filling up: free some of it, or no episode can begin.",
        2.0,
        3.0,
        below=True,
    ),
)
"""Rules on diagnostics; counters are judged by their rise within 10 words of a node, that is 10 s."""
WORDS = 10


class HealthAdvisor:
    """Follows diagnostics; feed every word of a node to :meth:`update`."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}
        self._found: dict[str, Advice] = {}

    def update(self, node: str, values: Mapping[str, str]) -> None:
        """A node's named values, under its name with or without a namespace. What is no number is left out."""
        for rule in HEALTH_RULES:
            if node.rpartition("/")[2] != rule.node or rule.key not in values:
                continue
            try:
                value = float(values[rule.key])
            except ValueError:
                continue
            name = f"{node}: {rule.name}"
            seen = self._values.setdefault((node, rule.key), [])
            if rule.counter and seen and value < seen[-1]:  # the node was started again
                seen.clear()
            seen[:] = [*seen, value][-WORDS - 1 :]
            measure = seen[-1] - seen[0] if rule.counter else value
            if rule.speaks(measure, name in self._found):
                figure = f"{rule.key} of {node} " + (f"rose by {measure:g}" if rule.counter else f"is {measure:g}")
                self._found[name] = Advice(rule.name, rule.text, figure, rule.severity)
            else:
                self._found.pop(name, None)

    def advice(self) -> list[Advice]:
        """What holds now, warnings first."""
        return sorted(self._found.values(), key=lambda advice: -advice.severity)
