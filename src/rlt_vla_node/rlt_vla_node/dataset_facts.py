"""What an adaptation needs of a data set besides its samples: which one it is, and what the robot did in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from rlt_common.parameters import ParameterError
from rlt_msgs.msg import EpisodeState
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.lerobot_columns import EXECUTED, PHASE
from rlt_vla_node.lerobot_dataset import TrainingSamples
from rlt_vla_node.tensors import HASH_DIGITS

_BLOCK = 1 << 20


def dataset_hash(folder: Path | str) -> str:
    """First 16 hex digits of the sha256 over the names and contents of a data set's numbers, and its videos' sizes.

    Videos may be many gigabytes: what each frame of them is follows from the numbers beside them.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        if path.suffix in (".parquet", ".json", ".jsonl"):
            with open(path, "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
    return digest.hexdigest()[:HASH_DIGITS]


def executed_actions(samples: TrainingSamples, layout: ChunkLayout) -> np.ndarray:
    """(T, d) float32 the robot's actions in the data set: in its critical phases, where it says which these are.

    Our own data sets hold them. In another one they are the changes from the joints in `observation.state` to those of
    `action`, read by the VLA file. Raises DatasetError where the state has no joints, and where the action is not what
    the policy counts in: read so, it would say other actions than the robot's.
    """
    executed = samples.column(EXECUTED)
    if executed is not None:
        phase = samples.column(PHASE)
        critical = np.ones(len(executed), bool) if phase is None else phase.reshape(-1) == EpisodeState.PHASE_CRITICAL
        return executed[critical] if critical.any() else executed
    if not samples.in_kind:
        raise DatasetError(
            f"{samples.folder}: has no column {EXECUTED!r}, and the robot's actions, which scale the learner's, cannot "
            "be told from its action, which is not what the policy counts in (action_kind): give recorded episodes "
            "with --demonstrations, or convert them with `dataset --vla` and this VLA file"
        )
    states, actions = samples.column("observation.state"), samples.column("action")
    try:
        joints = layout.state.joints(states.astype(np.float64))
        rows = [layout.to_actions(action[None], q, 1) for q, action in zip(joints, actions, strict=True)]
    except (ParameterError, ValueError) as error:
        raise DatasetError(
            f"{samples.folder}: has no column {EXECUTED!r}, and the robot's actions cannot be told from its state and "
            f"action ({error}): convert recorded episodes with `dataset`"
        ) from error
    return np.concatenate(rows)
