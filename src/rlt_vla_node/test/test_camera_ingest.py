"""The ingest with cameras as real drivers publish them: transports, QoS, crop, delay, and what it says of them."""

import array
import re

import cv2
import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from node_rig import INGEST_OUTPUTS, Probe, Rig, image, joint_state
from rclpy.qos import qos_profile_sensor_data, qos_profile_system_default
from sensor_msgs.msg import CompressedImage, Image, JointState

from rlt_common import topics
from rlt_common.codecs import observation_from_msg, to_time
from rlt_vla_node.camera_ingest_node import CameraIngestNode

MS = 1_000_000
START_NS = 10_000_000_000


@pytest.fixture
def rig_of(start, cell, tmp_path):
    """A rig of the ingest on a robot's timer; `changes` go to its first camera, `kind` and `qos` are its driver's."""
    rigs = []

    def make(changes, kind=Image, qos=qos_profile_sensor_data, **robot):
        values = yaml.safe_load(cell.robot_path.read_text())
        values.update(tick="timer", kinematics=str(cell.robot.kinematics_path), camera_tolerance_s=0.005, **robot)
        values["cameras"][0].update(changes)
        path = tmp_path / "robot.yaml"
        path.write_text(yaml.safe_dump(values))
        start(robot=path)
        inputs = (
            (topics.JOINT_STATES, JointState, topics.QOS_CONTROL),
            ("base/image_raw", kind, qos),
            ("wrist/image_raw", Image, qos_profile_sensor_data),
        )
        outputs = (*INGEST_OUTPUTS, (topics.CAMERA_HEALTH, DiagnosticStatus, topics.QOS_CONTROL))
        rigs.append(Rig(CameraIngestNode(), Probe(outputs, inputs)))
        rigs[-1].until(rigs[-1].probe.matched, "discovery")
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def say(rig, cell, message, stamp_ns, wrist_seed=0):
    """A joint state, the first camera's message, and an image of the wrist camera, each heard before the next."""
    heard = rig.node._synchroniser.counters.per_camera
    before = dict(heard)
    rig.probe.out[topics.JOINT_STATES].publish(joint_state(cell.robot, stamp_ns))
    rig.probe.out["base/image_raw"].publish(message)
    rig.until(lambda: heard["base"] == before["base"] + 1, "the first camera's image")
    wrist = np.random.default_rng(wrist_seed).integers(0, 256, (16, 16, 3), np.uint8)
    rig.probe.out["wrist/image_raw"].publish(image(wrist, stamp_ns))
    rig.until(lambda: heard["wrist"] == before["wrist"] + 1, "the wrist camera's image")


@pytest.mark.parametrize("qos", [qos_profile_sensor_data, qos_profile_system_default], ids=["best effort", "reliable"])
def test_a_driver_may_publish_best_effort_or_reliable(rig_of, cell, observation, qos):
    rig = rig_of({}, qos=qos)
    pixels = observation(0, 0).images[0]
    say(rig, cell, image(pixels, START_NS), START_NS)
    rig.until(lambda: rig.probe.seen[topics.OBSERVATION], "the observation")
    data = observation_from_msg(rig.probe.seen[topics.OBSERVATION][0])
    np.testing.assert_array_equal(data.images[0], pixels)


def test_a_compressed_camera_is_decoded_cropped_and_turned(rig_of, cell):
    rig = rig_of({"transport": "compressed", "crop": [20, 10, 16, 16], "rotation": 180}, CompressedImage)
    rgb = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = array.array("B", cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes())
    message = CompressedImage(format="rgb8; png compressed bgr8", data=data)
    message.header.stamp = to_time(START_NS)
    say(rig, cell, message, START_NS)
    rig.until(lambda: rig.probe.seen[topics.OBSERVATION], "the observation")
    seen = observation_from_msg(rig.probe.seen[topics.OBSERVATION][0]).images[0]
    np.testing.assert_array_equal(seen, rgb[10:26, 20:36][::-1, ::-1])


def test_a_camera_s_delay_is_taken_off_before_states_are_matched(rig_of, cell, observation):
    rig = rig_of({"delay_s": 0.12})
    for frame in range(8):
        stamp = START_NS + 40 * frame * MS
        say(rig, cell, image(observation(frame, 0).images[0], stamp + 2 * MS), stamp, frame)
    seen = rig.probe.seen[topics.OBSERVATION]
    rig.until(lambda: len(seen) == 5, "the observations")
    for frame, message in enumerate(seen):
        data = observation_from_msg(message)
        assert message.observation_id == START_NS + 40 * frame * MS
        np.testing.assert_array_equal(data.images[0], observation(frame + 3, 0).images[0])
        assert message.image_skew_s[0] == pytest.approx(0.002, abs=1e-6)


