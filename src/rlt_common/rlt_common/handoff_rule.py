"""When the automatic hand-off calls: one rule for the node that hands off and for the report on the head. Pure."""

from __future__ import annotations


class HandoffRule:
    """Calls for the hand-off once `outputs` probabilities in a row reach the threshold.

    Args:
        outputs: how many in a row, at least 1.
    """

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs
        self.in_a_row = 0

    def reset(self) -> None:
        """Forget what came so far."""
        self.in_a_row = 0

    def take(self, probability: float, threshold: float) -> bool:
        """Take the next probability. True when it calls for the hand-off. NaN never reaches a threshold."""
        self.in_a_row = self.in_a_row + 1 if probability >= threshold else 0
        return self.in_a_row >= self._outputs
