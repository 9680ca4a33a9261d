"""`make bench-dataset`: what the video codecs of data sets leave of the cameras' images, and what they cost.

Demonstrations of the simulated screw cell with an observation every second control step, as `mode:=collect` records
them. Every frame is compared with the image that the VLA saw: as the simulator renders it, and with the noise of a
sensor, which is what makes videos large. QUICK=1 takes one demonstration.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed

from rlt_bringup.graph import config_file
from rlt_common.config import load_robot, load_task
from rlt_sim.collect_command import collect_one
from rlt_vla_node.episode_frames import frame_rules, read_frames
from rlt_vla_node.video import CODECS, VideoReader, VideoWriter

NAME = "dataset"
EPISODES = 4
STRIDE = 2
NOISE = 3.0
"""Standard deviation of the sensor's noise, of 255; drawn anew for every image, not for its repetition in a frame."""
READS = 50
FPS = 50


def episode_images(seed: int, folder: Path) -> np.ndarray:
    """(T, C, H, W, 3) uint8: what was seen in each control step of one demonstration."""
    robot_path, task_path = str(config_file("robots", "sim")), str(config_file("tasks", "screw"))
    if not collect_one(robot_path, task_path, str(folder), seed + 1, seed, STRIDE)[1]:
        raise RuntimeError(f"the scripted operator failed on seed {seed}: choose another")
    robot, task = load_robot(robot_path), load_task(task_path)
    frames = read_frames(folder / f"{seed + 1:06d}.mcap", robot, frame_rules(robot, task))
    return np.stack(list(frames.images(frames.segments[0])))


def noisy(images: np.ndarray, seed: int) -> np.ndarray:
    """The images with a sensor's noise; frames that repeat an image repeat its noise."""
    rng = np.random.default_rng(seed)
    found = images.copy()
    for row in range(0, len(images), STRIDE):
        drawn = images[row] + rng.normal(0.0, NOISE, images.shape[1:])
        found[row : row + STRIDE] = drawn.round().clip(0, 255)
    return found


def measure_codec(codec: str, episodes: Sequence[np.ndarray], folder: Path) -> dict[str, Any]:
    """Size, errors and times of one codec; every camera of every episode is a file."""
    pixels = size = largest = frames = 0
    squares, written_s, read_s, worst = 0.0, 0.0, 0.0, np.inf
    rng = np.random.default_rng(0)
    for number, images in enumerate(episodes):
        for camera in range(images.shape[1]):
            wanted = images[:, camera]
            path = folder / f"{codec}-{number}-{camera}.mp4"
            began = time.process_time()
            writer = VideoWriter(path, FPS, *wanted.shape[1:3], CODECS[codec])
            for image in wanted:
                writer.add(image)
            writer.close()
            written_s += time.process_time() - began
            with VideoReader(path, FPS) as reader:
                error = reader.frames(range(len(wanted))).astype(np.int16) - wanted
                began = time.process_time()
                reader.frames(rng.integers(0, len(wanted), READS).tolist())
                read_s += time.process_time() - began
            each = (error.astype(np.float64) ** 2).mean(axis=(1, 2, 3))
            squares, frames = squares + each.sum(), frames + len(wanted)
            worst = min(worst, decibel(each.max()))
            largest = max(largest, int(np.abs(error).max()))
            size, pixels = size + path.stat().st_size, pixels + wanted[..., 0].size
    files = sum(images.shape[1] for images in episodes)
    return {
        "codec": codec,
        "frames": frames,
        "bits_per_pixel": 8 * size / pixels,
        "kb_per_s": size / 1e3 / sum(len(images) / FPS for images in episodes),
        "psnr": decibel(squares / frames),
        "psnr_worst_frame": worst,
        "largest_error": largest,
        "write_ms": 1e3 * written_s / frames,
        "random_read_ms": 1e3 * read_s / files / READS,
    }


def decibel(mean_square: float) -> float:
    """Peak signal to noise ratio; infinite where there is no error."""
    return np.inf if mean_square == 0 else 10 * float(np.log10(255**2 / mean_square))


def measure(episodes: int) -> list[dict[str, Any]]:
    """A row per kind of images and codec."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clean = [episode_images(seed, folder) for seed in range(episodes)]
        grainy = [noisy(images, seed) for seed, images in enumerate(clean)]
        for kind, found in (("simulated", clean), ("with noise", grainy)):
            for codec in CODECS:
                row = measure_codec(codec, found, folder)
                exact = {k: None if v == np.inf else v for k, v in row.items()}
                rows.append({"images": kind, "size": list(found[0].shape[2:4]), **exact})
                print(rows[-1], flush=True)
    return rows


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """That the lossless codec is."""
    error = max(row["largest_error"] for row in rows if row["codec"] == "lossless")
    return [Goal("largest error of a pixel of the lossless codec", error, "0", error == 0)]


def table(document: Mapping[str, Any]) -> str:
    """The part of README.md."""
    header = ("images", "codec", "bit per pixel", "kB per s", "PSNR, dB", "worst frame", "largest error of 255")
    header += ("CPU ms to write a frame", "to read one at random")
    lines = [
        (
            row["images"],
            row["codec"],
            f"{row['bits_per_pixel']:.2f}",
            f"{row['kb_per_s']:.0f}",
            _shown(row["psnr"]),
            _shown(row["psnr_worst_frame"]),
            str(row["largest_error"]),
            f"{row['write_ms']:.2f}",
            f"{row['random_read_ms']:.2f}",
        )
        for row in document["rows"]
    ]
    row, machine = document["rows"][0], document["machine"]
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores; n = "
        f"{document['n']} demonstrations of the screw, {row['frames']} frames of {row['size'][1]} x {row['size'][0]} "
        f"pixels of three cameras, each image in two of them; the noise has a standard deviation of {NOISE:g} of 255."
    )
    return f"{head}\n\n{markdown_table(header, lines)}\n\n{goal_table(document['goals'])}"


def _shown(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"


def main() -> None:
    """Measure, write the result and the table."""
    if quick():
        show_committed(NAME, str(measure(1)))
        return
    rows = measure(EPISODES)
    publish(
        NAME, table, command="make bench-dataset", seeds=list(range(EPISODES)), n=EPISODES, rows=rows, goals=goals(rows)
    )


if __name__ == "__main__":
    main()
