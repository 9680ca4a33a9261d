"""From delta tool-pose actions to joint position targets, with every motion limit in one place.

An action is a change of a tool pose, 7 numbers per arm: [dx, dy, dz (m), rx, ry, rz (rad, rotation vector),
dgripper (m)], world frame, arms in the robot's order. It starts from the COMMANDED pose or, where the robot file says
`relative_to: measured`, from the measured one; a gripper always from its commanded position, else it would let go of
what stops it. A hold, and a human's hand, change the commanded pose either way (`follow`): a hold that started anew
from the measured pose in every step would sink. Limits, in the order they are applied:

1. step: each component is clipped to the largest step;
2. leash: the commanded pose stays near the measured one, so the force in contact is bounded; where the measured pose
   has moved away, it follows by no more than a step from the pose commanded before;
3. workspace: the tool, with what it holds, stays in a box;
4. joints: inverse kinematics, then joint ranges and the largest joint velocity times the control period.

Where a joint's range or velocity cuts a step short, or the joints found do not reach the pose (a singularity, a pose
out of reach), the commanded pose becomes the one that the joints reach: what is recorded as applied is what was sent;
where that pose breaks a limit above, the arm stays where it is. The integrator knows nothing of ROS or time; whoever
calls `step` once per control period decides the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlt_common.kinematics import ArmKinematics, Pose
from rlt_common.rotations import limit_rotation, rotation_matrix, rotation_vector
from rlt_control.workspace import Workspace

ARM_DIM = 7
"""Action components per arm: 3 translation, 3 rotation, 1 gripper."""
RANGE_MARGIN = 0.1
"""rad or m that a joint may be measured beyond its range: encoders' offsets. What is further out is no measurement."""
MISS_M, MISS_RAD = 2e-3, 0.02
"""How far from the commanded pose the joints found may hold the tool. More is no solution, and would add up unseen."""
ROUNDING = 1e-9
SHORTER = 3
"""How often a way is cut to the largest step of a tool: it bends, and the first cut may not do."""
NO_RESET = "the integrator has no commanded pose yet: call reset with the measured joints first"


@dataclass(frozen=True)
class MotionLimits:
    """Bounds of the motion. Tuples over arms or joints follow the robot's order.

    Attributes:
        workspace: per arm ((x, y, z) lowest, (x, y, z) highest) of the commanded tip, m, world frame.
        joint_lower, joint_upper: per joint of the robot, grippers included, rad or m.
        step_position, step_rotation, step_gripper: largest action component, m, rad, m.
        step_joint: largest change of an arm joint by an action of joints, rad.
        leash_position, leash_rotation: largest distance from commanded to measured tool pose, m (per axis)
            and rad (angle).
        joint_velocity: largest speed of an arm joint's target, rad/s, one for all or one per joint of the robot.
        period_s: control period, s.
        tools: per arm ((x, y, z) lowest, (x, y, z) highest) of what the tool holds, m, tool frame; empty: tips alone.
    """

    workspace: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]
    joint_lower: tuple[float, ...]
    joint_upper: tuple[float, ...]
    step_position: float = 0.005
    step_rotation: float = 0.05
    step_gripper: float = 0.005
    step_joint: float = 0.05
    leash_position: float = 0.02
    leash_rotation: float = 0.25
    joint_velocity: float | tuple[float, ...] = 10.0
    period_s: float = 0.02
    tools: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "step_position",
            "step_rotation",
            "step_gripper",
            "step_joint",
            "leash_position",
            "leash_rotation",
            "joint_velocity",
            "period_s",
        ):
            if not np.all(np.asarray(getattr(self, name)) > 0.0):
                raise ValueError(f"MotionLimits.{name} is {getattr(self, name)}: it must be above 0")
        if len(self.joint_lower) != len(self.joint_upper):
            raise ValueError(f"MotionLimits has {len(self.joint_lower)} lower and {len(self.joint_upper)} upper limits")
        if any(not low <= high for low, high in zip(self.joint_lower, self.joint_upper, strict=True)):
            raise ValueError("MotionLimits.joint_lower exceeds joint_upper for some joint: check both lists")
        if np.ndim(self.joint_velocity) and len(self.joint_velocity) != len(self.joint_lower):
            raise ValueError(
                f"MotionLimits has {len(self.joint_velocity)} velocities for {len(self.joint_lower)} joints"
            )
        if self.tools and len(self.tools) != len(self.workspace):
            raise ValueError(f"MotionLimits has {len(self.tools)} tools for {len(self.workspace)} arms")
        for arm, (low, high) in enumerate(self.workspace):
            if any(not a < b for a, b in zip(low, high, strict=True)):
                raise ValueError(f"MotionLimits.workspace of arm {arm} is empty: {low} to {high}")

    def step_vector(self) -> np.ndarray:
        """(7 * arms,) largest absolute value of each action component."""
        one = [self.step_position] * 3 + [self.step_rotation] * 3 + [self.step_gripper]
        return np.array(one * len(self.workspace))


