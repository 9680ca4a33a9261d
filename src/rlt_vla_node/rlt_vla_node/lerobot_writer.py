"""Writes a data set as LeRobot v3 lays it out: parquet, video and meta, with pyarrow and PyAV.

Not with LeRobot's own writer: its releases for Python 3.10/3.11 and for 3.12 and later have different ones, neither
installs beside this suite's PyTorch without pins of its own, and the former has no lossless codec. What is written here
opens in LeRobotDataset, which the tests try where it is installed.

A data set is whole or not there: it grows under another name and is renamed in the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlt_common.atomic import fsync_folder, rename_durable, write_atomic
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.lerobot_statistics import Statistics, column_statistics, combined, image_statistics, sampled
from rlt_vla_node.video import Codec, VideoWriter, count_frames, video_facts

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK, DATA_FILE_MB, VIDEO_FILE_MB = 1000, 100, 200
"""LeRobot's own sizes: a file that has got so large gets no further episode."""
DEFAULT_FEATURES = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
UNFINISHED = "unfinished"
"""In a folder that a conversion has not finished, so that the next one may remove it."""
_PARQUET = {"compression": "snappy", "use_dictionary": True}


@dataclass(frozen=True)
class _Place:
    chunk: int = 0
    file: int = 0

    def next(self) -> _Place:
        return _Place(self.chunk, self.file + 1) if self.file + 1 < FILES_PER_CHUNK else _Place(self.chunk + 1, 0)

    def path(self, pattern: str, **names: str) -> str:
        return pattern.format(chunk_index=self.chunk, file_index=self.file, **names)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target` in the end, and is removed when that does not come.

    Raises DatasetError where `target` is there already.
    """
    if target.exists():
        raise DatasetError(f"{target}: is there already: remove it, or give another folder")
    part = target.with_name(f".{target.name}.part")
    if part.exists():
        if not (part / UNFINISHED).is_file():
            raise DatasetError(f"{part}: is in the way: it is no unfinished data set; move it away")
        shutil.rmtree(part)
    part.mkdir(parents=True)
    (part / UNFINISHED).touch()
    try:
        yield part
        (part / UNFINISHED).unlink()
        _sync(part)
        rename_durable(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _sync(folder: Path) -> None:
    """Make everything in a folder durable."""
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


class LerobotWriter:
    """Writes the files of one data set into a folder, episode by episode."""

    def __init__(
        self,
        folder: Path,
        fps: int,
        robot_type: str,
        features: Mapping[str, Mapping[str, Any]],
        cameras: Mapping[str, tuple[int, int]],
        codec: Codec,
    ) -> None:
        """Columns and cameras of a data set.

        Args:
            features: column -> feature, of all columns of numbers but LeRobot's own (timestamp, index, ...).
            cameras: column -> (height, width), pixels.
        """
        self._folder, self._fps, self._robot_type, self._codec = folder, fps, robot_type, codec
        self._features = {**features, **DEFAULT_FEATURES}
        self._cameras = dict(cameras)
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._statistics: list[dict[str, Statistics]] = []
        self._frames = 0
        self._data: pq.ParquetWriter | None = None
        self._data_place = _Place()
        self._videos: dict[str, VideoWriter] = {}
        self._video_places = dict.fromkeys(cameras, _Place())
        self._written: dict[str, int] = {}

    @property
    def episodes(self) -> int:
        """Episodes written so far."""
        return len(self._episodes)

    def add_episode(self, arrays: Mapping[str, np.ndarray], images: Iterable[np.ndarray], task: str) -> int:
        """Append an episode of T frames and return its index.

        Args:
            arrays: column -> (T, width).
            images: T times the cameras' images, (C, H, W, 3) uint8 RGB, read once.
            task: the instruction.

        Raises VideoError, OSError, and DatasetError for images of another size.
        """
        index, length = len(self._episodes), len(next(iter(arrays.values())))
        task_index = self._tasks.setdefault(task, len(self._tasks))
        columns = {
            **arrays,
            "timestamp": np.arange(length, dtype=np.float32)[:, None] / np.float32(self._fps),
            "frame_index": np.arange(length)[:, None],
            "episode_index": np.full((length, 1), index),
            "index": self._frames + np.arange(length)[:, None],
            "task_index": np.full((length, 1), task_index),
        }
        statistics = {name: column_statistics(columns[name]) for name in self._features}
        facts: dict[str, Any] = {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        facts |= self._add_images(images, length, statistics)
        facts |= self._add_rows(columns)
        self._frames += length
        self._episodes.append(facts)
        self._statistics.append(statistics)
        return index

    def finish(self) -> None:
        """Close all files and write what describes them. Raises DatasetError when a video lacks a frame."""
        if self._data is not None:
            self._data.close()
        for key in list(self._videos):
            self._close_video(key)
        for name, count in self._written.items():
            if (found := count_frames(self._folder / name)) != count:
                raise DatasetError(f"{name}: {found} of {count} frames were written")
        self._write_json(INFO, self._info())
        total = {name: combined([part[name] for part in self._statistics]) for name in self._statistics[0]}
        self._write_json(
            STATS, {name: {key: value.tolist() for key, value in part.items()} for name, part in total.items()}
        )
        pq.write_table(_task_table(list(self._tasks)), self._folder / TASKS)
        self._write_episodes()

    def abandon(self) -> None:
        """Close what is open, whatever became of it."""
        if self._data is not None:
            self._data.close()
        for writer in self._videos.values():
            writer.close()

    def _add_images(
        self, images: Iterable[np.ndarray], length: int, statistics: dict[str, Statistics]
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        wanted = set(sampled(length).tolist())
        kept: dict[str, list[np.ndarray]] = {key: [] for key in self._cameras}
        for key in self._cameras:
            writer = self._video(key)
            first, place = writer.frames, self._video_places[key]
            facts |= {
                f"videos/{key}/chunk_index": place.chunk,
                f"videos/{key}/file_index": place.file,
                f"videos/{key}/from_timestamp": first / self._fps,
                f"videos/{key}/to_timestamp": (first + length) / self._fps,
            }
        sizes = [(*size, 3) for size in self._cameras.values()]
        for frame, row in zip(range(length), images, strict=True):
            if [image.shape for image in row] != sizes:
                raise DatasetError(f"images are of shapes {[image.shape for image in row]}, not {sizes}")
            for key, image in zip(self._cameras, row, strict=True):
                self._videos[key].add(image)
                if frame in wanted:
                    kept[key].append(image)
        for key, found in kept.items():
            statistics[key] = image_statistics(np.stack(found))
        return facts

    def _video(self, key: str) -> VideoWriter:
        """The file that the next episode of a camera goes into."""
        if key in self._videos and self._videos[key].bytes >= VIDEO_FILE_MB * 2**20:
            self._close_video(key)
            self._video_places[key] = self._video_places[key].next()
        if key not in self._videos:
            path = self._folder / self._video_places[key].path(VIDEO_PATH, video_key=key)
            self._videos[key] = VideoWriter(path, self._fps, *self._cameras[key], self._codec)
        return self._videos[key]

    def _close_video(self, key: str) -> None:
        writer = self._videos.pop(key)
        writer.close()
        self._written[str(writer.path.relative_to(self._folder))] = writer.frames

    def _add_rows(self, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
        table = pa.table({name: _column(columns[name], feature["dtype"]) for name, feature in self._features.items()})
        path = self._folder / self._data_place.path(DATA_PATH)
        if self._data is not None and path.stat().st_size >= DATA_FILE_MB * 2**20:
            self._data.close()
            self._data, self._data_place = None, self._data_place.next()
            path = self._folder / self._data_place.path(DATA_PATH)
        if self._data is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(path, table.schema, **_PARQUET)
        self._data.write_table(table)
        return {"data/chunk_index": self._data_place.chunk, "data/file_index": self._data_place.file}

    def _info(self) -> dict[str, Any]:
        features = {name: dict(feature) for name, feature in self._features.items()}
        for key, (height, width) in self._cameras.items():
            first = self._folder / _Place().path(VIDEO_PATH, video_key=key)
            features[key] = {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": video_facts(first, self._fps),
            }
        return {
            "codebase_version": VERSION,
            "robot_type": self._robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": VIDEO_FILE_MB,
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": features,
        }

    def _write_episodes(self) -> None:
        rows = [
            {
                **facts,
                **{f"stats/{name}/{key}": v.tolist() for name, part in stats.items() for key, v in part.items()},
            }
            for facts, stats in zip(self._episodes, self._statistics, strict=True)
        ]
        path = self._folder / _Place().path(EPISODES_PATH)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path, **_PARQUET)

    def _write_json(self, name: str, value: Any) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(value, indent=1).encode())


def _column(values: np.ndarray, dtype: str) -> pa.Array:
    """(T, width) as LeRobot keeps it: plain values for a width of 1, else lists of that length."""
    flat = pa.array(np.ascontiguousarray(values).astype(dtype, copy=False).reshape(-1))
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _task_table(tasks: list[str]) -> pa.Table:
    """The instructions as the index of a pandas table, which is how LeRobot reads them."""
    index = "__index_level_0__"
    pandas = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": field,
                "pandas_type": kind,
                "numpy_type": "int64" if kind == "int64" else "object",
                "metadata": None,
            }
            for name, field, kind in (("task_index", "task_index", "int64"), (None, index, "unicode"))
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
