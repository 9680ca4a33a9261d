"""What programs for looking (Foxglove, PlotJuggler, rqt) can show of messages that they cannot show as they are. Pure.

An observation becomes an image per camera, a chunk two trajectories, in which row k is point k: what the policy made
of it and the VLA's reference. Both under `view/`: nothing of the graph listens there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rlt_msgs.msg import ActionChunk, Observation

POLICY, REFERENCE = "view/chunk/policy", "view/chunk/reference"
IMAGE_TYPE, TRAJECTORY_TYPE = "sensor_msgs/msg/CompressedImage", "trajectory_msgs/msg/JointTrajectory"


def camera_topic(name: str) -> str:
    """Topic of a camera's images; a character that no topic may have becomes "_"."""
    return "view/camera/" + re.sub(r"\W", "_", name, flags=re.ASCII)


def images(observation: Observation) -> Iterator[tuple[str, CompressedImage]]:
    """Topic and image of each camera, as the VLA saw it, with the observation's stamp."""
    for name, image in zip(observation.camera_names, observation.images, strict=False):
        shown = CompressedImage(format=image.format, data=image.data)
        shown.header.stamp = observation.header.stamp
        shown.header.frame_id = name
        yield camera_topic(name), shown


def trajectories(chunk: ActionChunk, names: Sequence[str], period_s: float) -> Iterator[tuple[str, JointTrajectory]]:
    """Topic and rows of what the policy chose, and of the VLA's reference: `positions` are a row's d action values.

    Args:
        chunk: whose lengths may be anything: rows that are not whole are left out.
        names: (d,) of the action's values.
        period_s: of control, s.
    """
    for topic, values in ((POLICY, chunk.actions), (REFERENCE, chunk.reference)):
        width = len(names)
        rows = np.asarray(values, np.float64)[: len(values) // width * width].reshape(-1, width)
        shown = JointTrajectory(header=chunk.header, joint_names=list(names))
        for k, row in enumerate(rows):
            seconds, nanoseconds = divmod(round(k * period_s * 1e9), 10**9)
            when = Duration(sec=seconds, nanosec=nanoseconds)
            shown.points.append(JointTrajectoryPoint(positions=row.tolist(), time_from_start=when))
        yield topic, shown
