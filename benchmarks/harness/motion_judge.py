"""Whether a sequence of joint commands is motion that a robot file allows. Worked out here, not by the executor.

A command must follow from something that was there before: from the command before it, or from joints that were
measured (a hold begins where the arms are measured, and hostile joint states that cannot be told from true ones are
measured too). From there no joint may be faster than its limit, and no joint and no tool may leave its range or its
workspace, or be further outside than it was.
"""

from __future__ import annotations

import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.kinematics import build_kinematics

TOLERANCE = 1e-6
TOLERANCE_M = 5e-3
"""What inverse kinematics may leave between the commanded pose, which is limited, and the commanded joints' tip."""
MEASURED_BEYOND = 0.1
"""rad or m that a joint may be measured out of its range and be held there: a gripper that is pressed shut, an encoder
that is off."""
KEPT = 2000
"""Measured joints that a command may follow from: some seconds, with a flood of hostile ones among them."""


class MotionJudge:
    """Judges the commands of one robot in their order. Joints (n,) are in rad or m, in the robot's order."""

    def __init__(self, robot: RobotConfig) -> None:
        self._kinematics = build_kinematics(robot)
        self._names = robot.joint_names
        own, limits = robot.joint_velocity_limits, robot.limits
        fastest = np.array([own.get(name, limits.joint_velocity) for name in self._names]) * robot.period_s
        self._arms = []
        for arm in robot.arms:
            columns = [self._names.index(joint) for joint in arm.joints]
            box = np.array(arm.workspace_min), np.array(arm.workspace_max)
            self._arms.append((arm.name, columns, fastest[columns] + TOLERANCE, *box))
        self.forget()

    def forget(self) -> None:
        """Another robot, or another life of the one that commands it."""
        self._measured = np.empty((KEPT, len(self._names)))
        self._count = 0
        self._commanded: np.ndarray | None = None

    def measured(self, q: np.ndarray) -> None:
        """The arms were said to be here."""
        if q.shape == (len(self._names),) and np.isfinite(q).all():
            self._measured[self._count % KEPT] = q
            self._count += 1

    def fault(self, target: np.ndarray) -> str:
        """What is wrong with a command; empty when nothing is. What follows from it is judged by it all the same."""
        if target.shape != (len(self._names),):
            return f"{target.size} joint targets"
        if not np.isfinite(target).all():
            return "joint targets that are not finite"
        before = self._measured[: min(self._count, KEPT)]
        if self._commanded is not None:
            before = np.vstack([before, self._commanded])
        self._commanded = target.copy()
        return self._range_fault(target, before) or (self._motion_fault(target, before) if len(before) else "")

    def nearest(self, target: np.ndarray) -> str:
        """How far a command is from the joints it may follow from, for whoever looks into a fault."""
        before = self._measured[: min(self._count, KEPT)]
        distance = float(np.abs(before - target).max(axis=1).min()) if len(before) else np.inf
        lower, upper = self._kinematics.lower, self._kinematics.upper
        beyond = float(np.maximum(lower - target, target - upper).max())
        far = f"{distance:.4f} from the nearest of {len(before)} measured, {beyond:+.4f} beyond the range"
        return f"{far}: {target.tolist()}"

    def _range_fault(self, target: np.ndarray, before: np.ndarray) -> str:
        """Whether a joint is out of its range, further than it was measured or commanded before."""
        lower, upper = self._kinematics.lower, self._kinematics.upper
        known = np.clip(
            np.vstack([target.clip(lower, upper), before]), lower - MEASURED_BEYOND, upper + MEASURED_BEYOND
        )
        beyond = (target < known.min(axis=0) - TOLERANCE) | (target > known.max(axis=0) + TOLERANCE)
        return "joint targets beyond the joints' range" if beyond.any() else ""

    def _motion_fault(self, target: np.ndarray, before: np.ndarray) -> str:
        outside = self._outside(target)
        for number, (name, columns, fastest, _, _) in enumerate(self._arms):
            near = (np.abs(before[:, columns] - target[columns]) <= fastest).all(axis=1)
            if not near.any():
                return f"the {name} arm faster than its joints' velocity limit"
            if outside[number] > TOLERANCE_M:
                furthest = max(self._outside(q)[number] for q in before[near])
                if outside[number] > furthest + TOLERANCE_M:
                    return f"the {name} tool further out of its workspace than before"
        return ""

    def _outside(self, q: np.ndarray) -> list[float]:
        """m that each tip is outside its workspace."""
        tips = [position for position, _ in self._kinematics.forward(q)]
        return [
            float(max(0.0, (low - tip).max(), (tip - high).max()))
            for tip, (_, _, _, low, high) in zip(tips, self._arms, strict=True)
        ]
