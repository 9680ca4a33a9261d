"""What camera_check says of cameras that are in order, late, badly set, or not there."""

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from node_rig import PERIOD_NS, Probe, Rig, image, joint_state
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState

from rlt_common import topics
from rlt_vla_node.camera_check import CameraCheck, main
from rlt_vla_node.camera_listener import CameraListener
from rlt_vla_node.camera_report import contact_sheet, table

START_NS = 10_000_000_000
MS = 1_000_000
SILENCE = {"base": "nobody publishes on /base/image_raw", "wrist": "nobody publishes on /wrist/image_raw"}


@pytest.fixture
def robot(cell):
    return replace(cell.robot, tick="timer", camera_tolerance_s=0.01)


def hear(robot, frames=50, late_ms=0.0, level=None, cameras=("base", "wrist"), **changes):
    """A check that heard 25 Hz of states at 50 Hz, with images stamped `late_ms` after them."""
    rng = np.random.default_rng(0)
    robot = replace(robot, cameras=tuple(replace(camera, **changes) for camera in robot.cameras))
    check = CameraCheck(robot)
    for step in range(2 * frames):
        check.on_state(START_NS + step * PERIOD_NS)
        if step % 2 == 0:
            for camera in robot.cameras:
                if camera.name in cameras:
                    stamp_ns = START_NS + step * PERIOD_NS + round(late_ms * MS)
                    rgb = rng.integers(20, 200, (16, 16, 3), np.uint8)
                    rgb = rgb if level is None else np.full_like(rgb, level)
                    check.on_image(camera, stamp_ns, serialize_message(image(rgb, stamp_ns)), stamp_ns + 30 * MS)
    return check


def problems(check):
    return [f"{camera.name}: {text}" for camera in check.cameras(SILENCE) for text in camera.problems]


def test_cameras_in_order_have_figures_and_no_problem(robot):
    check = hear(robot, late_ms=4.0)
    assert problems(check) + check.matching() == []
    lines = table(check.cameras(SILENCE)).splitlines()
    assert lines[0].split() == [
        *("camera", "Hz", "age", "p50", "age", "p99", "skew", "p50", "skew", "p99"),
        *("dropped", "mean", "saturated", "black"),
    ]
    assert lines[1].split()[:7] == ["base", "25.0", "30.0", "30.0", "4.0", "4.0", "0/50"]
    assert len({len(line) for line in lines}) == 1
    assert [rgb.shape for rgb in check.images.values()] == [(16, 16, 3)] * 2


def test_a_delay_that_was_measured_brings_images_back_to_their_states(robot):
    late = hear(robot, late_ms=14.0, cameras=("base", "wrist"), rate_hz=25.0)
    assert late.cameras(SILENCE)[0].timing.skew_s[0] == pytest.approx(-0.006)
    right = hear(robot, late_ms=14.0, delay_s=0.014)
    assert right.cameras(SILENCE)[0].timing.skew_s[0] == pytest.approx(0.0, abs=1e-9)


def test_images_that_match_no_state_are_named_with_what_to_do(robot):
    check = hear(replace(robot, camera_tolerance_s=0.004), late_ms=10.0)
    (problem,) = check.matching()
    assert "0 observations" in problem
    assert "calibrate_delay" in problem


def test_what_is_wrong_with_a_camera_is_said(robot):
    assert ["saturated" in p for p in problems(hear(robot, level=255))] == [True, True]
    assert "25.0 of 60 Hz" in problems(hear(robot, rate_hz=60.0))[0]
    assert "crop [8, 8, 16, 16] leaves the image" in problems(hear(robot, crop=(8, 8, 16, 16)))[0]
    only_base = hear(robot, cameras=("base",))
    assert problems(only_base) == [f"wrist: {SILENCE['wrist']}"]
    assert only_base.matching() == []
    assert "no joint_states came" in CameraCheck(robot).matching()[0]


def test_the_contact_sheet_shows_every_camera_and_which_has_no_image():
    rgb = np.zeros((2, 4, 3), np.uint8)
    rgb[0, 0] = (200, 10, 20)
    sheet = contact_sheet({"base": rgb, "wrist": None})
    assert sheet.shape == (24 + 256, 512 + 256, 3)
    assert sheet[24, 0].tolist() == [200, 10, 20]
    assert sheet[24 + 127, 127].tolist() == [200, 10, 20]
    assert sheet[24 + 128, 128].tolist() == [0, 0, 0]


def test_over_dds_the_listener_hears_and_names_a_wrong_transport(start, robot):
    start()
    check = CameraCheck(robot)
    inputs = (
        (topics.JOINT_STATES, JointState, topics.QOS_CONTROL),
        ("base/image_raw", Image, qos_profile_sensor_data),
    )
    rig = Rig(CameraListener("camera_check", robot, robot.cameras, check.on_state, check.on_image), Probe((), inputs))
    context = rclpy.Context()  # a participant of its own: one cannot have two types on a topic
    rclpy.init(context=context)
    driver = rclpy.create_node("driver", context=context)
    driver.create_publisher(CompressedImage, "wrist/image_raw", qos_profile_sensor_data)
    try:
        rig.until(rig.probe.matched, "discovery")
        rig.until(lambda: rig.node.count_publishers("wrist/image_raw"), "discovery of the wrong publisher")
        rig.probe.out[topics.JOINT_STATES].publish(joint_state(robot, START_NS))
        rig.probe.out["base/image_raw"].publish(image(np.full((16, 16, 3), 99, np.uint8), START_NS))
        rig.until(lambda: check.images["base"] is not None, "the image")
        assert "nobody publishes on /base" not in rig.node.silence(robot.cameras[0])
        said = rig.node.silence(robot.cameras[1])
        assert "carries sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image: give transport: compressed" in said
        driver.destroy_node()
        rig.until(lambda: not rig.node.count_publishers("wrist/image_raw"), "the end of the wrong publisher")
        assert "nobody publishes on /wrist/image_raw" in rig.node.silence(robot.cameras[1])
    finally:
        rig.close()
        rclpy.shutdown(context=context)


def test_the_command_ends_with_1_says_why_and_draws_the_sheet(cell, tmp_path):
    values = yaml.safe_load(cell.robot_path.read_text())
    values.update(tick="timer", kinematics=str(cell.robot.kinematics_path))
    path, sheet = tmp_path / "robot.yaml", tmp_path / "sheet.png"
    path.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "rlt_vla_node.camera_check", "--robot", path, "--seconds", "1", "--sheet", sheet]
    ended = subprocess.run([*command, "--ros-args", "-r", "__ns:=/cell7"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "- base: nobody publishes on /cell7/base/image_raw" in ended.stdout
    assert "no joint_states came" in ended.stdout
    assert cv2.imread(str(sheet)).shape == (280, 512, 3)


def test_the_command_takes_a_shipped_robot_s_name_and_a_namespace(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--robot", "aloha", "--namespace", "cell8", "--seconds", "1"])
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "- high: nobody publishes on /cell8/camera_high/camera/color/image_rect_raw/compressed" in told
    with pytest.raises(SystemExit, match="camera_check: robots: no 'nobody'; there are: aloha"):
        main(["--robot", "nobody"])


def test_the_command_says_what_is_wrong_with_its_arguments(cell):
    with pytest.raises(SystemExit) as ended:
        main(["--robot", str(cell.robot_path), "--seconds", "0"])
    assert "--seconds 0: give 1 to 3600" in str(ended.value.code)
    with pytest.raises(SystemExit) as ended:
        main(["--robot", "/nowhere.yaml"])
    assert "camera_check: robots: no file /nowhere.yaml" in str(ended.value.code)