def health(rig):
    """What the newest camera_health says: (level, message)."""
    seen = rig.probe.seen[topics.CAMERA_HEALTH]
    return (seen[-1].level, seen[-1].message) if seen else (None, "")


def test_camera_health_is_an_error_until_all_cameras_speak_and_again_when_one_falls_silent(rig_of, cell, observation):
    rig = rig_of({}, camera_timeout_frames=10)
    rig.until(lambda: health(rig)[0] == DiagnosticStatus.ERROR, "the error before the first image")
    assert "nothing heard yet" in health(rig)[1]
    frame = 0

    def all_speak():
        nonlocal frame
        frame += 1
        now = rig.node.get_clock().now().nanoseconds
        say(rig, cell, image(observation(frame, 0).images[0], now), now, frame)

    def well():
        all_speak()
        return health(rig)[0] == DiagnosticStatus.OK

    rig.until(well, "the cameras to be well")
    rig.until(lambda: health(rig)[0] == DiagnosticStatus.ERROR, "the error, with no image any more")
    assert "camera base: " in health(rig)[1]
    assert "time-out 400 ms" in health(rig)[1]
    rig.until(well, "the cameras to be well again")


def test_camera_health_names_a_frozen_camera(rig_of, cell, observation):
    rig = rig_of({}, camera_timeout_frames=25)
    same = observation(0, 0).images[0]

    def frozen():
        now = rig.node.get_clock().now().nanoseconds
        say(rig, cell, image(same, now), now, now)
        level, text = health(rig)
        return level == DiagnosticStatus.ERROR and re.search(
            "camera base is frozen: [0-9]+ equal images in a row", text
        )

    rig.until(frozen, "the frozen camera")


def test_an_image_that_cannot_be_read_is_in_camera_health_too(rig_of, cell):
    rig = rig_of({}, camera_timeout_frames=1000, state_timeout_s=10.0)
    bayer = Image(height=16, width=16, step=16, encoding="bayer_rggb8", data=bytes(256))
    bayer.header.stamp = to_time(START_NS)
    say(rig, cell, bayer, START_NS)
    rig.until(lambda: "image encoding 'bayer_rggb8'" in health(rig)[1], "the error")


def test_an_image_that_cannot_be_read_names_the_camera_and_what_to_do(rig_of, cell):
    rig = rig_of({})
    bayer = Image(height=16, width=16, step=16, encoding="bayer_rggb8", data=bytes(256))
    bayer.header.stamp = to_time(START_NS)
    say(rig, cell, bayer, START_NS)
    rig.until(lambda: rig.probe.level("camera_ingest")[0] == DiagnosticStatus.ERROR, "the error")
    said = rig.probe.level("camera_ingest")[1]
    assert "camera base: image encoding 'bayer_rggb8'" in said
    assert "debayer_node" in said
    assert not rig.probe.seen[topics.OBSERVATION]


def test_what_is_measured_of_a_camera_is_in_diagnostics_and_a_black_one_is_a_warning(rig_of, cell):
    rig = rig_of({}, camera_timeout_frames=1000, state_timeout_s=10.0)
    now = rig.node.get_clock().now().nanoseconds
    for frame in range(12):
        stamp = now + (frame - 12) * 40 * MS
        dark = np.zeros((16, 16, 3), np.uint8)
        dark[0, 0] = frame + 1
        say(rig, cell, image(dark, stamp + MS), stamp, frame)
    rig.until(lambda: "black" in rig.probe.level("camera_ingest")[1], "the warning")
    assert rig.probe.level("camera_ingest")[0] == DiagnosticStatus.WARN
    said = [part for part in rig.probe.level("camera_ingest")[1].split("; ") if "black" in part]
    assert [part.partition(":")[0] for part in said] == ["camera base"]
    rig.until(lambda: "0 of 12 dropped" in row_of(rig, "camera base"), "the row of the camera")
    assert "25.0 Hz" in row_of(rig, "camera base")
    assert "skew 1 ms (p99 1)" in row_of(rig, "camera base")


def row_of(rig, key):
    statuses = [s for m in rig.probe.seen[topics.DIAGNOSTICS] for s in m.status if s.name == "camera_ingest"]
    return next((value.value for value in statuses[-1].values if value.key == key), "")
