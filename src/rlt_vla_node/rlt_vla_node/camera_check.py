"""Command `camera_check`: listens to a robot's cameras and says what the VLA would get, and what is wrong.

    camera_check --robot my_robot.yaml [--namespace ns] [--seconds 10] [--sheet cameras.png] [--ros-args ...]

Start the drivers first; the graph may run or not. Prints a row per camera: rate, age (stamp to arrival), skew to the
robot state it would be matched with, lost images, exposure. Ends with status 1 when something is wrong. Moves nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import JointState

from rlt_common.atomic import write_atomic
from rlt_common.codecs import CodecError, encode_image
from rlt_common.config import CameraConfig, RobotConfig, config_file, load_robot
from rlt_common.parameters import ParameterError
from rlt_vla_node.camera_listener import CameraListener, arguments_of, listen
from rlt_vla_node.camera_messages import read_image
from rlt_vla_node.camera_report import CameraSummary, contact_sheet, table
from rlt_vla_node.camera_timing import CameraTiming, timing_problems
from rlt_vla_node.exposure import ExposureWatch
from rlt_vla_node.synchroniser import SyncConfig, Synchroniser

LOOK_NS = 200_000_000
"""Between two images of a camera that are decoded."""


class CameraCheck:
    """What was heard of a robot's cameras. Times come in as arguments."""

    def __init__(self, robot: RobotConfig) -> None:
        self._robot = robot
        self._states = 0
        self._synchroniser: Synchroniser[None] = Synchroniser(
            [camera.name for camera in robot.cameras],
            SyncConfig(
                tolerance_ns=round(robot.camera_tolerance_s * 1e9),
                period_ns=round(1e9 / min(camera.rate_hz for camera in robot.cameras)),
                stall_s=0.0,
            ),
        )
        self._timing = {camera.name: CameraTiming(camera.rate_hz) for camera in robot.cameras}
        self._exposure = {camera.name: ExposureWatch() for camera in robot.cameras}
        self._looked_ns: dict[str, int] = {}
        self._unreadable: dict[str, str] = {}
        self.images: dict[str, np.ndarray | None] = dict.fromkeys(self._timing)
        """Camera -> its newest image that was looked at, as the VLA would see it."""

    def on_state(self, stamp_ns: int, _message: JointState | None = None) -> None:
        """A robot state."""
        self._states += 1
        self._synchroniser.on_state(stamp_ns, None, 0.0)
        self._match()

    def on_image(self, camera: CameraConfig, stamp_ns: int, data: bytes, now_ns: int) -> None:
        """A serialised image that came at `now_ns`."""
        self._timing[camera.name].on_image(stamp_ns, now_ns)
        self._synchroniser.on_image(camera.name, stamp_ns - round(camera.delay_s * 1e9), data, 0.0)
        self._match()
        if abs(stamp_ns - self._looked_ns.get(camera.name, -LOOK_NS)) < LOOK_NS:
            return
        self._looked_ns[camera.name] = stamp_ns
        try:
            rgb = read_image(data, camera)
        except CodecError as error:
            self._unreadable[camera.name] = str(error).removeprefix(f"camera {camera.name}: ")
            return
        self.images[camera.name] = rgb
        self._exposure[camera.name].look(rgb)

    def _match(self) -> None:
        for complete in self._synchroniser.take():
            for camera, record in zip(self._robot.cameras, complete.images, strict=True):
                self._timing[camera.name].on_match(record.stamp_ns - complete.stamp_ns)

    def cameras(self, silence: dict[str, str]) -> list[CameraSummary]:
        """The figures of every camera. `silence`: camera -> why nothing may have come."""
        found = []
        for camera in self._robot.cameras:
            timing, watch = self._timing[camera.name].report(), self._exposure[camera.name]
            if not timing.images:
                problems = [silence[camera.name]]
            else:
                judged = timing_problems(camera, timing) if self._robot.tick == "timer" else []
                problems = [*filter(None, [self._unreadable.get(camera.name)]), *judged, *watch.problems()]
            found.append(CameraSummary(camera.name, timing, watch.now, tuple(problems)))
        return found

    def matching(self) -> list[str]:
        """What is wrong with the states, or with images and states together."""
        if not self._states:
            return ["no joint_states came: start the arms' driver; without it there are no observations"]
        if any(not count for count in self._synchroniser.counters.per_camera.values()):
            return []
        sets, lost = self._synchroniser.counters.sets, self._synchroniser.counters.unmatched_states
        if sets and lost <= sets / 10:
            return []
        return [
            f"{sets} observations, and {lost} states for which a camera had no image within camera_tolerance_s "
            f"({self._robot.camera_tolerance_s:g} s): measure delay_s with calibrate_delay, synchronise the clocks, or "
            "raise camera_tolerance_s to half the slowest camera's period"
        ]


class CameraLook:
    """A node that listens to a robot's cameras, and what it has found. rclpy must be running; the caller spins it."""

    def __init__(self, robot: RobotConfig, namespace: str = "", name: str = "camera_check") -> None:
        self._robot = robot
        self.state = CameraCheck(robot)
        self.node = CameraListener(name, robot, robot.cameras, self.state.on_state, self.state.on_image, namespace)

    def report(self) -> tuple[list[str], list[str]]:
        """The lines of the table, and one sentence per problem."""
        silence = {camera.name: self.node.silence(camera) for camera in self._robot.cameras}
        cameras = self.state.cameras(silence)
        problems = [f"{camera.name}: {problem}" for camera in cameras for problem in camera.problems]
        problems += [*self.state.matching(), *(f"{name}: {reason}" for name, reason in self.node.refused.items())]
        return table(cameras).splitlines(), problems


def check(robot: RobotConfig, seconds: float, sheet: Path | None, namespace: str = "") -> int:
    """Listen, print, write the contact sheet. Returns the number of problems. rclpy must be running."""
    looking = CameraLook(robot, namespace)
    try:
        listen(looking.node, lambda: False, seconds)
        lines, problems = looking.report()
    finally:
        looking.node.destroy_node()
    print("\n".join(lines))
    for problem in problems:
        print(f"- {problem}")
    if not problems:
        print("all cameras are in order")
    if sheet is not None:
        write_atomic(sheet, encode_image(contact_sheet(looking.state.images), "png"))
        print(f"what the VLA would see: {sheet}")
    return len(problems)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_vla_node camera_check`."""
    parser = argparse.ArgumentParser(prog="camera_check", description="check a robot's cameras; nothing is moved")
    parser.add_argument("--robot", required=True, help="robot name, or path of a robot file")
    parser.add_argument("--namespace", default="", help="namespace of the robot's nodes")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to listen, 1 to 3600")
    parser.add_argument("--sheet", type=Path, help="PNG file for what the VLA would see")
    options = arguments_of(parser, arguments)
    try:
        if not 1.0 <= options.seconds <= 3600.0:
            sys.exit(f"camera_check: --seconds {options.seconds:g}: give 1 to 3600")
        robot = load_robot(config_file("robots", options.robot))
        problems = check(robot, options.seconds, options.sheet, options.namespace)
    except (ParameterError, OSError) as error:
        sys.exit(f"camera_check: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit("camera_check: interrupted")
    finally:
        rclpy.try_shutdown()
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
