"""Leader arms as a source of motion: the arms follow the leaders that a person moves. Pure: no ROS, no clock.

Each control step asks for a share (`gain`) of the way from the pose that the executor has commanded to the pose that
the leader asks for, and for no more than the robot's step limit. The commanded pose is known from the joint targets of
the last executed step, so a step that the executor limited, or repeated, is made good by the next one.

relative: the leader's motion since the take-over, added to the pose in which the arm was then (a clutch). Where an arm
    falls behind by more than the lag, the leader's motion beyond it is dropped.
absolute: the leader's own pose. The arm first ramps onto it at the mapping's linear and angular speed; these steps are
    marked as repositioning until every arm has come within the tolerance. One that falls behind by more than the lag
    ramps again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlt_common.config import ARM_ACTION_DIM, ArmConfig, RobotConfig
from rlt_common.kinematics import ArmChain, ArmKinematics, Pose, build_kinematics
from rlt_common.parameters import ParameterError
from rlt_common.rotations import limit_rotation, rotation_matrix, rotation_vector
from rlt_msgs.msg import TeleopCommand
from rlt_teleop.joy_mapping import JoyMapping
from rlt_teleop.motion import GRIPPER, MotionError, PadState, Step, speed_scale
from rlt_teleop.motion_config import LeaderArm


@dataclass(frozen=True)
class Hand:
    """A tool pose (position (3,) m, rotation (3, 3)) with its gripper's opening, m; None: no gripper to follow."""

    pose: Pose
    grip: float | None


class Leader:
    """One leader arm: joint states in, tool pose out, as the arm it moves would have it.

    Args:
        config: names, gripper, model.
        robot: whose arm it moves.
        arm: that arm.
        grip_range: the arm's gripper, closed and open, m.
        folder: what `config.kinematics` is relative to.

    Raises ParameterError when the model or the joints do not fit.
    """

    def __init__(
        self, config: LeaderArm, robot: RobotConfig, arm: ArmConfig, grip_range: tuple[float, float], folder: Path
    ) -> None:
        self._config, self._grip_range = config, grip_range
        model = folder / config.kinematics if config.kinematics else robot.kinematics_path
        joints = config.joints if config.kinematics else arm.joints
        if len(joints) != len(config.joints):
            raise ParameterError(
                f"leader: arms: {arm.name}: {len(config.joints)} joints for the {len(joints)} of the robot's arm: "
                "name as many, or give the leader's own kinematics"
            )
        try:
            self._kinematics = ArmKinematics(model, joints, [ArmChain(joints, config.tip or arm.tip)])
        except ValueError as error:
            raise ParameterError(f"leader: arms: {arm.name}: {model}: {error}") from error
        self.heard_s = -np.inf
        self.error = ""
        self.hand: Hand | None = None

    def accept(self, names: Sequence[str], positions: Sequence[float], now_s: float) -> None:
        """Take joint states, rad, in any order. Raises MotionError, and `error` stays until better ones come."""
        topic, config = self._config.topic, self._config
        self.error = ""
        wanted = (*config.joints, config.gripper) if config.gripper else config.joints
        missing = [name for name in wanted if name not in names]
        if missing:
            self.error = f"{topic} has no joint {missing[0]!r}; it names {list(names)}"
        elif len(positions) != len(names):
            self.error = f"{topic} has {len(positions)} positions for {len(names)} names"
        else:
            values = dict(zip(names, positions, strict=True))
            q = np.array([values[name] for name in wanted], dtype=np.float64)
            if not np.isfinite(q).all():
                self.error = (
                    f"{topic} holds a value that is not finite for joint {wanted[int(np.argmin(np.isfinite(q)))]}"
                )
        if self.error:
            raise MotionError(self.error)
        grip = self._grip(float(q[-1])) if config.gripper else None
        self.hand = Hand(self._kinematics.forward(q[: len(config.joints)])[0], grip)
        self.heard_s = now_s

    def _grip(self, value: float) -> float:
        closed, opened = self._config.gripper_closed, self._config.gripper_open
        low, high = self._grip_range
        return low + (high - low) * float(np.clip((value - closed) / (opened - closed), 0.0, 1.0))


