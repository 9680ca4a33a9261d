"""The rule of the automatic hand-off, by hand."""

import math

import pytest

from rlt_common.handoff_rule import HandoffRule


@pytest.mark.parametrize(
    ("outputs", "probabilities", "calls"),
    [
        (1, [0.2, 0.6, 0.59, 0.9], [False, True, False, True]),
        (2, [0.6, 0.6, 0.6], [False, True, True]),
        (2, [0.6, 0.1, 0.7, 0.8], [False, False, False, True]),
        (3, [0.9, 0.9, math.nan, 0.9, 0.9], [False] * 5),
    ],
)
def test_so_many_in_a_row_at_or_above_the_threshold(outputs, probabilities, calls):
    rule = HandoffRule(outputs)
    assert [rule.take(p, 0.6) for p in probabilities] == calls


def test_a_reset_forgets():
    rule = HandoffRule(2)
    rule.take(0.9, 0.5)
    rule.reset()
    assert not rule.take(0.9, 0.5)


def test_a_threshold_that_is_not_known_is_never_reached():
    assert not HandoffRule(1).take(1.0, math.nan)
