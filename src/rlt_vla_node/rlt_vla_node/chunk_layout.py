"""A policy's chunk as the robot's actions: whatever it counts in, at whatever rate, from wherever it starts.

Each row of the policy's chunk is read as where the arms are to be at its end (`vector_layout`): row k at (k + 1) / its
rate after the observation. That path is sampled at the robot's control steps (joints, positions and grippers linearly,
rotations along the shortest turn), and an action is the change from one step to the next.

Where rows say a place (absolute, or relative to the observation), the first action that will be played is the way there
from the ANCHOR: what will be commanded just before it. Without it a lag of the arms, or the steps that a chunk asked
for ahead is late by, would shift all that follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from rlt_common.config import RobotConfig
from rlt_common.kinematics import ArmKinematics, build_kinematics
from rlt_common.parameters import ParameterError
from rlt_common.vla_config import ABSOLUTE, FROM_OBSERVATION, PER_STEP, VlaConfig
from rlt_vla_node.anchor import Anchor
from rlt_vla_node.vector_layout import DYNAMIC, GRIPPER, JOINTS, POSITION, ROTATIONS, ArmValues, Part, VectorLayout

TOOL_DIM = 7
_ROUNDING = 1e-9


class ChunkLayout:
    """A policy's vectors on one robot: state vectors for it, actions of the robot from its chunks."""

    def __init__(self, config: VlaConfig, robot: RobotConfig, kinematics: ArmKinematics | None = None) -> None:
        """Raises ParameterError for a part, a frame or an action space that does not fit the robot."""
        self._config, self._robot = config, robot
        kinematics = build_kinematics(robot) if kinematics is None else kinematics
        self.state = VectorLayout(config.state, "state", config, robot, kinematics)
        self.actions = VectorLayout(config.actions, "actions", config, robot, kinematics)
        self._kinds = {
            part.name: ABSOLUTE if part.name in config.always_absolute else config.action_kind
            for part in self.actions.parts
        }
        self._check_actions()

    @property
    def anchored(self) -> bool:
        """Whether chunks say places, so that an anchor matters."""
        return any(kind != PER_STEP for kind in self._kinds.values())

    @property
    def kinds(self) -> frozenset[str]:
        """What the numbers of a row are, of `VlaConfig.action_kind`: of more than one kind with `always_absolute`."""
        return frozenset(self._kinds[part.name] for part in self.actions.parts if part.arm >= 0)

    @property
    def robot_actions(self) -> tuple[str, ...]:
        """Names of the values of the robot's actions, (d,)."""
        return self._robot.action_names

    @property
    def commanded(self) -> bool:
        """Whether the robot adds an action to what was commanded before, and not to what is measured."""
        return self._robot.relative_to == "commanded"

    def horizon(self, rows: int) -> int:
        """Control steps of the robot that `rows` rows of the policy's chunk last."""
        return math.floor(rows * self._robot.control_hz / self._config.control_hz + _ROUNDING)

    def state_vector(self, blocks: Mapping[str, np.ndarray]) -> np.ndarray:
        """The policy's state (S,) float32 from an observation's proprioception blocks, SI units."""
        dynamics = {name: np.asarray(blocks[name])[None] for name in DYNAMIC.values() if name in blocks}
        return self.state.write(np.asarray(blocks["joint_position"])[None], dynamics)[0].astype(np.float32)

    def to_actions(self, chunk: np.ndarray, q: np.ndarray, horizon: int, anchor: Anchor | None = None) -> np.ndarray:
        """The robot's actions (horizon, d) float32 for a policy's chunk.

        Args:
            chunk: (H, width) in the policy's units.
            q: (n,) measured joints of the observation, in the robot's order.
            horizon: rows wanted; the chunk must last that long.
            anchor: see the module; rows before `anchor.first` were played already and mean nothing. None: the measured
                joints, before row 0.

        Raises ValueError for a chunk of another shape, that is not finite, holds no rotation, or is too short.
        """
        chunk = np.asarray(chunk, np.float64)
        if chunk.ndim != 2 or chunk.shape[1] != self.actions.width:
            raise ValueError(
                f"the policy's chunk has shape {chunk.shape}, `actions` of its VLA file names {self.actions.width} "
                "columns"
            )
        if not np.isfinite(chunk).all():
            raise ValueError("the policy's chunk holds a value that is not finite")
        if self.horizon(len(chunk)) < horizon:
            raise ValueError(f"{len(chunk)} rows of the policy last {self.horizon(len(chunk))} steps, wanted {horizon}")
        at = np.arange(horizon + 1) * (self._config.control_hz / self._robot.control_hz)
        q = np.asarray(q, np.float64)
        columns = []
        first = 0
        for arm, (base, path) in enumerate(zip(self.actions.at(q), self._paths(chunk, q), strict=True)):
            width = TOOL_DIM if self._robot.actions == "tool_pose" else len(self._robot.arms[arm].joints) + 1
            there = None if anchor is None else anchor.values[first : first + width]
            columns.append(self._arm_actions(arm, base, path, at, q, there, 0 if anchor is None else anchor.first))
            first += width
        return np.concatenate(columns, axis=1).astype(np.float32)

    def targets(self, q: np.ndarray) -> np.ndarray:
        """Absolute rows (T, width) float32 of commanded joints (T, n): what a data set of the policy holds as actions.

        A policy of differences is trained on `differences` of them.
        """
        return self.actions.write(q).astype(np.float32)

    def differences(self, rows: np.ndarray, q: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Absolute rows (T, width) of one chunk as the policy counts, float32: what `to_actions` reads as these places.

        Args:
            q: (n,) joints measured in the observation, which `from_observation` counts from.
            before: (n,) joints commanded before row 0, which `per_step` counts row 0 from.
        """
        rows = np.asarray(rows, np.float64)
        out = rows.copy()
        bases = ((FROM_OBSERVATION, q, np.zeros(len(rows), int)), (PER_STEP, before, np.arange(len(rows))))
        for kind, start, base in bases:
            parts = [part for part in self.actions.parts if self._kinds[part.name] == kind and part.arm >= 0]
            if not parts:
                continue
            path = np.concatenate([self.actions.write(start[None]), rows])
            places, at_start = self.actions.read(path, absolute=True), self.actions.at(start)
            for part in parts:
                if _is_pose(part.what):
                    out[:, part.columns] = self._pose_changes(part, places[part.arm], at_start[part.arm], base)
                else:
                    out[:, part.columns] = path[1:, part.columns] - path[base, part.columns]
        return out.astype(np.float32)

    # ---- one arm

    def _paths(self, chunk: np.ndarray, q: np.ndarray) -> list[ArmValues]:
        """Of each arm, where it is to be after each row, in the policy's frame: T = rows."""
        base = self.actions.at(q)
        groups = {
            kind: self.actions.read(
                chunk,
                absolute=kind == ABSOLUTE,
                only=[part for part in self.actions.parts if self._kinds[part.name] == kind],
            )
            for kind in (ABSOLUTE, FROM_OBSERVATION, PER_STEP)
        }
        return [self._path(arm, start, groups) for arm, start in enumerate(base)]

    def _path(self, arm: int, start: ArmValues, groups: Mapping[str, list[ArmValues]]) -> ArmValues:
        def numbers(what: str) -> np.ndarray | None:
            origin = getattr(start, what)
            for kind, values in groups.items():
                rows = getattr(values[arm], what)
                if rows is not None:
                    return rows if kind == ABSOLUTE else origin + (rows if kind == FROM_OBSERVATION else rows.cumsum(0))
            return None

        position, rotation = self._pose_path(arm, start, groups)
        return ArmValues(numbers(JOINTS), position, rotation, numbers(GRIPPER))

    def _pose_path(
        self, arm: int, start: ArmValues, groups: Mapping[str, list[ArmValues]]
    ) -> tuple[np.ndarray | None, Rotation | None]:
        kinds = [self._kinds[part.name] for part in self.actions.parts if part.arm == arm and _is_pose(part.what)]
        if not kinds:
            return None, None
        said = groups[kinds[0]][arm]
        shifts, turns = said.position, said.rotation
        rows = len(shifts) if shifts is not None else len(turns)
        if kinds[0] == ABSOLUTE:
            position = np.repeat(start.position, rows, axis=0) if shifts is None else shifts
            return position, Rotation.concatenate([start.rotation] * rows) if turns is None else turns
        shifts = np.zeros((rows, 3)) if shifts is None else shifts
        turns = Rotation.identity(rows) if turns is None else turns
        along_tool = self._config.relative_rotation == "tool"
        origin, facing = start.position[0], start.rotation[0]
        if kinds[0] == FROM_OBSERVATION:
            if along_tool:
                return origin + facing.apply(shifts), facing * turns
            return origin + shifts, turns * facing
        positions, rotations = [], []
        for shift, turn in zip(shifts, turns, strict=True):
            origin = origin + (facing.apply(shift) if along_tool else shift)
            facing = facing * turn if along_tool else turn * facing
            positions.append(origin)
            rotations.append(facing)
        return np.stack(positions), Rotation.concatenate(rotations)

    def _pose_changes(self, part: Part, places: ArmValues, start: ArmValues, base: np.ndarray) -> np.ndarray:
        """What a part of a pose says of places 1 to T, counted from those numbered `base` (T,); place 0 is `start`."""
        rows = len(base) + 1
        facing = Rotation.concatenate([start.rotation] * rows) if places.rotation is None else places.rotation
        origin, along_tool = facing[base], self._config.relative_rotation == "tool"
        if part.what == POSITION:
            shift = places.position[1:] - places.position[base]
            return origin.inv().apply(shift) if along_tool else shift
        turned = facing[1:]
        return ROTATIONS[part.what].write(origin.inv() * turned if along_tool else turned * origin.inv())

    def _arm_actions(
        self,
        arm: int,
        base: ArmValues,
        path: ArmValues,
        at: np.ndarray,
        q: np.ndarray,
        anchor: np.ndarray | None,
        first: int,
    ) -> np.ndarray:
        """(horizon, width) actions of one arm; zeros for what the policy says nothing of."""
        grip = self._changes(
            base.gripper, path.gripper, at, self._pull(arm, (GRIPPER,), anchor, slice(-1, None)), first
        )
        if self._robot.actions == "joints":
            moves = self._changes(base.joints, path.joints, at, self._pull(arm, (JOINTS,), anchor, slice(-1)), first)
            if moves is None:
                moves = np.zeros((len(at) - 1, len(self._robot.arms[arm].joints)))
        else:
            moves = self._tool_changes(arm, base, path, at, q, anchor, first)
        grip = np.zeros((len(at) - 1, 1)) if grip is None else grip.reshape(-1, 1)
        return np.concatenate([moves, grip], axis=1)

    def _pull(self, arm: int, whats: tuple[str, ...], anchor: np.ndarray | None, columns: slice) -> np.ndarray | None:
        """The anchor's values for these parts of the arm, where their rows say places."""
        kinds = [self._kinds[part.name] for part in self.actions.parts if part.arm == arm and part.what in whats]
        return None if anchor is None or not kinds or kinds[0] == PER_STEP else anchor[columns]

    @staticmethod
    def _changes(
        base: np.ndarray, rows: np.ndarray | None, at: np.ndarray, pull: np.ndarray | None, first: int
    ) -> np.ndarray | None:
        """Changes of numbers (T, k) or (T,) along the path that begins at `base`, sampled at `at` (in rows)."""
        if rows is None:
            return None
        flat = rows.reshape(len(rows), -1)
        path = np.concatenate([base.reshape(1, -1), flat])
        sampled = _sampled(path, at)
        changes = np.diff(sampled, axis=0)
        if pull is not None:
            changes[first] = sampled[first + 1] - pull
        return changes

    def _tool_changes(
        self,
        arm: int,
        base: ArmValues,
        path: ArmValues,
        at: np.ndarray,
        q: np.ndarray,
        anchor: np.ndarray | None,
        first: int,
    ) -> np.ndarray:
        if path.joints is not None:
            position, rotation = self.actions.tool_poses(arm, path.joints, q)
        elif path.position is not None:
            position, rotation = path.position, path.rotation
        else:
            return np.zeros((len(at) - 1, 6))
        origin, turn = self.actions.frames[arm]
        position = turn.apply(np.concatenate([base.position, position])) + origin
        rotation = turn * Rotation.concatenate([base.rotation, rotation])
        rows = np.arange(len(position))
        sampled = _sampled(position, at)
        facing = Slerp(rows, rotation)(np.minimum(at, rows[-1]))
        moves = np.diff(sampled, axis=0)
        turns = (facing[1:] * facing[:-1].inv()).as_rotvec()
        pose_parts = (JOINTS,) if path.joints is not None else (POSITION, *ROTATIONS)
        pull = self._pull(arm, pose_parts, anchor, slice(0, 6))
        if pull is not None:
            moves[first] = sampled[first + 1] - pull[:3]
            turns[first] = (facing[first + 1] * Rotation.from_rotvec(pull[3:]).inv()).as_rotvec()
        return np.concatenate([moves, turns], axis=1)

    def _check_actions(self) -> None:
        for arm, config in enumerate(self._robot.arms):
            parts = [part for part in self.actions.parts if part.arm == arm]
            poses = [part for part in parts if _is_pose(part.what)]
            joints = [part for part in parts if part.what == JOINTS]
            if poses and joints:
                raise ParameterError(
                    f"actions: {joints[0].name!r} and {poses[0].name!r} both say where arm {config.name} goes: "
                    "name one of them"
                )
            if poses and self._robot.actions == "joints":
                raise ParameterError(
                    f"actions: {poses[0].name!r} is a tool's pose, but robot {self._robot.name} has actions: joints: "
                    "give its file actions: tool_pose"
                )
            if len({self._kinds[part.name] for part in poses}) > 1:
                raise ParameterError(
                    f"always_absolute: position and rotation of arm {config.name} are one pose: name both or neither"
                )


def _sampled(path: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The path (T, k) at places `at` (N,) in rows, between them linearly: (N, k)."""
    return np.stack([np.interp(at, np.arange(len(path)), column) for column in path.T], axis=1)


def _is_pose(what: str) -> bool:
    return what == POSITION or what in ROTATIONS