class LeaderMotion:
    """The robot's arms follow leader arms. See the module docstring.

    Args:
        mapping: its section `leader`, and the speeds of the ramp.
        robot: arms, limits and model of the robot that is moved.

    Raises ParameterError when arms, joints or models do not fit.
    """

    frame = TeleopCommand.FRAME_WORLD

    def __init__(self, mapping: JoyMapping, robot: RobotConfig) -> None:
        self._config, self._robot = mapping.leader, robot
        self._arms = [arm.name for arm in robot.arms]
        unknown = sorted(set(self._config.arms) - set(self._arms))
        if unknown:
            raise ParameterError(
                f"joystick mapping of {mapping.device}: leader: arms: the robot has no arm {unknown[0]!r}; "
                f"it has {', '.join(self._arms)}"
            )
        self._kinematics = build_kinematics(robot)
        self._grippers = [robot.joint_names.index(arm.gripper) for arm in robot.arms]
        followers = [arm for arm in robot.arms if arm.name in self._config.arms]
        self._grip_ranges = {arm.name: self._grip_range(arm) for arm in followers}
        self.leaders = {
            arm.name: Leader(self._config.arms[arm.name], robot, arm, self._grip_ranges[arm.name], Path(mapping.folder))
            for arm in followers
        }
        limit = robot.hand_step_limit[:ARM_ACTION_DIM]
        self._limit = limit
        ramp = np.append(speed_scale(mapping, robot.control_hz), mapping.gripper_speed / robot.control_hz)
        self._ramp_limit = np.minimum(limit, ramp)
        self._followers: list[Hand] | None = None
        self._followed_s = -np.inf
        self._anchors: dict[str, tuple[Hand, Hand]] = {}
        self._ramping: set[str] = set()

    def accept(self, arm: str, names: Sequence[str], positions: Sequence[float], now_s: float) -> None:
        """Take the joint states of the leader of `arm`. Raises MotionError: then nothing moves until better ones."""
        self.leaders[arm].accept(names, positions, now_s)

    def executed(self, names: Sequence[str], target: Sequence[float], now_s: float) -> None:
        """Take the joint targets, rad and m, of the last executed step. Raises MotionError for another robot's."""
        if tuple(names) != self._robot.joint_names or len(target) != len(names):
            raise MotionError(f"executed_action names the joints {list(names)}, not those of {self._robot.name}")
        q = np.asarray(target, dtype=np.float64)
        if not np.isfinite(q).all():
            raise MotionError("executed_action holds a joint target that is not finite")
        poses = self._kinematics.forward(q)
        self._followers = [Hand(pose, float(q[i])) for pose, i in zip(poses, self._grippers, strict=True)]
        self._followed_s = now_s

    def begin(self) -> None:
        """The human takes over: the leaders count from where they are now."""
        self._anchors.clear()
        self._followers = None
        self._ramping = set(self.leaders) if self._config.mode == "absolute" else set()

    def watch(self, axes: Sequence[float]) -> None:
        """The pad only enables."""

    def fault(self, now_s: float) -> str:
        """Why the leaders may not move anything."""
        for name, leader in self.leaders.items():
            if leader.error:
                return leader.error
            silence_s = now_s - leader.heard_s
            if silence_s > self._config.timeout_s:
                return f"no {self._config.arms[name].topic} for {silence_s:.2g} s: is the leader's driver running?"
        return ""

    def step(self, pad: PadState, now_s: float) -> Step:
        """The motion asked for in this control step."""
        action = np.zeros(self._robot.hand_step_limit.size)
        if self._followers is None or now_s - self._followed_s > self._config.timeout_s:
            return Step(action, waiting="no executed step yet that says where the arms are")
        for name, leader in self.leaders.items():
            arm = self._arms.index(name)
            at = self._followers[arm]
            target = self._target(name, leader.hand, at)
            self._judge(name, target, at)
            limit = self._ramp_limit if name in self._ramping else self._limit
            part = self._config.gain * _way(at, target)
            for block in (slice(0, 3), slice(3, GRIPPER), slice(GRIPPER, ARM_ACTION_DIM)):
                part[block] /= max(1.0, float(np.max(np.abs(part[block]) / limit[block])))
            action[ARM_ACTION_DIM * arm : ARM_ACTION_DIM * (arm + 1)] = part
        return Step(action, repositioning=bool(self._ramping))

    def _target(self, name: str, leader: Hand, at: Hand) -> Hand:
        """The hand that the arm is to have."""
        if self._config.mode == "absolute":
            return leader
        leader_then, then = self._anchors.setdefault(name, (leader, at))
        target = _moved(then, leader_then, leader, self._grip_ranges[name])
        near = self._within_lag(target, at)
        if near is not target:
            self._anchors[name] = (leader, near)
        return near

    def _within_lag(self, target: Hand, at: Hand) -> Hand:
        """The target itself, or the one on the way to it that is not farther than the lag."""
        offset = target.pose[0] - at.pose[0]
        distance = float(np.linalg.norm(offset))
        turned = float(np.linalg.norm(rotation_vector(target.pose[1] @ at.pose[1].T)))
        if distance <= self._config.lag_translation and turned <= self._config.lag_rotation:
            return target
        position = at.pose[0] + offset * min(1.0, self._config.lag_translation / max(distance, 1e-9))
        return Hand((position, limit_rotation(target.pose[1], at.pose[1], self._config.lag_rotation)), target.grip)

    def _judge(self, name: str, target: Hand, at: Hand) -> None:
        """Whether an absolute leader's arm is on its ramp."""
        if self._config.mode != "absolute":
            return
        way, config = _way(at, target), self._config
        distance, turned = float(np.linalg.norm(way[:3])), float(np.linalg.norm(way[3:GRIPPER]))
        if distance > config.lag_translation or turned > config.lag_rotation:
            self._ramping.add(name)
        elif (
            distance <= config.tolerance_translation
            and turned <= config.tolerance_rotation
            and abs(way[GRIPPER]) <= config.tolerance_gripper
        ):
            self._ramping.discard(name)

    def _grip_range(self, arm: ArmConfig) -> tuple[float, float]:
        """The arm's gripper, closed and open, m: as far as the executor lets it go, or a target beyond that would never
        be reached."""
        index = self._robot.joint_names.index(arm.gripper)
        low, high = float(self._kinematics.lower[index]), float(self._kinematics.upper[index])
        least, most = self._robot.joint_limits.get(arm.gripper, (low, high))
        low, high = max(low, least), min(high, most)
        if self._config.arms[arm.name].gripper and not np.isfinite([low, high]).all():
            raise ParameterError(
                f"{self._robot.kinematics_path}: joint {arm.gripper} has no range: a leader's gripper is scaled onto it"
            )
        return low, high


def _way(at: Hand, target: Hand) -> np.ndarray:
    """(7,) from one hand to another: m, rad (rotation vector, world frame), m."""
    turn = rotation_vector(target.pose[1] @ at.pose[1].T)
    grip = 0.0 if target.grip is None else target.grip - at.grip
    return np.concatenate([target.pose[0] - at.pose[0], turn, [grip]])


def _moved(then: Hand, leader_then: Hand, leader: Hand, grip_range: tuple[float, float]) -> Hand:
    """The hand `then` moved as the leader has moved since."""
    way = _way(leader_then, leader)
    grip = None if leader.grip is None else float(np.clip(then.grip + way[GRIPPER], *grip_range))
    return Hand((then.pose[0] + way[:3], rotation_matrix(way[3:GRIPPER]) @ then.pose[1]), grip)
