"""Video files of a data set, written and read with PyAV (FFmpeg's libraries), frame by frame.

A file holds the frames of several episodes one after the other at a constant rate, as LeRobot lays them out: frame n is
at n / fps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np


class VideoError(RuntimeError):
    """A video that cannot be written or read; says which and why."""


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg with its pixel format and options."""

    encoder: str
    pixels: str
    options: Mapping[str, str] = field(default_factory=dict)


_LEROBOT = {"g": "2", "crf": "30"}
CODECS: Mapping[str, Codec] = {
    "av1": Codec("libsvtav1", "yuv420p", {**_LEROBOT, "preset": "12"}),
    "h264": Codec("libx264", "yuv420p", {"g": "2", "crf": "18"}),
    "lossless": Codec("libx264rgb", "rgb24", {"g": "10", "qp": "0"}),
}
"""av1 is what LeRobot writes itself, option by option. lossless keeps every bit (H.264 in RGB)."""
DEFAULT_CODEC = "lossless"


class VideoWriter:
    """Writes one video file."""

    def __init__(self, path: Path, fps: int, height: int, width: int, codec: Codec) -> None:
        """Open `path` for writing. Raises VideoError where this PyAV cannot encode so."""
        self.path, self.frames, self.bytes = path, 0, 0
        os.environ.setdefault("SVT_LOG", "1")  # errors alone: SVT-AV1 prints its configuration otherwise
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._container = av.open(str(path), "w", options={"movflags": "faststart"})
            self._stream = self._container.add_stream(codec.encoder, rate=fps, options=dict(codec.options))
        except (av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(f"{path}: {codec.encoder}: {error}") from error
        self._stream.pix_fmt = codec.pixels
        self._stream.height, self._stream.width = height, width
        self._time_base = Fraction(1, fps)

    def add(self, rgb: np.ndarray) -> None:
        """Append an image (H, W, 3) uint8. Raises VideoError."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame.pts, frame.time_base = self.frames, self._time_base
        self._encode(frame)
        self.frames += 1

    def close(self) -> None:
        """Write what is still inside the encoder, and the file's end. Raises VideoError."""
        self._encode(None)
        try:
            self._container.close()
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{self.path}: {error}") from error

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self.bytes += packet.size
                self._container.mux(packet)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(f"{self.path}: {error}") from error


class VideoReader:
    """Reads frames of one video file by their number; going forward is fast, any other way seeks."""

    def __init__(self, path: Path | str, fps: float) -> None:
        """Open `path`. Raises VideoError."""
        self.path, self._fps = Path(path), fps
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise VideoError(f"{path}: no video that can be read: {error}") from error
        self._stream.thread_type = "AUTO"
        self._decoded: Iterator[av.VideoFrame] = iter(())
        self._next: int | None = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def frame(self, number: int) -> np.ndarray:
        """Frame `number` as (H, W, 3) uint8 RGB. Raises VideoError when the file does not have it."""
        try:
            if self._next is None or not self._next <= number < self._next + 2 * self._fps:
                self._seek(number)
            for frame in self._decoded:
                at = round(float(frame.pts * frame.time_base) * self._fps)
                self._next = at + 1
                if at == number:
                    return frame.to_ndarray(format="rgb24")
                if at > number:
                    break
        except (av.FFmpegError, OSError, TypeError) as error:
            raise VideoError(f"{self.path}: frame {number}: {error}") from error
        self._next = None
        raise VideoError(f"{self.path}: has no frame {number}")

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB of N frames."""
        return np.stack([self.frame(number) for number in numbers])

    def _seek(self, number: int) -> None:
        base = self._stream.time_base
        self._container.seek(round(number / self._fps / base), stream=self._stream, backward=True)
        self._decoded = self._container.decode(self._stream)


def video_facts(path: Path | str, fps: int) -> dict[str, Any]:
    """What info.json says of a video. Raises VideoError."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return {
                "video.height": stream.height,
                "video.width": stream.width,
                "video.codec": stream.codec.canonical_name,
                "video.pix_fmt": stream.pix_fmt,
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            }
    except (av.FFmpegError, OSError, IndexError) as error:
        raise VideoError(f"{path}: no video that can be read: {error}") from error


def count_frames(path: Path | str) -> int:
    """Frames in a video file, without decoding them. Raises VideoError."""
    try:
        with av.open(str(path)) as container:
            return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise VideoError(f"{path}: no video that can be read: {error}") from error
