"""A data set's actions as the rows of a policy's chunk: in absolute values, or in the differences that it counts in.

Our own data sets hold absolute targets whatever the policy counts in, since a difference depends on the sample: it is
to what was measured in the sample's observation, or to a row of the policy's rate. In another data set the action is
taken for the policy's own row, which it cannot be where rows are differences to the observation that a chunk begins at.
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
from rlt_vla_node.lerobot_columns import ACTION, EPISODE_ID, JOINT_TARGET, PROPRIOCEPTION, STEP


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
    measured = column(PROPRIOCEPTION + "joint_position").astype(np.float64)
    commanded = measured.copy()
    if layout.commanded:
        episode, step = column(EPISODE_ID).reshape(-1), column(STEP).reshape(-1)
        follows = (np.diff(episode) == 0) & (np.diff(step) == 1)
        commanded[1:][follows] = column(JOINT_TARGET)[:-1][follows]
    return Differences(layout, measured, commanded)


def in_kind(layout: ChunkLayout, features: Mapping[str, Any], same_rate: bool) -> bool:
    """Whether a data set's samples are, or can be made, what the policy counts in. `same_rate`: the policy's."""
    kinds = layout.kinds - {ABSOLUTE}
    return not kinds or JOINT_TARGET in features or (kinds == {PER_STEP} and same_rate)
