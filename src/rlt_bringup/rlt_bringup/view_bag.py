"""An episode file for looking at: cameras and chunks as Foxglove and PlotJuggler can show them, the rest as recorded.

`ros2 run rlt_bringup view_bag --bag <run>/episodes/000012.mcap` writes <run>/views/000012.mcap. That is no episode:
nothing learns from it, plays it back or counts it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rclpy.serialization import serialize_message

from rlt_common import topics
from rlt_common.config import RobotConfig, config_file, load_robot
from rlt_common.episode_file import (
    Entry,
    EpisodeFileError,
    EpisodeWriter,
    episode_configuration,
    episode_metadata,
    read_messages,
)
from rlt_common.parameters import ParameterError
from rlt_common.recorded_config import robot_in
from rlt_common.relabels import EPISODES
from rlt_teleop import views

FACTS = "facts"
"""Key under which the episode's facts are in the view's configuration record."""


def default_output(bag: Path) -> Path:
    """Where the view of an episode goes: <run>/views, or beside a file that is in no run."""
    if bag.parent.name == EPISODES:
        return bag.parent.parent / "views" / bag.name
    return bag.with_suffix(".view.mcap")


def write_view(bag: Path, output: Path, robot: RobotConfig) -> int:
    """Write the view of an episode; returns its size in bytes.

    Raises EpisodeFileError when one cannot be read or the other not be written; then there is no `output`.
    """
    facts, configuration = episode_metadata(bag), episode_configuration(bag)
    writer = EpisodeWriter(output)
    try:
        for entry in read_messages(bag):
            for topic, message in _shown(entry, robot):
                kind = f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"
                writer.write(topic, kind, serialize_message(message), entry.stamp_ns)
        return writer.finish(None, {**configuration, FACTS: json.dumps(facts), "view_of": str(bag)})
    except EpisodeFileError:
        writer.abandon()
        raise


def recorded_robot(bag: Path, given: str = "") -> RobotConfig:
    """The robot that an episode was recorded with, or the file or name that is given.

    Raises EpisodeFileError, or ParameterError saying what to give.
    """
    if given:
        return load_robot(config_file("robots", given))
    robot = robot_in(bag)
    if robot is None:
        raise ParameterError(f"{bag} does not hold the robot file that it was recorded with: give it with --robot")
    return robot


def _shown(entry: Entry, robot: RobotConfig) -> Iterator[tuple[str, object]]:
    """What stands in the view for one recorded message."""
    if entry.topic == topics.OBSERVATION:
        yield from views.images(entry.message)
        entry.message.camera_names, entry.message.images, entry.message.image_skew_s = [], [], []
    elif entry.topic == topics.ACTION_CHUNK:
        yield from views.trajectories(entry.message, robot.action_names, robot.period_s)
    yield entry.topic, entry.message


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup view_bag`."""
    parser = argparse.ArgumentParser(prog="view_bag", description="an episode file for Foxglove and PlotJuggler")
    parser.add_argument("--bag", type=Path, required=True, help="episode file, <run>/episodes/<id>.mcap")
    parser.add_argument("--output", type=Path, help="file to write (default: <run>/views/<id>.mcap)")
    parser.add_argument("--robot", default="", help="robot file or name (default: the one in the episode)")
    options = parser.parse_args(arguments)
    output = options.output or default_output(options.bag)
    try:
        if output.resolve() == options.bag.resolve() or output.resolve().parent.name == EPISODES:
            raise EpisodeFileError(f"{output}: a view is no episode: choose a place outside of {EPISODES}/")
        size = write_view(options.bag, output, recorded_robot(options.bag, options.robot))
    except (EpisodeFileError, ParameterError) as error:
        sys.exit(f"view_bag: {error}")
    print(f"view_bag: {output} ({size / 1e6:.1f} MB): open it in Foxglove with config/foxglove/rlt.json of rlt_bringup")


if __name__ == "__main__":
    main()
