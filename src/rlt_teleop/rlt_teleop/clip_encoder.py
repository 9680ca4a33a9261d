"""One episode as a video for a browser: the images of all its cameras side by side, at the pace in which they came.

    python -m rlt_teleop.clip_encoder EPISODE.mcap OUTPUT.mp4

H.264 (baseline, yuv420p) in MP4. A process of its own, at a low priority: encoding never waits for the page's
node, nor the node for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from rlt_common import topics
from rlt_common.atomic import fsync_folder, remove_leftovers, temporary_path
from rlt_common.codecs import decode_image, stamp_ns
from rlt_common.episode_file import EpisodeFileError, read_messages
from rlt_msgs.msg import Observation

MAX_FRAMES = 20_000
"""More are left out: 13 minutes at 25 Hz."""
MIN_HEIGHT, MAX_HEIGHT = 192, 480
"""px: smaller images are enlarged in whole steps, so that colours are not smeared; larger ones are reduced."""
GAP = 4
"""px between two cameras."""
OPTIONS = {"profile": "baseline", "preset": "veryfast", "crf": "20", "g": "25"}
NICE = 10
"""Lower than any node, and still served where others are busy."""
_TIME_BASE = Fraction(1, 1000)
_LEAST_MS = 5


class ClipError(RuntimeError):
    """An episode of which no clip can be made; says why."""


def encode(episode: Path | str, output: Path | str) -> int:
    """Write the clip, whole or not at all, and return its number of frames.

    Raises ClipError for an episode without readable images, EpisodeFileError for a damaged file, OSError of the disk.
    """
    output = Path(output)
    remove_leftovers(output.parent, output.name)
    temporary = temporary_path(output)
    try:
        count = _write(_frames(episode), temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, output)
        fsync_folder(output.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """(H, W, 3) uint8 with even H and W, of images (h, w, 3): equally high, with a gap between."""
    shaped = [_scaled(image) for image in images]
    height = max(image.shape[0] for image in shaped)
    padded = [np.pad(image, ((0, height - image.shape[0]), (0, 0), (0, 0))) for image in shaped]
    gap = np.zeros((height, GAP, 3), np.uint8)
    row = np.hstack([part for image in padded for part in (image, gap)][:-1])
    return np.pad(row, ((0, row.shape[0] % 2), (0, row.shape[1] % 2), (0, 0)))


def _scaled(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if height < MIN_HEIGHT:
        times = -(-MIN_HEIGHT // height)
        return np.repeat(np.repeat(image, times, axis=0), times, axis=1)
    if height > MAX_HEIGHT:
        return cv2.resize(image, (max(1, round(width * MAX_HEIGHT / height)), MAX_HEIGHT), interpolation=cv2.INTER_AREA)
    return image


def _frames(episode: Path | str) -> Iterator[tuple[int, np.ndarray]]:
    """(ms since the first, image) of each observation with readable images."""
    first_ns, last_ms = None, -_LEAST_MS
    for number, entry in enumerate(read_messages(episode, [topics.OBSERVATION])):
        if number == MAX_FRAMES:
            return
        message: Observation = entry.message
        try:
            images = [decode_image(image) for image in message.images]
        except ValueError:
            continue
        if not images:
            continue
        now_ns = stamp_ns(message.header.stamp)
        first_ns = now_ns if first_ns is None else first_ns
        last_ms = max(last_ms + _LEAST_MS, (now_ns - first_ns) // 1_000_000)
        yield last_ms, side_by_side(images)


def _write(frames: Iterator[tuple[int, np.ndarray]], path: Path) -> int:
    count, shape = 0, None
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options=OPTIONS)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", _TIME_BASE
        stream.thread_count = 1
        for at_ms, image in frames:
            if shape is None:
                shape = image.shape
                stream.height, stream.width = shape[:2]
            if image.shape != shape:
                continue
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = at_ms, _TIME_BASE
            container.mux(stream.encode(frame))
            count += 1
        if not count:
            raise ClipError("the episode has no images")
        container.mux(stream.encode())
    return count


def main() -> None:
    """Entry point of the process. Ends with status 1 and a reason when no clip was made."""
    os.nice(NICE)
    episode, output = sys.argv[1:]
    try:
        encode(episode, output)
    except (ClipError, EpisodeFileError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{output}: {error.strerror or error}")


if __name__ == "__main__":
    main()
