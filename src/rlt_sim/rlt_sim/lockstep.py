"""When the simulation may go on. Pure: the node asks what to publish next and reports what it has heard.

In lockstep, step k is published and the simulation waits for the command that answers it. Every `gate_steps` steps
(a person's reaction time) the privileged state goes to the scripted operator first, and the robot state is published
only once the operator has answered: what it pressed has then taken effect, so a run does not depend on timing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

GATE_STEPS = 4
"""Control steps between two decisions of the scripted operator: 80 ms, a quick person's reaction time."""
EPISODE_CLOCK_S = 1000
"""The clock of episode n starts at n * EPISODE_CLOCK_S: stamps stay unique when the simulator restarts."""
HIGHEST_EPISODE = (2**31 - 1) // EPISODE_CLOCK_S - 1
"""Seconds of a ROS time have 31 bits."""


class Awaiting(enum.Enum):
    """What the simulation waits for."""

    EPISODE = "an episode in which the arms may move"
    OPERATOR = "the scripted operator"
    COMMAND = "the executor's command"


@dataclass
class LockstepGate:
    """The state of the lockstep. `gate_steps` 0: no scripted operator."""

    gate_steps: int
    awaiting: Awaiting = Awaiting.EPISODE
    episode_id: int = 0
    step: int = 0

    def reset(self, episode_id: int) -> None:
        """The scene stands ready for this episode. Raises ValueError for one that the clock has no room for."""
        if episode_id > HIGHEST_EPISODE:
            raise ValueError(f"episode {episode_id}: the simulated clock has room for {HIGHEST_EPISODE}")
        self.episode_id = episode_id
        self.step = 0
        self.awaiting = Awaiting.EPISODE

    def on_control(self, episode_id: int, moving: bool) -> bool:
        """The executor's state. Returns True when the current step is to be published now."""
        if not moving or episode_id != self.episode_id:
            self.awaiting = Awaiting.EPISODE
            return False
        if self.awaiting is not Awaiting.EPISODE:
            return False
        self._arm()
        return True

    def on_operator(self, stamp_ns: int, expected_ns: int) -> bool:
        """The operator's answer. Returns True when the robot state is to be published now."""
        if self.awaiting is not Awaiting.OPERATOR or stamp_ns != expected_ns:
            return False
        self.awaiting = Awaiting.COMMAND
        return True

    def on_command(self, answers_ns: int, expected_ns: int) -> bool:
        """A command that answers the state stamped `answers_ns`. True when it is to be applied; `advance` follows.

        A step that was said again may be answered twice: the second answer belongs to no other step.
        """
        return self.awaiting is Awaiting.COMMAND and answers_ns == expected_ns

    def advance(self) -> None:
        """The command was applied: the next step is to be published."""
        self.step += 1
        self._arm()

    def _arm(self) -> None:
        gated = self.gate_steps > 0 and self.step % self.gate_steps == 0
        self.awaiting = Awaiting.OPERATOR if gated else Awaiting.COMMAND


class Pace:
    """Keeps steps at least `period_s` apart. A late step delays those after it: nothing is made up for."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last_s = -float("inf")

    def next_step(self, now_s: float) -> float:
        """s to wait from monotonic time `now_s` before the next step is published; it counts as published then."""
        due_s = max(now_s, self._last_s + self._period_s)
        self._last_s = due_s
        return due_s - now_s


def episode_stamp_ns(episode_id: int, step: int, period_ns: int) -> int:
    """Simulated time of a control step, ns."""
    return episode_id * EPISODE_CLOCK_S * 1_000_000_000 + step * period_ns
