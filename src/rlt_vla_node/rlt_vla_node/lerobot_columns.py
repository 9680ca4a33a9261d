"""The columns of a data set in LeRobot's layout, and what an episode's frames put into them.

`observation.*` and `action` are what a policy is trained on; LeRobot takes every column whose name begins so for a
policy's input or output, so nothing else is named so. All other columns are what is needed to come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlt_common.codecs import blocks_from_msg, stamp_ns, vector
from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.kinematics import build_kinematics
from rlt_common.robot_config import BLOCKS, TOOL_AXES
from rlt_common.vla_config import VlaConfig
from rlt_msgs.msg import EpisodeState, ExecutedAction
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.dataset import SUCCESS, DatasetError
from rlt_vla_node.episode_frames import EpisodeFrames

IMAGES, STATE, ACTION = "observation.images.", "observation.state", "action"
INTERVENTION, SOURCE = "is_intervention", "control_source"
REWARD, SUCCEEDED, DONE = "next.reward", "next.success", "next.done"
EXECUTED, JOINT_TARGET, PROPRIOCEPTION = "executed.action", "executed.joint_target", "proprioception."
IMAGE_AGE = "image_age."
PHASE, REPOSITIONING = "phase", "repositioning"
EPISODE_ID, STEP, STAMP, SEEN, LABEL = (
    "source.episode_id",
    "source.step",
    "source.stamp_ns",
    "source.observation_id",
    "source.success",
)
TARGET, TARGET_KNOWN = "auxiliary.target", "auxiliary.known"
SOURCES = {
    ExecutedAction.SOURCE_HOLD: "hold",
    ExecutedAction.SOURCE_VLA: "vla",
    ExecutedAction.SOURCE_RL: "rl",
    ExecutedAction.SOURCE_HUMAN: "human",
}
PHASES = {EpisodeState.PHASE_BASE: "base", EpisodeState.PHASE_CRITICAL: "critical"}


@dataclass(frozen=True)
class Column:
    """A column of numbers: `width` values of a numpy dtype in each frame, with their names."""

    name: str
    dtype: str
    width: int = 1
    names: tuple[str, ...] | None = None

    def feature(self) -> dict[str, Any]:
        """Its entry in info.json."""
        return {"dtype": self.dtype, "shape": [self.width], "names": None if self.names is None else list(self.names)}


class Columns:
    """The columns of one data set."""

    def __init__(
        self, robot: RobotConfig, task: TaskConfig, vla: VlaConfig | None, joint_targets: bool, target_width: int
    ) -> None:
        """Columns for a robot and task.

        Args:
            vla: state and action are this policy's vectors; None: the task's vla_state and the robot's actions.
            joint_targets: the episodes say which joint targets were sent.
            target_width: length of the auxiliary targets that they hold; 0: they hold none.

        Raises DatasetError for a policy whose targets cannot be told, and ParameterError for one that does not fit.
        """
        self._robot, self._task = robot, task
        self._joint_targets, self._target_width = joint_targets, target_width
        self.cameras = tuple(camera.name for camera in robot.cameras)
        self._layout: ChunkLayout | None = None
        if vla is not None:
            if not joint_targets:
                raise DatasetError(
                    "the episodes do not say which joint targets were sent: no policy's actions can be made of them; "
                    "convert without --vla or record them again"
                )
            vla.check_robot(robot)
            self._layout = ChunkLayout(vla, robot, build_kinematics(robot))
        self.instruction = (vla.instruction if vla is not None else "") or task.instruction
        self.columns = tuple(self._columns())

    def features(self) -> dict[str, dict[str, Any]]:
        """Features in LeRobot's words, without those of the images."""
        return {column.name: column.feature() for column in self.columns}

    def arrays(self, frames: EpisodeFrames, places: Sequence[int], label: str) -> dict[str, np.ndarray]:
        """Column -> (T, width) values of the steps at these places of an episode.

        Raises CodecError and DatasetError for a recording that does not fit the robot.
        """
        executed = [frames.executed[place] for place in places]
        indices, rows = np.unique(frames.seen[list(places)], return_inverse=True)
        seen = [frames.observations[index] for index in indices]
        told = [self._checked(blocks_from_msg(message), frames) for message in seen]
        stamps = np.array([stamp_ns(message.header.stamp) for message in seen], np.int64)
        blocks = {name: np.stack([values[name] for values in told])[rows] for name in BLOCKS}
        actions = np.stack([vector(m.action, self._robot.action_dim, "executed action") for m in executed])
        sources = np.array([message.source for message in executed], np.int64)
        last = np.array([place == len(frames.executed) - 1 for place in places])
        success = label == SUCCESS
        found = {
            INTERVENTION: sources == ExecutedAction.SOURCE_HUMAN,
            SOURCE: sources,
            REWARD: (last & success).astype(np.float32),
            SUCCEEDED: last & success,
            DONE: last,
            EXECUTED: actions,
            PHASE: np.array([message.phase for message in executed], np.int64),
            REPOSITIONING: np.array([message.repositioning for message in executed]),
            EPISODE_ID: np.full(len(places), int(executed[0].episode_id), np.int64),
            STEP: np.array([message.step for message in executed], np.int64),
            STAMP: np.array([stamp_ns(message.header.stamp) for message in executed], np.int64),
            SEEN: stamps[rows],
            LABEL: np.full(len(places), success),
        }
        found |= {PROPRIOCEPTION + name: values for name, values in blocks.items()}
        found |= {IMAGE_AGE + name: frames.age_s[list(places), i] for i, name in enumerate(self.cameras)}
        if self._joint_targets:
            found[JOINT_TARGET] = self._told_targets(frames, executed)
        if self._layout is None:
            found[STATE] = np.concatenate([blocks[name] for name in self._task.vla_state], axis=1)
            found[ACTION] = actions
        else:
            found[STATE] = np.stack([self._layout.state_vector(values) for values in told])[rows]
            found[ACTION] = self._layout.targets(found[JOINT_TARGET])
        if self._target_width:
            target, known = np.zeros((len(seen), self._target_width)), np.zeros(len(seen), bool)
            for row, stamp in enumerate(stamps.tolist()):
                values = frames.targets.get(stamp, np.zeros(0))
                if values.size == self._target_width:
                    target[row], known[row] = values, True
            found[TARGET], found[TARGET_KNOWN] = target[rows], known[rows]
        return {c.name: found[c.name].reshape(len(places), c.width).astype(c.dtype) for c in self.columns}

    def _columns(self) -> list[Column]:
        robot = self._robot
        joints = tuple(robot.joint_names)
        acts = robot.action_names
        if self._layout is None:
            state = tuple(name for block in self._task.vla_state for name in _block_names(robot, block))
            action = acts
        else:
            state, action = tuple(self._layout.state.names()), tuple(self._layout.actions.names())
        found = [
            Column(STATE, "float32", len(state), state),
            Column(ACTION, "float32", len(action), action),
            Column(INTERVENTION, "bool"),
            Column(SOURCE, "int64"),
            Column(REWARD, "float32"),
            Column(SUCCEEDED, "bool"),
            Column(DONE, "bool"),
            Column(EXECUTED, "float32", len(acts), acts),
        ]
        if self._joint_targets:
            found.append(Column(JOINT_TARGET, "float64", len(joints), joints))
        for block in BLOCKS:
            names = _block_names(robot, block)
            found.append(Column(PROPRIOCEPTION + block, "float32", len(names), names))
        found += [Column(IMAGE_AGE + camera, "float32") for camera in self.cameras]
        found += [Column(name, "int64") for name in (PHASE, EPISODE_ID, STEP, STAMP, SEEN)]
        found += [Column(name, "bool") for name in (REPOSITIONING, LABEL)]
        if self._target_width:
            found += [Column(TARGET, "float32", self._target_width), Column(TARGET_KNOWN, "bool")]
        return found

    def _checked(self, blocks: Mapping[str, np.ndarray], frames: EpisodeFrames) -> Mapping[str, np.ndarray]:
        sizes = {name: values.size for name, values in blocks.items()}
        if sizes != self._robot.block_sizes:
            raise DatasetError(
                f"{frames.path}: was recorded with blocks {sizes}; robot {self._robot.name} has "
                f"{self._robot.block_sizes}"
            )
        return blocks

    def _told_targets(self, frames: EpisodeFrames, executed: Sequence[ExecutedAction]) -> np.ndarray:
        names = list(self._robot.joint_names)
        for message in executed:
            if list(message.joint_names) != names or len(message.joint_target) != len(names):
                raise DatasetError(
                    f"{frames.path}: step {message.step} has {len(message.joint_target)} joint targets of "
                    f"{list(message.joint_names)}; robot {self._robot.name} has the joints {names}"
                )
        found = np.array([message.joint_target for message in executed], np.float64)
        if not np.isfinite(found).all():
            raise DatasetError(f"{frames.path}: a joint target is not finite")
        return found


def _block_names(robot: RobotConfig, block: str) -> tuple[str, ...]:
    if block == "ee_pose":
        return tuple(f"{arm.name}.{axis}" for arm in robot.arms for axis in TOOL_AXES)
    suffix = "" if block == "joint_position" else "." + block.removeprefix("joint_")
    return tuple(joint + suffix for joint in robot.joint_names)
