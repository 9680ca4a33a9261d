"""From joint-delta actions to joint position targets: `actions: joints` of a robot file.

An action is a change of each arm's joints, then of its gripper: [dq_1 .. dq_k (rad), dgripper (m)] per arm, in the
robot's order. As with tool poses it starts from the commanded joints or, with `relative_to: measured`, from the
measured ones; a gripper always from its commanded position. A human's hand moves the tool all the same, and what it did
is recorded as such actions. The limits are those of `delta_pose`, tool and leash included: an arm goes along its way
from the joints commanded before as far as all of them allow, or stays. Where the arm has moved away from what is
commanded, further than its leash, what is commanded comes after it as in a hold.
"""

from __future__ import annotations

import numpy as np

from rlt_common.kinematics import ArmKinematics, Pose
from rlt_common.rotations import rotation_vector
from rlt_control.delta_pose import ARM_DIM, NO_RESET, ROUNDING, DeltaPoseIntegrator, MotionLimits, StepResult

TRIES = 6
"""Shares of the way that are tried: bounds the time of a step."""
TINY = np.finfo(float).tiny


class DeltaJointIntegrator(DeltaPoseIntegrator):
    """Integrates joint changes; the arguments are those of :class:`DeltaPoseIntegrator`."""

    def __init__(
        self,
        kinematics: ArmKinematics,
        gripper_joints: tuple[str, ...],
        limits: MotionLimits,
        iterations: int = 2,
        from_measured: bool = False,
    ) -> None:
        super().__init__(kinematics, gripper_joints, limits, iterations, from_measured)
        per_arm = [np.append(columns, grip) for columns, grip in zip(self._columns, self._grippers, strict=True)]
        self._order = np.concatenate(per_arm)
        self._arm_of = np.repeat(np.arange(len(per_arm)), [len(columns) for columns in per_arm])
        self.action_dim = len(self._order)
        grips = np.isin(self._order, self._grippers)
        self._largest = np.where(grips, limits.step_gripper, limits.step_joint)

    def step(self, action: np.ndarray, q_measured: np.ndarray, period_s: float | None = None) -> StepResult:
        """Advance the commanded joints by one action (d,) of the policy. As in the base class."""
        q = self._finite(q_measured, self._targets.shape, "measured joints")
        requested = self._finite(action, (self.action_dim,), "action")
        if self._poses is None:
            raise ValueError(NO_RESET)
        commanded, measured = self._kinematics.forward(self._targets), self._kinematics.forward(q)
        start = self._start(q)
        goal = self._targets.copy()
        goal[self._order] = start[self._order] + np.clip(requested, -self._largest, self._largest)
        # A joint that starts outside its range may come back, but not go further out.
        goal = np.clip(goal, np.minimum(self._lower, self._targets), np.maximum(self._upper, self._targets))
        fastest = self._largest_moves(period_s)
        targets = goal.copy()
        for arm, columns in enumerate(self._columns):
            move = np.abs(goal[columns] - self._targets[columns])
            share = float(np.min(fastest[columns] / np.maximum(move, fastest[columns] + TINY)))
            targets[columns] = self._targets[columns]
            for _ in range(TRIES):
                joints = self._targets.copy()
                joints[columns] += share * (goal[columns] - self._targets[columns])
                pose = self._kinematics.forward(joints)[arm]
                beyond = self._beyond_a_step(pose, commanded[arm])
                kept = beyond <= 1.0 + ROUNDING and self._no_further(pose, commanded[arm], measured[arm])
                if kept and self._boxes[arm].admits(pose, commanded[arm]):
                    targets[columns] = joints[columns]
                    break
                share /= max(2.0, beyond)
        poses = self._kinematics.forward(targets)
        far = [] if self._from_measured else self._beyond_leash(poses, measured)
        if far:
            held = self._held_targets(commanded, measured, period_s)
            for arm in far:
                targets[self._columns[arm]] = held[self._columns[arm]]
            poses = self._kinematics.forward(targets)
        self._command(targets, poses)
        applied = (targets - start)[self._order]
        return StepResult(targets.copy(), requested, applied, np.abs(applied - requested) > ROUNDING)

    def anchor(self, planned: np.ndarray) -> np.ndarray | None:
        """As in the base class, in the joints (rad) and grippers (m) of the actions (d,)."""
        return None if self._from_measured else self._targets[self._order] + planned.sum(axis=0)

    def follow(self, change: np.ndarray, q_measured: np.ndarray, period_s: float | None = None) -> StepResult:
        """Advance the commanded tool poses by a change (7 per arm): of a human's hand, or zeros to hold.

        What was asked is a change of tool poses, which has no one answer in joints: the result says what was done for
        both, and as clamped every component of an arm that a limit cut short.
        """
        q = self._finite(q_measured, self._targets.shape, "measured joints")
        start, commanded, measured = self._start(q), self.commanded, self._kinematics.forward(q)
        result = self._advance(change, commanded, commanded, measured, period_s)
        applied = (result.joint_targets - start)[self._order]
        cut = result.clamped.reshape(-1, ARM_DIM).any(axis=1)
        return StepResult(result.joint_targets, applied.copy(), applied, cut[self._arm_of])

    def _held_targets(self, commanded: list[Pose], measured: list[Pose], period_s: float | None) -> np.ndarray:
        """Joint targets (n,) of a hold in this step. Commands nothing."""
        before = self._targets, self._poses
        held = self._advance(np.zeros(self.hand_dim), commanded, commanded, measured, period_s).joint_targets
        self._command(*before)
        return held

    def _start(self, q_measured: np.ndarray) -> np.ndarray:
        """Joints (n,) that actions are added to."""
        if not self._from_measured:
            return self._targets.copy()
        start = q_measured.copy()
        start[self._grippers] = self._targets[self._grippers]
        return start

    def _no_further(self, pose: Pose, commanded: Pose, measured: Pose) -> bool:
        """Whether a commanded pose is as near the measured one as it must, or no further than before."""
        limits = self._limits
        shift, before = np.abs(pose[0] - measured[0]), np.abs(commanded[0] - measured[0])
        turn, turned = (np.linalg.norm(rotation_vector(one[1] @ measured[1].T)) for one in (pose, commanded))
        near = (shift <= np.maximum(limits.leash_position, before) + ROUNDING).all()
        return bool(near and turn <= max(limits.leash_rotation, turned) + ROUNDING)
