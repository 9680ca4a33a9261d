"""What stands in a policy's state and action vectors, part by part, and how it is read from and into the robot's own.

A part is `<arm>.<what>`, or `zeros.<n>` for n numbers that mean nothing:

    joints                                      the arm's joints, rad
    gripper                                     its gripper, in the policy's units (VlaConfig.gripper)
    position                                    tool tip, m, in the robot's frame or the arm's (VlaConfig.frames)
    rotation_vector, rpy,                       tool rotation; rpy turns about fixed x, y, z (REP-103);
    quaternion_xyzw, quaternion_wxyz,
    rotation_6d_rows, rotation_6d_columns       6d are the first two rows or columns of the matrix
    joint_velocities, joint_efforts             rad/s and N m (of `state` only)

Everything is computed in float64. Poses come from the joints by the robot's kinematics, as the executor has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from rlt_common.config import RobotConfig
from rlt_common.kinematics import ArmKinematics
from rlt_common.parameters import ParameterError
from rlt_common.vla_config import GripperScale, VlaConfig

JOINTS, GRIPPER, POSITION, ZEROS = "joints", "gripper", "position", "zeros"
VELOCITIES, EFFORTS = "joint_velocities", "joint_efforts"
DYNAMIC = {VELOCITIES: "joint_velocity", EFFORTS: "joint_effort"}
"""Part -> the proprioception block that it is taken from."""


@dataclass(frozen=True)
class _RotationForm:
    width: int
    read: Callable[[np.ndarray], Rotation]
    write: Callable[[Rotation], np.ndarray]


def _from_6d(values: np.ndarray) -> Rotation:
    """Gram-Schmidt of two vectors (T, 6), which become the first two rows."""
    one = values[:, :3] / np.linalg.norm(values[:, :3], axis=1, keepdims=True)
    two = values[:, 3:] - (one * values[:, 3:]).sum(axis=1, keepdims=True) * one
    two /= np.linalg.norm(two, axis=1, keepdims=True)
    return Rotation.from_matrix(np.stack([one, two, np.cross(one, two)], axis=1))


ROTATIONS: Mapping[str, _RotationForm] = {
    "rotation_vector": _RotationForm(3, Rotation.from_rotvec, lambda r: r.as_rotvec()),
    "quaternion_xyzw": _RotationForm(4, Rotation.from_quat, lambda r: r.as_quat(canonical=True)),
    "quaternion_wxyz": _RotationForm(
        4, lambda v: Rotation.from_quat(v[:, [1, 2, 3, 0]]), lambda r: r.as_quat(canonical=True)[:, [3, 0, 1, 2]]
    ),
    "rpy": _RotationForm(3, lambda v: Rotation.from_euler("xyz", v), lambda r: r.as_euler("xyz")),
    "rotation_6d_rows": _RotationForm(6, _from_6d, lambda r: r.as_matrix()[:, :2].reshape(-1, 6)),
    "rotation_6d_columns": _RotationForm(
        6, lambda v: _from_6d(v).inv(), lambda r: r.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)
    ),
}


@dataclass(frozen=True)
class Part:
    """A part of a vector: columns `first` to `first + width` hold `what` of arm `arm` (-1: of none)."""

    name: str
    arm: int
    what: str
    first: int
    width: int

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.first, self.first + self.width)


@dataclass(frozen=True)
class ArmValues:
    """What rows of a vector say of one arm, T rows; None where they say nothing of it.

    joints (T, J) rad; position (T, 3) m and rotation (T), in the policy's frame; gripper (T,) m.
    """

    joints: np.ndarray | None = None
    position: np.ndarray | None = None
    rotation: Rotation | None = None
    gripper: np.ndarray | None = None


class VectorLayout:
    """One of a policy's vectors, on one robot."""

    def __init__(
        self, parts: Sequence[str], key: str, config: VlaConfig, robot: RobotConfig, kinematics: ArmKinematics
    ) -> None:
        """`key`: the key of the VLA file that `parts` stand under. Raises ParameterError naming the part."""
        self.parts = _parse(parts, key, robot)
        self._scale, self._robot, self._kinematics = config.gripper, robot, kinematics
        joints = robot.joint_names
        self._joints = [np.array([joints.index(name) for name in arm.joints]) for arm in robot.arms]
        self._grippers = [joints.index(arm.gripper) for arm in robot.arms]
        self.frames = arm_frames(config, robot, kinematics)

    @property
    def width(self) -> int:
        """Length of the vector."""
        return sum(part.width for part in self.parts)

    def names(self) -> list[str]:
        """A name of each column, for data sets."""
        found = []
        for part in self.parts:
            if part.what in (JOINTS, *DYNAMIC):
                arm = self._robot.arms[part.arm]
                suffix = "" if part.what == JOINTS else f".{part.what.removeprefix('joint_')}"
                found += [joint + suffix for joint in arm.joints]
            elif part.width == 1:
                found.append(part.name)
            else:
                found += [f"{part.name}.{i}" for i in range(part.width)]
        return found

    def write(self, q: np.ndarray, dynamics: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The vectors (T, width) float64 of joint vectors q (T, n).

        `dynamics`: blocks joint_velocity and joint_effort (T, n), where a part needs them.
        """
        q = np.asarray(q, np.float64)
        out = np.zeros((len(q), self.width))
        poses = self._poses(q) if any(part.what == POSITION or part.what in ROTATIONS for part in self.parts) else []
        for part in self.parts:
            if part.what == JOINTS:
                out[:, part.columns] = q[:, self._joints[part.arm]]
            elif part.what in DYNAMIC:
                values = (dynamics or {})[DYNAMIC[part.what]]
                out[:, part.columns] = np.asarray(values, np.float64)[:, self._joints[part.arm]]
            elif part.what == GRIPPER:
                out[:, part.first] = _to_policy(q[:, self._grippers[part.arm]], self._scale)
            elif part.what == POSITION:
                out[:, part.columns] = poses[part.arm][0]
            elif part.what in ROTATIONS:
                out[:, part.columns] = ROTATIONS[part.what].write(poses[part.arm][1])
        return out

    def at(self, q: np.ndarray) -> list[ArmValues]:
        """Every arm's joints, tool pose in the policy's frame and gripper at one joint vector q (n,), as one row."""
        poses = self._poses(np.asarray(q, np.float64)[None])
        return [
            ArmValues(q[None, self._joints[arm]], *poses[arm], q[None, self._grippers[arm]])
            for arm in range(len(self._robot.arms))
        ]

    def tool_poses(self, arm: int, joints: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, Rotation]:
        """Tool poses of one arm, in the policy's frame, at its joints (T, J); q (n,): where the others are."""
        full = np.repeat(np.asarray(q, np.float64)[None], len(joints), axis=0)
        full[:, self._joints[arm]] = joints
        return self._poses(full)[arm]

    def read(self, rows: np.ndarray, *, absolute: bool, only: Sequence[Part] | None = None) -> list[ArmValues]:
        """What rows (T, width) say of each arm. Differences of grippers (`absolute` false) have no offset."""
        found: list[dict[str, object]] = [{} for _ in self._robot.arms]
        for part in self.parts if only is None else only:
            values = rows[:, part.columns]
            if part.what == GRIPPER:
                offset = self._scale.offset if absolute else 0.0
                found[part.arm]["gripper"] = (values[:, 0] - offset) / self._scale.scale
            elif part.what in ROTATIONS:
                found[part.arm]["rotation"] = _read_rotation(part, values)
            elif part.what in (JOINTS, POSITION):
                found[part.arm][part.what] = values
        return [ArmValues(**values) for values in found]

    def _poses(self, q: np.ndarray) -> list[tuple[np.ndarray, Rotation]]:
        found = [self._kinematics.forward(row) for row in q]
        poses = []
        for arm, (origin, turn) in enumerate(self.frames):
            position = np.stack([row[arm][0] for row in found])
            rotation = Rotation.from_matrix(np.stack([row[arm][1] for row in found]))
            poses.append((turn.inv().apply(position - origin), turn.inv() * rotation))
        return poses


def arm_frames(config: VlaConfig, robot: RobotConfig, kinematics: ArmKinematics) -> list[tuple[np.ndarray, Rotation]]:
    """Origin (3,) m and rotation of the frame that the policy's poses of each arm are in, in the robot's frame.

    Raises ParameterError for a body that the kinematics model does not have, or that moves.
    """
    frames = []
    for arm in robot.arms:
        if arm.name not in config.frames:
            frames.append((np.zeros(3), Rotation.identity()))
            continue
        try:
            origin, matrix = kinematics.body_pose(config.frames[arm.name])
        except ValueError as error:
            raise ParameterError(f"frames: {arm.name}: {error}") from error
        frames.append((origin, Rotation.from_matrix(matrix)))
    return frames


def _to_policy(metres: np.ndarray, scale: GripperScale) -> np.ndarray:
    return metres * scale.scale + scale.offset


def _read_rotation(part: Part, values: np.ndarray) -> Rotation:
    try:
        return ROTATIONS[part.what].read(values)
    except ValueError as error:
        raise ValueError(f"{part.name}: {error}") from error


def _parse(parts: Sequence[str], key: str, robot: RobotConfig) -> tuple[Part, ...]:
    arms = [arm.name for arm in robot.arms]
    known = (JOINTS, GRIPPER, POSITION, *ROTATIONS, *(DYNAMIC if key == "state" else ()))
    found: list[Part] = []
    first = 0
    for name in parts:
        arm_name, _, what = name.rpartition(".")
        if arm_name == ZEROS and what.isascii() and what.isdecimal() and 0 < int(what) <= 4096:
            part = Part(name, -1, ZEROS, first, int(what))
        elif arm_name not in arms or what not in known:
            raise ParameterError(
                f"{key}: unknown part {name!r}: write <arm>.<what> with an arm of {', '.join(arms)} and one of "
                f"{', '.join(known)}; or {ZEROS}.<n>"
            )
        else:
            arm = arms.index(arm_name)
            widths = {GRIPPER: 1, POSITION: 3, **{form: ROTATIONS[form].width for form in ROTATIONS}}
            part = Part(name, arm, what, first, widths.get(what, len(robot.arms[arm].joints)))
        if part.arm >= 0 and any(_same(part, other) for other in found):
            raise ParameterError(f"{key}: {name!r} says again what another part says")
        found.append(part)
        first += part.width
    return tuple(found)


def _same(part: Part, other: Part) -> bool:
    rotations = part.what in ROTATIONS and other.what in ROTATIONS
    return part.arm == other.arm and (part.what == other.what or rotations)
