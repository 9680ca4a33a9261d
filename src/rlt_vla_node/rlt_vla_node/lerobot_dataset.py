"""Training samples from data sets in LeRobot's v3 layout, ours or anybody's, through LeRobot's own class.

Samples have LeRobot's names, as `backend.TrainableBackend` takes them. Of our own data sets (dataset_conversion) those
frames are left out that are no demonstration: failures, steps in which the arms held, and steps in which a human
repositioned them; a chunk ends before the next of the latter.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from rlt_common.reading import read_json
from rlt_msgs.msg import ExecutedAction
from rlt_vla_node import target_kinds
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.images import fit_image
from rlt_vla_node.lerobot_columns import ACTION, EPISODE_ID, EXECUTED, IMAGES, LABEL, REPOSITIONING, SOURCE, STATE
from rlt_vla_node.lerobot_packages import REQUIREMENTS, lerobot_module
from rlt_vla_node.lerobot_writer import DEFAULT_FEATURES, INFO, UNFINISHED, VERSION
from rlt_vla_node.video import VideoError, VideoReader

OPEN_VIDEOS = 32
"""Video files that a process keeps open."""


def dataset_info(folder: Path | str) -> dict[str, Any]:
    """info.json of a data set. Raises DatasetError for what is none, is unfinished, or is of another version."""
    folder = Path(folder)
    try:
        info = read_json(folder / INFO)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder}: is no LeRobot data set: {INFO}: {error}") from error
    if (folder / UNFINISHED).exists():
        raise DatasetError(f"{folder}: its conversion was not finished: convert again")
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise DatasetError(f"{folder}: {INFO} does not describe a LeRobot data set")
    version = str(info.get("codebase_version"))
    if not version.startswith("v3."):
        raise DatasetError(
            f"{folder}: is in LeRobot's layout {version[:20]!r}, {VERSION} is needed: convert it with `python -m "
            "lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=...` of LeRobot"
        )
    return info


def open_dataset(folder: Path | str, delta_timestamps: Mapping[str, list[float]] | None = None) -> Any:
    """The folder's data set as a lerobot.datasets.lerobot_dataset.LeRobotDataset, with its videos decoded by PyAV.

    Raises DatasetError, also where LeRobot is not installed: nothing is ever fetched.
    """
    folder = Path(folder).resolve()
    info = dataset_info(folder)
    try:
        module = lerobot_module("datasets.lerobot_dataset")
    except ImportError as error:
        raise DatasetError(
            f"{folder}: reading it takes LeRobot, which is not installed ({error}): `make extras` ({REQUIREMENTS})"
        ) from error
    kind = _pyav_class(module)
    try:
        found = kind(
            repo_id=f"local/{folder.name}",
            root=folder,
            delta_timestamps=None if delta_timestamps is None else dict(delta_timestamps),
            video_backend="pyav",
        )
    except Exception as error:  # LeRobot's own, those of datasets, pyarrow, the hub
        raise DatasetError(f"{folder}: LeRobot does not open it: {type(error).__name__}: {error}") from error
    if len(found) != info["total_frames"]:
        raise DatasetError(f"{folder}: has {len(found)} frames, {INFO} says {info['total_frames']}: it is not whole")
    return found


@lru_cache(maxsize=1)
def _pyav_class(module: Any) -> type:
    """LeRobotDataset; where its own PyAV reader rests on what torchvision no longer has (0.4), with ours."""
    base = module.LeRobotDataset
    if not hasattr(base, "_query_videos"):
        return base

    class PyAvDataset(base):
        """LeRobotDataset whose videos are decoded by `video.VideoReader`."""

        def keep_columns(self, names: Collection[str]) -> None:
            """Read these columns and LeRobot's own alone: each costs time in every sample."""
            kept = [name for name in self.hf_dataset.column_names if name in {*names, *DEFAULT_FEATURES}]
            self.hf_dataset = self.hf_dataset.select_columns(kept)

        def _query_videos(self, query_timestamps: dict[str, list[float]], ep_idx: int) -> dict[str, Tensor]:
            episode = self.meta.episodes[ep_idx]
            found = {}
            for key, stamps in query_timestamps.items():
                path = self.root / self.meta.get_video_file_path(ep_idx, key)
                first = episode[f"videos/{key}/from_timestamp"]
                rows = [round((first + stamp) * self.fps) for stamp in stamps]
                images = _reader(os.getpid(), str(path), self.fps).frames(rows)
                found[key] = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).squeeze(0)
            return found

    return PyAvDataset


