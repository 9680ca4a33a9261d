"""When to hand off without an operator. Pure: no ROS, no clock.

The VLA says with every boundary output how likely the critical phase has begun. In the BASE phase, with nobody in
control, enough calls in a row decide for the hand-off, once per episode. An output of another episode or epoch, or one
that was seen before, never counts: the epoch rises at start, intervention, hand-off and end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlt_common.handoff_rule import HandoffRule


@dataclass(frozen=True)
class Judgement:
    """What matters here of a boundary VlaOutput. `threshold` is the head's own."""

    episode_id: int
    epoch: int
    observation_id: int
    probability: float
    threshold: float


@dataclass(frozen=True)
class Call:
    """Hand off, in exactly this episode and epoch."""

    episode_id: int
    epoch: int


class AutoHandoff:
    """Watches one episode after the other.

    Args:
        outputs: boundary outputs in a row that must reach the threshold.
        threshold: overrides the head's own, 0: does not.
    """

    def __init__(self, outputs: int, threshold: float = 0.0) -> None:
        self._rule = HandoffRule(outputs)
        self._threshold = threshold
        self._epoch = (0, 0)
        self._watching = False
        self._newest = -1
        self._called: Call | None = None
        self._done_episode = 0
        self.probability = math.nan
        self.stale = 0

    @property
    def in_a_row(self) -> int:
        """Outputs in a row that have reached the threshold."""
        return self._rule.in_a_row

    @property
    def watching(self) -> bool:
        """Whether an output would count now."""
        return self._watching and self._epoch[0] != self._done_episode and self._called is None

    @property
    def blind(self) -> bool:
        """Whether the newest output came without a probability: the VLA has no head."""
        return self._newest >= 0 and math.isnan(self.probability)

    def on_episode(self, episode_id: int, epoch: int, base: bool, human: bool) -> None:
        """Take the episode's state: `base` says that it is in the BASE phase, `human` that a person is in control."""
        if (episode_id, epoch) != self._epoch:
            self._epoch = (episode_id, epoch)
            self._rule.reset()
            self._newest = -1
            self._called = None
        self._watching = base and not human

    def on_output(self, output: Judgement) -> Call | None:
        """Take a boundary output. Returns the call to make, if it decides."""
        if (output.episode_id, output.epoch) != self._epoch or output.observation_id <= self._newest:
            self.stale += 1
            return None
        self._newest = output.observation_id
        self.probability = output.probability
        if not self.watching:
            return None
        if not self._rule.take(output.probability, self._threshold or output.threshold):
            return None
        self._called = Call(output.episode_id, output.epoch)
        return self._called

    def on_answer(self, call: Call, accepted: bool) -> None:
        """The episode manager's answer to a call; False too when none came. A refused one may be made again."""
        if accepted:
            self._done_episode = call.episode_id
        if call == self._called:
            self._called = None