@dataclass(frozen=True)
class StepResult:
    """What one step commands.

    Attributes:
        joint_targets: (n,) absolute joint position targets, rad or m.
        requested: (d,) the action before the limits.
        applied: (d,) the action that remained after them: from where actions start to what is commanded now.
        clamped: (d,) bool, components that a limit changed.
    """

    joint_targets: np.ndarray
    requested: np.ndarray
    applied: np.ndarray
    clamped: np.ndarray


class DeltaPoseIntegrator:
    """Integrates actions into a commanded pose per arm and solves for joint targets.

    Args:
        kinematics: arms in action order; its joint vector is the robot's (n,).
        gripper_joints: name of the gripper joint of each arm, in the order of the arms.
        limits: the motion limits.
        iterations: inverse kinematics iterations per step (fixed, so that the time of a step is bounded).
        from_measured: actions start from the measured tool poses, not from the commanded ones.
    """

    def __init__(
        self,
        kinematics: ArmKinematics,
        gripper_joints: tuple[str, ...],
        limits: MotionLimits,
        iterations: int = 2,
        from_measured: bool = False,
    ) -> None:
        arms, joints = len(kinematics.arms), len(kinematics.joint_names)
        if len(gripper_joints) != arms or len(limits.workspace) != arms:
            raise ValueError(
                f"{arms} arms, but {len(gripper_joints)} gripper joints and {len(limits.workspace)} workspace boxes"
            )
        if len(limits.joint_lower) != joints:
            raise ValueError(f"{joints} joints, but {len(limits.joint_lower)} joint limits")
        unknown = sorted(set(gripper_joints) - set(kinematics.joint_names))
        if unknown:
            raise ValueError(f"gripper joints {unknown} are not among the robot's joints")
        self.action_dim = self.hand_dim = ARM_DIM * arms
        self._kinematics = kinematics
        self._limits = limits
        self._iterations = iterations
        self._from_measured = from_measured
        self._grippers = np.array([kinematics.joint_names.index(name) for name in gripper_joints])
        self._columns = [np.array([kinematics.joint_names.index(j) for j in arm.joints]) for arm in kinematics.arms]
        self._lower = np.maximum(np.array(limits.joint_lower), kinematics.lower)
        self._upper = np.minimum(np.array(limits.joint_upper), kinematics.upper)
        self._lower_range, self._upper_range = kinematics.lower, kinematics.upper
        self._step = limits.step_vector()
        self._velocity = np.broadcast_to(np.asarray(limits.joint_velocity, dtype=np.float64), (joints,))
        tools = limits.tools or (((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),) * arms
        self._boxes = [Workspace(*box, *tool) for box, tool in zip(limits.workspace, tools, strict=True)]
        self._poses: list[Pose] | None = None
        self._targets = np.zeros(joints)
        self._grips = np.full(arms, np.nan)  # as last commanded; NaN: not yet

    @property
    def commanded(self) -> list[Pose]:
        """The commanded tool pose of each arm: (position (3,) m, rotation (3, 3)), world frame."""
        if self._poses is None:
            raise ValueError(NO_RESET)
        return [(position.copy(), rotation.copy()) for position, rotation in self._poses]

    def implausible(self, q_measured: np.ndarray) -> str:
        """Why finite measured joints (n,) cannot be where the arms are; empty when they can."""
        beyond = (q_measured < self._lower_range - RANGE_MARGIN) | (q_measured > self._upper_range + RANGE_MARGIN)
        if not beyond.any():
            return ""
        joint = int(np.argmax(beyond))
        return (
            f"joint {self._kinematics.joint_names[joint]} is measured at {q_measured[joint]:.4g}, its range is "
            f"{self._lower_range[joint]:.4g} to {self._upper_range[joint]:.4g}"
        )

    def reset(self, q_measured: np.ndarray, keep_grippers: bool = False) -> None:
        """Take the measured joints (n,) as the commanded state: the next step starts from there, without a jump.

        With `keep_grippers` a gripper that was commanded keeps that: told to be where a part has stopped it, it would
        let go of the part.
        """
        q = self._finite(q_measured, self._targets.shape, "measured joints")
        self._targets = q.copy()
        if keep_grippers:
            self._targets[self._grippers] = np.where(np.isnan(self._grips), q[self._grippers], self._grips)
        else:
            self._grips[:] = np.nan
        self._poses = self._kinematics.forward(self._targets)

    def hold_at(self, q_measured: np.ndarray, keep_grippers: bool = False) -> np.ndarray:
        """As `reset`. Returns the joint targets (n,) that hold there.

        A joint outside its range comes nearer to it by no more than it may move in a period.
        """
        self.reset(q_measured, keep_grippers)
        most = self._largest_moves(None).copy()
        most[self._grippers] = self._limits.step_gripper
        back = np.clip(self._targets, self._lower, self._upper) - self._targets
        self._targets = self._targets + np.clip(back, -most, most)
        self._poses = self._kinematics.forward(self._targets)
        return self._targets.copy()

    def held(self, q_measured: np.ndarray, period_s: float | None = None) -> np.ndarray:
        """Joint targets (n,) of arms that stand. One that is measured (n,) further away than its leash, because others
        moved it or it fell, takes its target along: out of the workspace too, or it would jump back there."""
        q = self._finite(q_measured, self._targets.shape, "measured joints")
        largest = self._largest_moves(period_s)
        commanded = self.commanded
        for arm in self._beyond_leash(commanded, self._kinematics.forward(q)):
            columns = self._columns[arm]
            way, targets = np.clip(q - self._targets, -largest, largest)[columns], self._targets.copy()
            for _ in range(SHORTER):
                targets[columns] = self._targets[columns] + way
                poses = self._kinematics.forward(targets)
                if (steps := self._beyond_a_step(poses[arm], commanded[arm])) <= 1.0 + ROUNDING:
                    self._targets, self._poses = targets, poses
                    break
                way = way / (1.01 * steps)
        return self._targets.copy()

    def strayed(self, q_measured: np.ndarray) -> bool:
        """Whether an arm is measured (n,) further from its commanded pose than its leash."""
        measured = self._kinematics.forward(self._finite(q_measured, self._targets.shape, "measured joints"))
        return bool(self._beyond_leash(self.commanded, measured))

    def forget_moved_grippers(self, q_before: np.ndarray, q_measured: np.ndarray) -> bool:
        """Forget what a gripper was commanded that has moved away from it: by hand, or with its driver's new start.
        Returns whether there was one."""
        before, now = q_before[self._grippers], q_measured[self._grippers]
        away = np.abs(now - self._grips) > np.abs(before - self._grips) + self._limits.step_gripper
        self._grips = np.where(away, np.nan, self._grips)
        return bool(away.any())

    def in_world(self, action: np.ndarray) -> np.ndarray:
        """Changes of tool poses (7 per arm), given in the frames of the commanded tools, in the world frame."""
        turned = self._finite(action, (self.hand_dim,), "action").copy()
        for arm, (_, rotation) in enumerate(self.commanded):
            part = turned[ARM_DIM * arm : ARM_DIM * arm + 6].reshape(2, 3)
            part[:] = part @ rotation.T
        return turned

    def step(self, action: np.ndarray, q_measured: np.ndarray, period_s: float | None = None) -> StepResult:
        """Advance the commanded poses by one action of the policy.

        Args:
            action: (d,) requested change of the tool poses, from the commanded or the measured ones.
            q_measured: (n,) measured joints, rad or m.
            period_s: s since the last step, as measured; a step that comes early may move the joints by less.

        Raises:
            ValueError: wrong length, a value that is not finite, or no `reset` yet. The commanded state is unchanged.
        """
        q = self._finite(q_measured, self._targets.shape, "measured joints")
        commanded, measured = self.commanded, self._kinematics.forward(q)
        return self._advance(action, measured if self._from_measured else commanded, commanded, measured, period_s)

    def anchor(self, planned: np.ndarray) -> np.ndarray | None:
        """What is commanded once these actions (n, d) have been played, as far as no limit cuts them short.

        (7 per arm,): tool position (m), rotation vector (rad), gripper (m). None where actions start from the measured
        poses: what is commanded has no part in them.
        """
        if self._from_measured:
            return None
        values = []
        for arm, (position, rotation) in enumerate(self.commanded):
            part = planned[:, ARM_DIM * arm : ARM_DIM * (arm + 1)]
            for row in part:
                rotation = rotation_matrix(row[3:6]) @ rotation
            grip = self._targets[self._grippers[arm]] + part[:, 6].sum()
            values += [position + part[:, :3].sum(axis=0), rotation_vector(rotation), [grip]]
        return np.concatenate(values)

    def follow(self, change: np.ndarray, q_measured: np.ndarray, period_s: float | None = None) -> StepResult:
        """Advance the commanded poses by a change (d,) of the commanded poses: of a human's hand, or zeros to hold.

        As `step`; where actions start from the measured poses, the result says what was asked and done as such actions.
        """
        q = self._finite(q_measured, self._targets.shape, "measured joints")
        commanded, measured = self.commanded, self._kinematics.forward(q)
        result = self._advance(change, commanded, commanded, measured, period_s)
        if not self._from_measured:
            return result
        requested, applied = result.requested.copy(), result.applied.copy()
        for arm, ((position, rotation), at) in enumerate(zip(commanded, measured, strict=True)):
            block = slice(ARM_DIM * arm, ARM_DIM * (arm + 1))
            part = requested[block]
            requested[block] = _change(at, (position + part[:3], rotation_matrix(part[3:6]) @ rotation), part[6])
            applied[block] = _change(at, self._poses[arm], applied[block][-1])
        return replace(result, requested=requested, applied=applied)

    def _advance(
        self,
        action: np.ndarray,
        start: Sequence[Pose],
        commanded: Sequence[Pose],
        measured: Sequence[Pose],
        period_s: float | None,
    ) -> StepResult:
        """Command the poses that `action` reaches from `start`, within the limits."""
        requested = self._finite(action, (self.hand_dim,), "action")
        limits = self._limits
        delta = np.clip(requested, -self._step, self._step)
        poses: list[Pose] = []
        applied = np.zeros(self.hand_dim)
        grips = self._targets[self._grippers]
        for arm, ((position, rotation), (at, facing)) in enumerate(zip(start, measured, strict=True)):
            part = delta[ARM_DIM * arm : ARM_DIM * (arm + 1)]
            new_position = np.clip(position + part[:3], at - limits.leash_position, at + limits.leash_position)
            new_rotation = limit_rotation(rotation_matrix(part[3:6]) @ rotation, facing, limits.leash_rotation)
            new_position, new_rotation = self._within_a_step(new_position, new_rotation, commanded[arm])
            new_position, new_rotation = self._boxes[arm].limit(new_position, new_rotation, commanded[arm])
            joint = self._grippers[arm]
            # A joint that starts outside its range may come back, but not go further out.
            new_grip = float(
                np.clip(grips[arm] + part[6], min(self._lower[joint], grips[arm]), max(self._upper[joint], grips[arm]))
            )
            applied[ARM_DIM * arm : ARM_DIM * (arm + 1)] = _change(
                (position, rotation), (new_position, new_rotation), new_grip - grips[arm]
            )
            grips[arm] = new_grip
            poses.append((new_position, new_rotation))
        solution = self._kinematics.inverse(self._targets, poses, self._iterations)
        goal = np.clip(solution, np.minimum(self._lower, self._targets), np.maximum(self._upper, self._targets))
        largest = self._largest_moves(period_s)
        targets = goal.copy()
        reached = self._kinematics.forward(goal)
        for arm, columns in enumerate(self._columns):
            move = np.abs(goal[columns] - self._targets[columns])
            share = float(np.min(largest[columns] / np.maximum(move, largest[columns] + np.finfo(float).tiny)))
            ends = (goal != solution) | (goal <= self._lower) | (goal >= self._upper)
            if (move > largest[columns]).any() or ends[columns].any() or _misses(reached[arm], poses[arm]):
                targets[columns], poses[arm] = self._as_far_as(arm, goal, share, commanded[arm])
                block = slice(ARM_DIM * arm, ARM_DIM * (arm + 1))
                applied[block] = _change(start[arm], poses[arm], applied[block][-1])
        targets[self._grippers] = grips
        self._command(targets, poses)
        clamped = np.abs(applied - requested) > ROUNDING
        return StepResult(self._targets.copy(), requested, applied, clamped)

    def _command(self, targets: np.ndarray, poses: list[Pose]) -> None:
        self._targets, self._poses, self._grips = targets, poses, targets[self._grippers]

    def _beyond_leash(self, commanded: Sequence[Pose], measured: Sequence[Pose]) -> list[int]:
        """The arms whose commanded pose is further from the measured one than it may be."""
        pairs = enumerate(zip(commanded, measured, strict=True))
        return [arm for arm, poses in pairs if not self._on_leash(*poses)]

    def _on_leash(self, commanded: Pose, measured: Pose) -> bool:
        """Whether the commanded pose is as near the measured one as it must be."""
        limits = self._limits
        shift = np.abs(commanded[0] - measured[0]).max()
        turn = np.linalg.norm(rotation_vector(commanded[1] @ measured[1].T))
        return bool(shift <= limits.leash_position + ROUNDING and turn <= limits.leash_rotation + ROUNDING)

    def _beyond_a_step(self, pose: Pose, commanded: Pose) -> float:
        """How many times the largest step of a tool it is from `commanded` to `pose`."""
        shift = np.abs(pose[0] - commanded[0]).max() / self._limits.step_position
        turn = np.abs(rotation_vector(pose[1] @ commanded[1].T)).max() / self._limits.step_rotation
        return float(max(shift, turn))

    def _largest_moves(self, period_s: float | None) -> np.ndarray:
        """(n,) how far each joint may move in a step that comes `period_s` after the last."""
        period = self._limits.period_s
        return self._velocity * min(period, period if period_s is None else max(period_s, 0.0))

    def _within_a_step(self, position: np.ndarray, rotation: np.ndarray, commanded: Pose) -> Pose:
        """The pose nearest to (`position`, `rotation`) that is at most a step away from the one commanded before.

        A measured pose that is wrong, or an arm that was pushed, drags the leash along; the arm must not leap after it.
        """
        before, facing = commanded
        most = self._limits.step_rotation
        turn = rotation_vector(rotation @ facing.T)
        if np.abs(turn).max() > most + ROUNDING:  # else exactly what was asked, to the last bit
            rotation = rotation_matrix(np.clip(turn, -most, most)) @ facing
        return np.clip(position, before - self._limits.step_position, before + self._limits.step_position), rotation

    def _as_far_as(self, arm: int, goal: np.ndarray, share: float, commanded: Pose) -> tuple[np.ndarray, Pose]:
        """The arm's joints, and the pose they reach, `share` of the way to `goal` (n,), or less, or not at all.

        All joints of the arm slow down together, so the tool goes where it was to go, only not as far. Where the end of
        a joint's range bends that way out of a limit of the tool, a part of it may still be inside.
        """
        columns = self._columns[arm]
        most = self._step[ARM_DIM * arm : ARM_DIM * (arm + 1) - 1] + ROUNDING
        for part in (share, share / 2, share / 4):
            joints = self._targets.copy()
            joints[columns] += part * (goal[columns] - joints[columns])
            pose = self._kinematics.forward(joints)[arm]
            if (np.abs(_change(commanded, pose, 0.0)[:-1]) <= most).all() and self._boxes[arm].admits(pose, commanded):
                return joints[columns], pose
        return self._targets[columns], commanded

    @staticmethod
    def _finite(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
        array = np.asarray(values, dtype=np.float64)
        if array.shape != shape:
            raise ValueError(f"{what} has shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array)).tolist()
            raise ValueError(f"{what} is not finite at components {bad}: nothing is commanded")
        return array


def _misses(reached: Pose, wanted: Pose) -> bool:
    """Whether the joints found are no solution."""
    (position, rotation), (at, facing) = reached, wanted
    turn = rotation_vector(rotation @ facing.T)
    return float(np.linalg.norm(position - at)) > MISS_M or float(np.linalg.norm(turn)) > MISS_RAD


def _change(before: Pose, after: Pose, grip: float) -> np.ndarray:
    """(7,) the action that leads from one tool pose to another, with a change of the gripper (m)."""
    (position, rotation), (new_position, new_rotation) = before, after
    return np.concatenate([new_position - position, rotation_vector(new_rotation @ rotation.T), [grip]])
