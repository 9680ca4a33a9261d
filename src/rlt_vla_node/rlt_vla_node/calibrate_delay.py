"""Command `calibrate_delay`: measures by how much a camera's stamps are later than the arms'.

    calibrate_delay --robot my_robot.yaml --camera base [--arm left] [--namespace ns] [--seconds 30] [--ros-args ...]

While it listens a person moves an arm, by hand or by teleoperation, in view of the camera: irregularly, now fast, now
slow, with stops, and nothing else moves. It prints the `delay_s` for the camera in the robot file, or why the recording
does not tell it (status 1). It commands nothing.
"""

from __future__ import annotations

import argparse
import math
import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import JointState

from rlt_common.codecs import CodecError
from rlt_common.config import CameraConfig, RobotConfig, config_file, load_robot
from rlt_common.parameters import ParameterError
from rlt_vla_node.camera_listener import CameraListener, arguments_of, listen
from rlt_vla_node.camera_messages import read_image
from rlt_vla_node.delay_calibration import CalibrationError, MotionRecording

PATIENCE = 2.0
"""Times `seconds` of wall time after which it is no use to wait for more."""


def joints_of(robot: RobotConfig, arm: str) -> tuple[str, ...]:
    """Joints of the named arm, "" for all arms. Raises ParameterError for an arm that is not there."""
    known = {a.name: a.joints for a in robot.arms}
    if arm and arm not in known:
        raise ParameterError(f"robot {robot.name} has no arm {arm!r}; it has: {', '.join(known)}")
    return tuple(joint for name, joints in known.items() if arm in ("", name) for joint in joints)


def camera_of(robot: RobotConfig, name: str) -> CameraConfig:
    """The named camera. Raises ParameterError for one that is not there."""
    known = {camera.name: camera for camera in robot.cameras}
    if name not in known:
        raise ParameterError(f"robot {robot.name} has no camera {name!r}; it has: {', '.join(known)}")
    return known[name]


def positions_of(message: JointState, joints: tuple[str, ...]) -> list[float]:
    """Positions of the joints. Raises CodecError naming one that is missing or not finite."""
    positions = dict(zip(message.name, message.position, strict=False))
    for joint in joints:
        if not math.isfinite(positions.get(joint, math.nan)):
            raise CodecError(f"joint states have no finite position of {joint}")
    return [positions[joint] for joint in joints]


def listener(
    recording: MotionRecording,
    robot: RobotConfig,
    camera: CameraConfig,
    joints: tuple[str, ...],
    namespace: str = "",
) -> CameraListener:
    """A node that fills the recording. rclpy must be running."""
    return CameraListener(
        "calibrate_delay",
        robot,
        [camera],
        lambda stamp_ns, message: recording.on_state(stamp_ns, positions_of(message, joints)),
        lambda _, stamp_ns, data, __: recording.on_image(stamp_ns, read_image(data, camera)),
        namespace,
    )


def record(
    robot: RobotConfig, camera: CameraConfig, joints: tuple[str, ...], seconds: float, namespace: str = ""
) -> MotionRecording:
    """What comes in `seconds`, by the stamps. Raises CalibrationError when that is not enough."""
    recording = MotionRecording()
    said = 0.0

    def done() -> bool:
        nonlocal said
        if recording.seconds >= said + 5.0:
            said = recording.seconds
            print(f"{said:.0f} of {seconds:.0f} s, {recording.images} images: keep moving the arm", flush=True)
        return recording.seconds >= seconds

    node = listener(recording, robot, camera, joints, namespace)
    try:
        listen(node, done, PATIENCE * seconds)
        if not done():
            reasons = [f"{name}: {reason}" for name, reason in node.refused.items()]
            if not recording.images and camera.name not in node.refused:
                reasons.append(node.silence(camera))
            if not recording.states and not set(robot.state_topics) & set(node.refused):
                reasons.append(f"no joint states came on {', '.join(robot.state_topics)}: start the arms' drivers")
            if reasons:
                raise CalibrationError("; ".join(reasons))
    finally:
        node.destroy_node()
    return recording


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_vla_node calibrate_delay`."""
    parser = argparse.ArgumentParser(prog="calibrate_delay", description="measure a camera's delay; nothing is moved")
    parser.add_argument("--robot", required=True, help="robot name, or path of a robot file")
    parser.add_argument("--namespace", default="", help="namespace of the robot's nodes")
    parser.add_argument("--camera", required=True, help="name of the camera in it")
    parser.add_argument("--arm", default="", help="the arm that is moved (default: all joints of all arms count)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the recording, 10 to 600")
    options = arguments_of(parser, arguments)
    try:
        if not 10.0 <= options.seconds <= 600.0:
            sys.exit(f"calibrate_delay: --seconds {options.seconds:g}: give 10 to 600")
        robot = load_robot(config_file("robots", options.robot))
        camera, joints = camera_of(robot, options.camera), joints_of(robot, options.arm)
        print(f"move the arm in view of camera {camera.name} for {options.seconds:g} s: irregularly, with stops")
        found = record(robot, camera, joints, options.seconds, options.namespace).estimate()
    except (ParameterError, CalibrationError) as error:
        sys.exit(f"calibrate_delay: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit("calibrate_delay: interrupted")
    finally:
        rclpy.try_shutdown()
    print(
        f"correlation {found.correlation:.2f} over {found.images} images, standard error {found.error_s * 1e3:.0f} ms\n"
        f"in the robot file, camera {camera.name}:\n  delay_s: {found.delay_s:.3f}"
    )


if __name__ == "__main__":
    main()