@lru_cache(maxsize=OPEN_VIDEOS)
def _reader(process: int, path: str, fps: float) -> VideoReader:
    """An open video; by process, since workers that were forked must not share one."""
    return VideoReader(path, fps)


def cameras_of(folder: Path | str, wanted: Collection[str], policy: Mapping[str, str]) -> dict[str, str]:
    """The robot's names of cameras -> the data set's: the same where it has them, else the policy's.

    Args:
        wanted: the robot's names.
        policy: the policy's names of cameras -> the robot's, as in a VLA file.

    Raises DatasetError for what is no data set.
    """
    known = {name.removeprefix(IMAGES) for name in dataset_info(folder)["features"] if name.startswith(IMAGES)}
    others = {robot: name for name, robot in policy.items() if name in known}
    return {robot: robot if robot in known else others.get(robot, robot) for robot in wanted}


class TrainingSamples(Dataset):
    """Samples of a data set, map-style.

    A sample: `observation.images.<camera>` (3, H, W) float32 from 0 to 1 by the robot's names of the cameras,
    `observation.state` (S,) float32, `action` (horizon, width) float32 in rows at `control_hz`, `action_is_pad`
    (horizon,) bool: True beyond the episode's end, `task` the instruction, `index` the frame's.

    `in_kind`: whether the numbers of `action` are what `layout` says that the policy's are. `ours`: whether `dataset`
    converted it of episode files. `tasks`: the instructions in it.
    """

    def __init__(
        self,
        folder: Path | str,
        horizon: int,
        control_hz: float | None = None,
        cameras: Mapping[str, str] | None = None,
        image_shape: tuple[int, int] | None = None,
        frame_stride: int = 1,
        layout: ChunkLayout | None = None,
    ) -> None:
        """Open a data set.

        Args:
            horizon: rows of a chunk.
            control_hz: rows of a chunk per second; where the data set has another rate, row k is the frame whose end
                is nearest to the row's, (k + 1) / control_hz. None: the data set's.
            cameras: the robot's name of a camera -> the data set's (without observation.images.); None: all of them,
                by the same names.
            image_shape: (height, width) that images are cropped and resized to; None: as they are.
            frame_stride: only every so manieth frame of an episode begins a sample.
            layout: the policy's: targets of our own data sets become what it counts in (:mod:`target_kinds`).

        Raises DatasetError.
        """
        self.folder = Path(folder)
        info = dataset_info(folder)
        self.fps = float(info["fps"])
        features = info["features"]
        known = {name.removeprefix(IMAGES): name for name in features if name.startswith(IMAGES)}
        self._cameras = {robot: known.get(name) for robot, name in (cameras or {k: k for k in known}).items()}
        if missing := [robot for robot, name in self._cameras.items() if name is None]:
            raise DatasetError(
                f"{folder}: no camera for {missing[0]!r}: it has {', '.join(known) or 'none'}: name one of these "
                "in `cameras` of the VLA file"
            )
        for name in (STATE, ACTION):
            if name not in features:
                raise DatasetError(f"{folder}: has no column {name!r}, only {', '.join(features)}")
        rate = self.fps / (control_hz or self.fps)
        self._offsets = np.rint((np.arange(horizon) + 1) * rate).astype(int) - 1
        self._offsets = np.maximum(self._offsets, 0)
        self._image_shape = image_shape
        self._data = self._open()
        self.ours = EXECUTED in features
        self.tasks = tuple(map(str, self._data.meta.tasks.index))
        self.in_kind = layout is None or target_kinds.in_kind(layout, features, rate == 1.0)
        self._differences = None
        if layout is not None:
            columns_of = partial(_column, self._data.hf_dataset)
            self._differences = target_kinds.differences(layout, features, columns_of, self.folder)
            target_kinds.check_numbers(layout, features, columns_of, self.folder)
        columns = self._read_columns(["episode_index", "frame_index", *(_OWN & set(features))])
        self._moved = columns.get(REPOSITIONING)
        self._drop_columns()
        self.rows = np.flatnonzero(_demonstrated(columns) & (columns["frame_index"] % frame_stride == 0))
        if not len(self.rows):
            raise DatasetError(f"{folder}: no frame of it is a demonstration")
        self.episodes = columns.get(EPISODE_ID, columns["episode_index"])[self.rows]

    def _open(self) -> Any:
        return open_dataset(self.folder, {ACTION: [offset / self.fps for offset in self._offsets.tolist()]})

    def _drop_columns(self) -> None:
        if hasattr(self._data, "keep_columns"):
            self._data.keep_columns({STATE, ACTION, *self._cameras.values()})

    def __getstate__(self) -> dict[str, Any]:
        """For a worker of a data loader: LeRobot's object does not travel, the worker opens the folder itself."""
        return {name: value for name, value in vars(self).items() if name != "_data"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._data = self._open()
        self._drop_columns()

    @property
    def statistics(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Column -> statistics of the data set (mean, std, min, max, q01, ...), as policies normalise by."""
        return self._data.meta.stats

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = int(self.rows[place])
        try:
            item = self._data[row]
        except VideoError as error:
            raise DatasetError(str(error)) from error
        images = {IMAGES + robot: self._fitted(item[name]) for robot, name in self._cameras.items()}
        pad = item[f"{ACTION}_is_pad"]
        if self._moved is not None:
            pad = pad | self._moved_since(row)
        action = item[ACTION].reshape(len(self._offsets), -1).float()
        if self._differences is not None:
            action = torch.from_numpy(self._differences.rows(row, action.numpy()))
        return {
            **images,
            STATE: item[STATE].reshape(-1).float(),
            ACTION: action,
            f"{ACTION}_is_pad": pad,
            "task": item["task"],
            "index": torch.tensor(row),
        }

    def split(self, share: float) -> tuple[Subset, Subset]:
        """Samples to train on, and those of the last `share` of the episodes, at least one where there are two."""
        names = list(dict.fromkeys(self.episodes.tolist()))
        count = min(int(np.ceil(share * len(names))), len(names) - 1)
        held = np.isin(self.episodes, names[len(names) - count :])
        return Subset(self, np.flatnonzero(~held).tolist()), Subset(self, np.flatnonzero(held).tolist())

    def column(self, name: str) -> np.ndarray | None:
        """(N, width) or (N,) the numbers or words of a column, of every frame; None where there is no such column."""
        # of the one that samples come from, few columns are kept
        return _column(open_dataset(self.folder).hf_dataset, name)

    def _moved_since(self, row: int) -> Tensor:
        """(horizon,) bool: from the first repositioning at or after this frame on."""
        until = self._moved[row : row + int(self._offsets[-1]) + 1]
        first = int(np.argmax(until)) if until.any() else len(self._moved)
        return torch.from_numpy(self._offsets >= first)

    def _fitted(self, image: Tensor) -> Tensor:
        if self._image_shape is None or tuple(image.shape[1:]) == self._image_shape:
            return image
        rgb = image.permute(1, 2, 0).mul(255).round().byte().numpy()
        fitted = fit_image(np.ascontiguousarray(rgb), *self._image_shape)
        return torch.from_numpy(fitted).permute(2, 0, 1).float().div(255)

    def _read_columns(self, names: list[str]) -> dict[str, np.ndarray]:
        table = self._data.hf_dataset.with_format("arrow").select_columns(names)[:]
        return {name: table[name].to_numpy() for name in names}


def _column(table: Any, name: str) -> np.ndarray | None:
    return np.array(table.with_format("numpy")[name]) if name in table.column_names else None


_OWN = {SOURCE, REPOSITIONING, LABEL, EPISODE_ID}
"""Columns of our own data sets that say which frames are demonstrations."""


def _demonstrated(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) bool: the frames that a sample may begin at."""
    wanted = np.ones(len(columns["frame_index"]), bool)
    if SOURCE in columns:
        wanted &= columns[SOURCE] != ExecutedAction.SOURCE_HOLD
    if REPOSITIONING in columns:
        wanted &= ~columns[REPOSITIONING]
    if LABEL in columns:
        wanted &= columns[LABEL]
    return wanted
