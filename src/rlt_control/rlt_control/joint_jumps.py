"""Measured joints that cannot be: further from those before than the arms can have moved since. Pure.

One wrong sample between right ones (a bit that flipped on the bus, a packet of another arm) is finite and in range, and
everything that is worked out from the measured pose would follow it.
"""

from __future__ import annotations

import numpy as np

from rlt_common.config import RobotConfig
from rlt_control.records import RobotState

FASTER = 2.0
"""Times its velocity limit that a joint may be measured at: stamps jitter, and an arm that was held back catches up."""


class JumpLimit:
    """How far the joints of a robot may be measured from where they were measured before.

    Args:
        robot: gives the velocity limits and the control period. Grippers are not judged: nothing follows from them.
    """

    def __init__(self, robot: RobotConfig) -> None:
        grippers = {arm.gripper for arm in robot.arms}
        own = robot.joint_velocity_limits
        self._names = robot.joint_names
        self._period_s = robot.period_s
        self._fastest = FASTER * np.array(
            [np.inf if name in grippers else own.get(name, robot.limits.joint_velocity) for name in self._names]
        )

    def refusal(self, before: RobotState | None, state: RobotState) -> str:
        """Why `state` cannot follow `before`, the newest one that was taken; "" when it can.

        The time between them counts as at least a control period. The longer ago `before` was, the further the arms may
        have gone: after a jump that was real, states are taken again by themselves. Stamps that go back say nothing
        about speed and are the watchdog's to judge.
        """
        if before is None or state.stamp_ns <= before.stamp_ns:
            return ""
        elapsed_s = max((state.stamp_ns - before.stamp_ns) * 1e-9, self._period_s)
        moved = np.abs(state.q - before.q)
        beyond = moved > self._fastest * elapsed_s
        if not beyond.any():
            return ""
        joint = int(np.argmax(beyond))
        return (
            f"joint {self._names[joint]} is measured {moved[joint]:.3g} rad from where it was {elapsed_s * 1e3:.0f} ms "
            f"before, its velocity limit is {self._fastest[joint] / FASTER:.3g} rad/s"
        )
