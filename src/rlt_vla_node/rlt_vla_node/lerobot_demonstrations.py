"""Demonstrations for the built-in VLA from a data set that `dataset` wrote: what the episode files themselves give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.robot_config import BLOCKS
from rlt_msgs.msg import EpisodeState, ExecutedAction
from rlt_vla_node.dataset import DatasetError, Demonstrations
from rlt_vla_node.lerobot_columns import (
    DONE,
    EPISODE_ID,
    EXECUTED,
    IMAGES,
    LABEL,
    PHASE,
    PROPRIOCEPTION,
    REPOSITIONING,
    SEEN,
    SOURCE,
    STAMP,
    STEP,
    TARGET,
    TARGET_KNOWN,
)
from rlt_vla_node.lerobot_dataset import dataset_info
from rlt_vla_node.lerobot_writer import INFO, VIDEO_PATH
from rlt_vla_node.video import VideoReader

Progress = Callable[[int, int], None]


def is_dataset(folder: Path | str) -> bool:
    """Whether a folder holds a data set in LeRobot's layout."""
    return (Path(folder) / INFO).is_file()


def dataset_demonstrations(
    folder: Path | str,
    robot: RobotConfig,
    task: TaskConfig,
    frame_stride: int,
    progress: Progress = lambda done, total: None,
) -> Demonstrations:
    """The successful episodes of a data set as `dataset.load_demonstrations` gives those of episode files.

    Numbers are the same to the bit; images are what their codec left of them. Raises DatasetError for a data set that
    is not ours or not of this robot, and VideoError.
    """
    folder = Path(folder)
    _check(folder, dataset_info(folder), robot)
    columns = _read(folder)
    episodes = _read_table(folder, "meta/episodes")
    count = len(columns[STEP])
    horizon = task.horizon
    rows, chunks = [], []
    for first, end in zip(episodes["dataset_from_index"], episodes["dataset_to_index"], strict=True):
        actions = columns[EXECUTED][first:end]
        padded = np.concatenate([actions, np.zeros((horizon, robot.action_dim), np.float32)])
        ended = bool(columns[DONE][end - 1])
        for row in range(first, end):
            place = row - first
            if row + horizon > end and not ended:
                break
            if columns[REPOSITIONING][row : min(row + horizon, end)].any():
                continue
            if _begins(columns, row, robot, frame_stride):
                rows.append(row)
                chunks.append(padded[place : place + horizon])
    if not rows:
        raise DatasetError(f"{folder}: none of its {count} frames begins a successful demonstration")
    used = np.array(rows)
    names = columns[EPISODE_ID][used]
    order = list(dict.fromkeys(names.tolist()))
    images = _images(folder, robot, episodes, columns, used, progress)
    return Demonstrations(
        images=images,
        blocks={name: columns[PROPRIOCEPTION + name][used] for name in BLOCKS},
        actions=np.stack(chunks),
        target=_targets(columns, used),
        episode=np.array([order.index(name) for name in names.tolist()], np.int64),
        executed=_executed(columns, order),
        files=tuple(f"episode {name}" for name in order),
    )


def _begins(columns: dict[str, np.ndarray], row: int, robot: RobotConfig, frame_stride: int) -> bool:
    """Whether an observation belongs to this frame: new in it, at a step that counts, of a success, while driven."""
    since = int(columns[STAMP][row] - columns[SEEN][row])
    new = since < round(1e9 * robot.period_s)
    chosen = columns[STEP][row] % frame_stride == 0 and columns[LABEL][row]
    return bool(new and chosen and columns[SOURCE][row] != ExecutedAction.SOURCE_HOLD)


def _executed(columns: dict[str, np.ndarray], episodes: list[int]) -> np.ndarray:
    """(T, d): the actions of the critical phases, of an episode without one all; none of a repositioning."""
    found = []
    still = ~columns[REPOSITIONING]
    for episode in episodes:
        own = (columns[EPISODE_ID] == episode) & still
        critical = own & (columns[PHASE] == EpisodeState.PHASE_CRITICAL)
        found.append(columns[EXECUTED][critical if critical.any() else own])
    return np.concatenate(found)


