"""Command `dataset`: a folder of episode files to one data set in LeRobot's v3 layout.

    dataset --robot sim.yaml --task screw.yaml --episodes DIR --output DIR [--vla FILE] [--include-failures]
            [--allow-gaps] [--keep-repositioning] [--max-age S] [--codec av1|h264|lossless]

Episodes labelled success, with labels that were corrected afterwards counting. The output is whole or not there. What
was found in each episode is printed and written to meta/rlt.json (docs/datasets.md).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rlt_common.config import config_file, load_named
from rlt_common.parameters import ParameterError
from rlt_common.vla_config import load_vla
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.dataset_conversion import REPORT, Progress, Wanted, convert
from rlt_vla_node.episode_frames import frame_rules
from rlt_vla_node.video import CODECS, DEFAULT_CODEC, VideoError


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dataset", description="episode files to a LeRobot data set (v3)")
    parser.add_argument("--robot", required=True, help="robot name, or path of a robot file")
    parser.add_argument("--task", required=True, help="task name, or path of a task file")
    parser.add_argument("--episodes", required=True, type=Path, help="folder of episode files")
    parser.add_argument("--output", required=True, type=Path, help="folder of the data set; must not be there yet")
    parser.add_argument("--vla", help="VLA name or file: observation.state and action are this policy's vectors")
    parser.add_argument("--include-failures", action="store_true", help="failures and time-outs too")
    parser.add_argument("--allow-gaps", action="store_true", help="split episodes at gaps instead of refusing them")
    parser.add_argument("--keep-repositioning", action="store_true", help="keep steps in which a human repositioned")
    parser.add_argument(
        "--max-age",
        type=float,
        metavar="S",
        help="s, a step whose newest observation is older is a gap (default: twice the observations' period)",
    )
    parser.add_argument("--codec", choices=tuple(CODECS), default=DEFAULT_CODEC, help="of the videos")
    options = parser.parse_args(arguments)
    if options.max_age is not None and not 0.0 <= options.max_age <= 3600.0:
        parser.error("--max-age must be between 0 and 3600 s")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_vla_node dataset`."""
    options = parse_arguments(arguments)
    try:
        robot, task = load_named(options.robot, options.task)
        vla = load_vla(config_file("vlas", options.vla)) if options.vla else None
        if vla is not None and vla.control_hz != robot.control_hz:
            _say(
                f"the policy's rows are at {vla.control_hz:g} Hz, the data set's frames at {robot.control_hz:g} Hz: "
                "adapt takes the rows it needs; lerobot-train would take every frame for a row"
            )
        rules = frame_rules(robot, task, options.max_age, options.keep_repositioning)
        wanted = Wanted(options.include_failures, options.allow_gaps, options.codec)
        report = convert(options.episodes, options.output, robot, task, rules, wanted, vla, _progress())
    except (ParameterError, DatasetError, VideoError, OSError) as error:
        sys.exit(f"dataset: {error}")
    except KeyboardInterrupt:
        sys.exit("dataset: interrupted; nothing of it is left")
    _summary(report, options.output)


def _summary(report: dict[str, Any], output: Path) -> None:
    for camera, (median, p99, largest) in report["image_age_s"].items():
        _say(f"age of {camera}: median {1e3 * median:.1f} ms, p99 {1e3 * p99:.1f} ms, max {1e3 * largest:.1f} ms")
    if report["not_wanted"]:
        _say(f"{len(report['not_wanted'])} episodes have other labels and are not in it")
    segments = sum(len(found["segments"]) for found in report["episodes"])
    _say(
        f"{len(report['episodes'])} episode files became {segments} episodes of {report['frames']} frames in {output}; "
        f"what was found is in {REPORT}"
    )


def _progress() -> Progress:
    start = time.monotonic()

    def show(done: int, total: int, words: str) -> None:
        left = (time.monotonic() - start) / done * (total - done)
        _say(f"{done}/{total}, about {left:.0f} s left: {words}")

    return show


def _say(text: str) -> None:
    print(f"dataset: {text}", flush=True)


if __name__ == "__main__":
    main()
