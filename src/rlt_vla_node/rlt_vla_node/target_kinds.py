"""A data set's actions as the rows of a policy's chunk (absolute, or in the differences it counts in), and whether its
numbers are the policy's.

Our own data sets hold absolute targets whatever the policy counts in, since a difference depends on the sample: it is
to what was measured in the sample's observation, or to a row of the policy's rate. In another data set the action is
taken for the policy's own row, which it cannot be where rows are differences to the observation that a chunk begins at.

Ours also hold the joints that state and action were made of, so that a VLA file that was changed since is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlt_common.vla_config import ABSOLUTE, PER_STEP
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.lerobot_columns import ACTION, EPISODE_ID, EXECUTED, JOINT_TARGET, PROPRIOCEPTION, STATE, STEP
from rlt_vla_node.vector_layout import DYNAMIC, ROTATIONS, VectorLayout

JOINTS = "joint_position"
_ROUNDING = 1e-5
"""Of the numbers, and of the angle between two rotations in rad."""


@dataclass(frozen=True)
class Differences:
    """How the rows of a data set's samples become differences.

    Attributes:
        measured: (N, n) joints of each frame's observation.
        commanded: (N, n) joints that were commanded before each frame; the measured ones where none were recorded.
    """

    layout: ChunkLayout
    measured: np.ndarray
    commanded: np.ndarray

    def rows(self, frame: int, targets: np.ndarray) -> np.ndarray:
        """(H, width) float32 of absolute targets (H, width) of the sample that begins at this frame."""
        return self.layout.differences(targets, self.measured[frame], self.commanded[frame])


def differences(
    layout: ChunkLayout, features: Mapping[str, Any], column: Callable[[str], np.ndarray], folder: Path
) -> Differences | None:
    """How samples of our own data set become what the policy counts in; None where they are it, or are not ours.

    Args:
        features: of info.json.
        column: gives a column's values of every frame.

    Raises DatasetError for a data set of ours that was converted for another policy.
    """
    if JOINT_TARGET not in features:
        return None
    names, wanted = features[ACTION].get("names"), layout.actions.names()
    if names != wanted:
        raise DatasetError(
            f"{folder}: its action is {', '.join(names or ['unnamed'])}, the policy's is {', '.join(wanted)}: convert "
            "the episodes with `dataset --vla` and this VLA file"
        )
    if layout.kinds <= {ABSOLUTE}:
        return None
    measured = column(PROPRIOCEPTION + JOINTS).astype(np.float64)
    commanded = measured.copy()
    if layout.commanded:
        episode, step = column(EPISODE_ID).reshape(-1), column(STEP).reshape(-1)
        follows = (np.diff(episode) == 0) & (np.diff(step) == 1)
        commanded[1:][follows] = column(JOINT_TARGET)[:-1][follows]
    return Differences(layout, measured, commanded)


def check_numbers(
    layout: ChunkLayout, features: Mapping[str, Any], column: Callable[[str], np.ndarray], folder: Path
) -> None:
    """Raise DatasetError for a data set of ours whose state or action is not what `layout` makes of its joints.

    Also for one whose executed actions are in another action space than the robot's. Arguments as of
    :func:`differences`, after which it is called. Of another's data set nothing can be told.
    """
    if not {EXECUTED, *(PROPRIOCEPTION + name for name in (JOINTS, *DYNAMIC.values()))} <= set(features):
        return
    executed = features[EXECUTED].get("names")
    if executed != list(layout.robot_actions):
        raise DatasetError(
            f"{folder}: was converted for a robot with actions {executed}, this one has {list(layout.robot_actions)}: "
            "convert the episodes of this robot"
        )
    dynamics = {name: column(PROPRIOCEPTION + name) for name in DYNAMIC.values()}
    _compare(folder, STATE, layout.state, column, layout.state.write(column(PROPRIOCEPTION + JOINTS), dynamics))
    if JOINT_TARGET in features:
        _compare(folder, ACTION, layout.actions, column, layout.actions.write(column(JOINT_TARGET)))


def _compare(
    folder: Path, name: str, vector: VectorLayout, column: Callable[[str], np.ndarray], wanted: np.ndarray
) -> None:
    given = column(name).reshape(len(wanted), -1)
    remedy = "convert the episodes again with `dataset --vla` and this VLA file"
    if given.shape[1] != vector.width:
        raise DatasetError(f"{folder}: {name} has {given.shape[1]} values, the VLA file names {vector.width}: {remedy}")
    other = np.argwhere(_different(vector, given, wanted))
    if len(other):
        frame, place = other[0]
        raise DatasetError(
            f"{folder}: {vector.names()[place]} of {name} is {given[frame, place]:.6g} in frame {frame}, by this VLA "
            f"file and robot it is {wanted[frame, place]:.6g}: they were others at its conversion (gripper, frames, "
            f"parts, kinematics): {remedy}"
        )


def _different(vector: VectorLayout, given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(T, width) where rows are others; of equal rotations nothing is, whichever numbers rounding chose for them."""
    found = ~np.isclose(given, wanted, rtol=_ROUNDING, atol=_ROUNDING)
    for part in vector.parts:
        if part.what in ROTATIONS:
            for row in np.flatnonzero(found[:, part.columns].any(axis=1)):
                if _same_rotation(part.what, given[row, part.columns], wanted[row, part.columns]):
                    found[row, part.columns] = False
                else:
                    break  # the first one is told
    return found


def _same_rotation(form: str, given: np.ndarray, wanted: np.ndarray) -> bool:
    if not np.isfinite(given).all():
        return False
    read = ROTATIONS[form].read
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            return bool((read(given[None]).inv() * read(wanted[None])).magnitude()[0] <= _ROUNDING)
    except (ValueError, np.linalg.LinAlgError):
        return False  # zeros, for example, are no rotation


def in_kind(layout: ChunkLayout, features: Mapping[str, Any], same_rate: bool) -> bool:
    """Whether a data set's samples are, or can be made, what the policy counts in. `same_rate`: the policy's.

    Of our own data sets, those without joint targets hold the robot's actions, and no policy's.
    """
    if JOINT_TARGET in features or EXECUTED in features:
        return JOINT_TARGET in features
    kinds = layout.kinds - {ABSOLUTE}
    return not kinds or (kinds == {PER_STEP} and same_rate)