def _targets(columns: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    if TARGET not in columns:
        return np.zeros((len(rows), 0), np.float32)
    known = columns[TARGET_KNOWN][rows][:, None]
    found = np.where(known, columns[TARGET][rows], np.float32(np.nan))
    return found if known.any() else found[:, :0]


def _images(
    folder: Path,
    robot: RobotConfig,
    episodes: dict[str, np.ndarray],
    columns: dict[str, np.ndarray],
    rows: np.ndarray,
    progress: Progress,
) -> np.ndarray:
    """(N, C, H, W, 3) of these frames, each video file read forward once."""
    camera = robot.cameras[0]
    info = dataset_info(folder)
    found = np.empty((len(rows), len(robot.cameras), camera.height, camera.width, 3), np.uint8)
    owner = columns["episode_index"][rows]
    done, total = 0, len(np.unique(owner)) * len(robot.cameras)
    for index, name in enumerate(c.name for c in robot.cameras):
        key = IMAGES + name
        reader, opened, last = None, None, None
        for place, (row, episode) in enumerate(zip(rows.tolist(), owner.tolist(), strict=True)):
            chunk, file = (int(episodes[f"videos/{key}/{what}_index"][episode]) for what in ("chunk", "file"))
            path = folder / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
            if path != opened:
                if reader is not None:
                    reader.close()
                reader, opened = VideoReader(path, info["fps"]), path
            start = round(float(episodes[f"videos/{key}/from_timestamp"][episode]) * info["fps"])
            found[place, index] = reader.frame(start + row - int(episodes["dataset_from_index"][episode]))
            if episode != last:
                done, last = done + 1, episode
                progress(done, total)
        if reader is not None:
            reader.close()
    return found


def _check(folder: Path, info: dict[str, Any], robot: RobotConfig) -> None:
    features = info["features"]
    needed = [EXECUTED, STEP, STAMP, SEEN, PHASE, SOURCE, LABEL, DONE, REPOSITIONING, EPISODE_ID]
    needed += [PROPRIOCEPTION + name for name in BLOCKS]
    if missing := [name for name in needed if name not in features]:
        raise DatasetError(
            f"{folder}: has no column {missing[0]!r}: the built-in VLA is adapted on episode files, or on data sets "
            "that `dataset` made of them"
        )
    camera = robot.cameras[0]
    pairs = [("frames a second", info["fps"], robot.control_hz)]
    pairs += [
        (f"images of {c.name}", features.get(IMAGES + c.name, {}).get("shape"), [camera.height, camera.width, 3])
        for c in robot.cameras
    ]
    pairs += [("actions", features[EXECUTED]["names"], list(robot.action_names))]
    pairs += [(name, features[PROPRIOCEPTION + name]["shape"], [robot.block_sizes[name]]) for name in BLOCKS]
    for what, has, wanted in pairs:
        if has != wanted:
            raise DatasetError(f"{folder}: has {what} {has}, robot {robot.name} has {wanted}")


def _read(folder: Path) -> dict[str, np.ndarray]:
    return _read_table(folder, "data")


def _read_table(folder: Path, part: str) -> dict[str, np.ndarray]:
    """Columns of all parquet files in a folder, in the order of their names; lists of one length as (T, n)."""
    paths = sorted((folder / part).glob("*/*.parquet"))
    if not paths:
        raise DatasetError(f"{folder}: {part} has no parquet file: it is not whole")
    try:
        table = pa.concat_tables([pq.read_table(path) for path in paths])
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{folder}: {part}: {error}") from error
    found = {}
    for name in table.column_names:
        if name.startswith("stats/"):
            continue
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            width = column.type.list_size
            found[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        elif not pa.types.is_nested(column.type):
            found[name] = column.to_numpy(zero_copy_only=False)
    return found
