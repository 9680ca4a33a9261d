"""What the limits of a robot file do to motions that were recorded, or never executed. No ROS, no clock.

Every step goes through the executor's own integrator (`delta_pose`, `delta_joints`) from where the arms were commanded
and measured to be, so each is judged by itself: what a limit would have changed before it, nobody knows. Which limit it
is, is found by relaxing all others: what cuts a step short alone is named. A force cannot be judged: none is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.kinematics import ArmKinematics, build_kinematics
from rlt_control.arms import integrator_of, motion_limits
from rlt_control.delta_pose import DeltaPoseIntegrator, MotionLimits, StepResult

FAR = 1e3
"""m or rad: further than any arm reaches."""
ROUNDING = 1e-9
STILL = 0.05
"""Share of an action, or of the largest step where it is larger; less is no motion."""
JOINT_RANGE, TOGETHER = "joint range", "several together"


@dataclass(frozen=True)
class Verdict:
    """What the limits make of one step.

    Attributes:
        held: why nothing would have been commanded; "" when something would.
        limits: limit -> by how much it alone changes the action: the largest component, m or rad.
        requested, applied: (d,) the action, and what would have been sent of it.
        joint_targets: (n,) where that leads; where the arms are commanded to be already while nothing is.
        clamped: (d,) bool, components changed.
    """

    held: str
    limits: Mapping[str, float]
    requested: np.ndarray
    applied: np.ndarray
    clamped: np.ndarray
    joint_targets: np.ndarray
    stopped: bool
    """Nothing of the motion is left, or next to nothing."""


class LimitCheck:
    """The limits of `robot`, one at a time and all together."""

    def __init__(self, robot: RobotConfig) -> None:
        """Raises ParameterError for limits that cannot be."""
        kinematics = build_kinematics(robot)
        limits = motion_limits(robot, kinematics)
        self._all = integrator_of(robot, kinematics, limits)
        self._largest = robot.step_limit
        free = _free(limits, kinematics)
        self._free = integrator_of(robot, kinematics, free)
        own = {
            "step": {
                name: getattr(limits, name) for name in ("step_position", "step_rotation", "step_gripper", "step_joint")
            },
            "leash": {name: getattr(limits, name) for name in ("leash_position", "leash_rotation")},
            "workspace": {"workspace": limits.workspace, "tools": limits.tools},
            JOINT_RANGE: {name: getattr(limits, name) for name in ("joint_lower", "joint_upper")},
            "joint velocity": {"joint_velocity": limits.joint_velocity},
        }
        self._single = {name: integrator_of(robot, kinematics, replace(free, **values)) for name, values in own.items()}

    @property
    def action_dim(self) -> int:
        """d, length of the robot's actions."""
        return self._all.action_dim

    def step(self, action: np.ndarray, commanded: np.ndarray, measured: np.ndarray) -> Verdict:
        """One action (d,) from commanded and measured joints (n,).

        Raises ValueError for arrays of another length or with a value that is not finite.
        """
        if held := self._all.implausible(np.asarray(measured, np.float64)):
            nothing = np.zeros(self.action_dim)
            return Verdict(
                held, {}, np.asarray(action, np.float64), nothing, np.ones(self.action_dim, bool), commanded, True
            )
        result = _step(self._all, action, commanded, measured)
        limits = {}
        if result.clamped.any():
            free = _step(self._free, action, commanded, measured).applied
            for name, integrator in self._single.items():
                alone = _step(integrator, action, commanded, measured)
                apart = alone.requested if name == JOINT_RANGE else free  # the model's range holds for all of them
                change = float(np.abs(alone.applied - apart).max())
                if change > ROUNDING:
                    limits[name] = change
            if not limits:
                limits[TOGETHER] = float(np.abs(result.applied - result.requested).max())
        asked = np.minimum(np.abs(result.requested) / self._largest, 1.0).max()
        still = bool(result.clamped.any() and (np.abs(result.applied) / self._largest).max() < STILL * asked)
        return Verdict("", limits, result.requested, result.applied, result.clamped, result.joint_targets, still)

    def chunk(self, actions: np.ndarray, commanded: np.ndarray) -> list[Verdict]:
        """Rows (n, d) one after the other from commanded joints (n,), the arms following each as it is limited."""
        verdicts, q = [], np.asarray(commanded, np.float64)
        for action in np.asarray(actions, np.float64):
            verdicts.append(self.step(action, q, q))
            q = verdicts[-1].joint_targets
        return verdicts


def _step(
    integrator: DeltaPoseIntegrator, action: np.ndarray, commanded: np.ndarray, measured: np.ndarray
) -> StepResult:
    integrator.reset(commanded)
    return integrator.step(action, measured)


def _free(limits: MotionLimits, kinematics: ArmKinematics) -> MotionLimits:
    """The same robot with hardly a limit: the model's joint ranges alone."""
    box = ((-FAR,) * 3, (FAR,) * 3)
    return replace(
        limits,
        workspace=(box,) * len(limits.workspace),
        tools=(),
        joint_lower=tuple(kinematics.lower),
        joint_upper=tuple(kinematics.upper),
        joint_velocity=FAR / limits.period_s,
        **dict.fromkeys(
            ("step_position", "step_rotation", "step_gripper", "step_joint", "leash_position", "leash_rotation"), FAR
        ),
    )


def gaps(stamps_ns: Sequence[int], timeout_s: float) -> list[tuple[int, float]]:
    """Index and s of every gap between control steps longer than `timeout_s`: the arms would have held in it."""
    lengths = np.diff(np.asarray(stamps_ns, np.int64)) * 1e-9
    return [(int(i) + 1, float(lengths[i])) for i in np.flatnonzero(lengths > timeout_s)]
