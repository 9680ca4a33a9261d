"""Video devices. No device is here: settings and stamps are tested on a double of cv2.VideoCapture that keeps its
controls as V4L2 does, reading and publishing on real MJPG files through OpenCV, and the node over real DDS."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_rig import Probe, Rig
from sensor_msgs.msg import CompressedImage, Image

from rlt_common import topics
from rlt_common.camera_codecs import decode_compressed, decode_raw
from rlt_common.codecs import stamp_ns
from rlt_common.config import CameraConfig
from rlt_common.parameters import ParameterError
from rlt_vla_node.v4l2_camera_node import V4l2CameraNode
from rlt_vla_node.v4l2_capture import (
    RETRY_S,
    CaptureError,
    DeviceReader,
    capture_stamp_ns,
    configure,
    open_capture,
    read_frame,
)

SECOND = 1_000_000_000
CAMERA = CameraConfig("base", "base/image_raw", 32, 32, device="/dev/video0", transport="compressed", rate_hz=30.0)
JPEG = np.frombuffer(cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].tobytes(), np.uint8)[None]


class Device:
    """Controls by number as V4L2 keeps them: -1 for one that is not there, values cut to what the device can do."""

    def __init__(self, controls, most=None, frames=()):
        self.values = {
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV")),
            cv2.CAP_PROP_FRAME_WIDTH: 1280.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 720.0,
            cv2.CAP_PROP_FPS: 10.0,
            cv2.CAP_PROP_CONVERT_RGB: 1.0,
            **controls,
        }
        self.most, self.frames, self.released = most or {}, list(frames), False

    def set(self, prop, value):
        if prop not in self.values:
            return False
        self.values[prop] = min(float(value), self.most.get(prop, np.inf))
        return True

    def get(self, prop):
        return self.values.get(prop, -1.0)

    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def isOpened(self):
        return True

    def release(self):
        self.released = True


def with_settings(**settings):
    return replace(CAMERA, v4l2=replace(CAMERA.v4l2, **settings))


def test_a_device_that_gives_what_was_asked_for_has_no_differences():
    automatic = {
        cv2.CAP_PROP_AUTO_EXPOSURE: 3,
        cv2.CAP_PROP_EXPOSURE: 156,
        cv2.CAP_PROP_AUTO_WB: 1,
        cv2.CAP_PROP_WB_TEMPERATURE: 4000,
        cv2.CAP_PROP_GAIN: 0,
    }
    device = Device(automatic)
    assert configure(device, with_settings(exposure=80, white_balance=4600, gain=16)) == []
    assert (device.get(cv2.CAP_PROP_AUTO_EXPOSURE), device.get(cv2.CAP_PROP_EXPOSURE)) == (1, 80)
    assert (device.get(cv2.CAP_PROP_AUTO_WB), device.get(cv2.CAP_PROP_WB_TEMPERATURE)) == (0, 4600)
    assert device.get(cv2.CAP_PROP_CONVERT_RGB) == 0, "the device's JPEGs go through undecoded"


@pytest.mark.parametrize(
    ("controls", "most", "settings", "said"),
    [
        ({}, {cv2.CAP_PROP_FRAME_WIDTH: 320.0}, {}, "asked for 640x480, it gives 320x480"),
        ({}, {cv2.CAP_PROP_FPS: 15.0}, {}, "asked for 30 Hz, it gives 15"),
        ({}, {cv2.CAP_PROP_FOURCC: 0.0}, {}, "asked for MJPG, it gives an unknown format"),
        ({cv2.CAP_PROP_AUTO_EXPOSURE: 3}, {}, {}, "exposure is automatic: give v4l2: exposure"),
        ({}, {}, {"focus": 10}, "asked for focus 10, it has no such control"),
        ({cv2.CAP_PROP_GAIN: 0}, {cv2.CAP_PROP_GAIN: 8.0}, {"gain": 16}, "asked for gain 16, it has 8"),
    ],
)
def test_what_a_device_gives_instead_is_said(controls, most, settings, said):
    (found,) = configure(Device(controls, most), with_settings(**settings))
    assert found.startswith(said)


def test_a_capture_time_by_the_monotonic_clock_becomes_one_by_the_ros_clock():
    monotonic, ros = 500 * SECOND, 1_700_000_000 * SECOND
    assert capture_stamp_ns(499_970.0, monotonic, ros) == (ros - 30_000_000, True)
    for other_clock in (0.0, 500_001.0, 1_700_000_000_000.0, 400_000.0):
        assert capture_stamp_ns(other_clock, monotonic, ros) == (ros, False)


def reader_of(openings, camera=CAMERA):
    """A reader whose openings are devices or errors, one after the other; and what it published."""
    published = []

    def opener(_):
        found = openings.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    reader = DeviceReader(
        camera, lambda frame, stamp: published.append((frame, stamp)), lambda: (9 * SECOND, 50 * SECOND), opener
    )
    return reader, published


def test_an_unplugged_device_is_said_and_opened_again():
    first = Device({cv2.CAP_PROP_POS_MSEC: 8_980.0}, frames=[JPEG, JPEG])
    second = Device({cv2.CAP_PROP_POS_MSEC: 8_990.0}, frames=[JPEG])
    reader, published = reader_of([first, CaptureError("no /dev/video0"), second])
    assert [reader.step() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert (reader.status.error, reader.status.frames, reader.status.stamped) == ("", 2, True)
    assert reader.step() == RETRY_S
    assert reader.status.error == "/dev/video0 gives no frames any more"
    assert first.released
    assert reader.step() == RETRY_S
    assert reader.status.error == "no /dev/video0"
    assert [reader.step() for _ in range(2)] == [0.0, 0.0]
    assert (reader.status.error, reader.status.frames, reader.status.opened) == ("", 3, 2)
    assert [stamp for _, stamp in published] == [50 * SECOND - 20_000_000] * 2 + [50 * SECOND - 10_000_000]
    assert published[0][0].jpeg == JPEG.tobytes()


def test_a_device_without_jpegs_is_refused_with_what_to_set():
    with pytest.raises(CaptureError, match="gives no JPEGs: give v4l2: pixel_format: YUYV, or transport: raw"):
        read_frame(Device({}, frames=[np.zeros((1, 100), np.uint8)]), CAMERA)


def test_a_device_in_yuyv_is_encoded_or_published_raw():
    bgr = np.full((8, 8, 3), (10, 120, 240), np.uint8)
    encoded = read_frame(Device({}, frames=[bgr]), with_settings(pixel_format="YUYV"))
    assert np.abs(cv2.imdecode(np.frombuffer(encoded.jpeg, np.uint8), 1).astype(int) - bgr).max() < 6
    raw = read_frame(Device({}, frames=[bgr]), replace(CAMERA, transport="raw"))
    np.testing.assert_array_equal(raw.bgr, bgr)


LEVELS = (20, 90, 160, 230)


@pytest.fixture
def film(tmp_path):
    """An MJPG file of four grey frames, 48 x 32 pixels."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (48, 32))
    assert writer.isOpened()
    for level in LEVELS:
        writer.write(np.full((32, 48, 3), level, np.uint8))
    writer.release()
    return path


def test_a_file_gives_its_own_jpegs_at_the_camera_s_rate_and_begins_again(film):
    published = []
    reader = DeviceReader(
        replace(CAMERA, device=str(film), rate_hz=50.0),
        lambda frame, stamp: published.append(frame),
        lambda: (9 * SECOND, 50 * SECOND),
    )
    waits = []
    while len(published) < 10:
        waits.append(reader.step())
        assert reader.status.error == ""
    seen = [cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), 1).mean() for frame in published]
    np.testing.assert_allclose(seen, [*LEVELS, *LEVELS, *LEVELS[:2]], atol=4)
    assert max(waits) == pytest.approx(0.08), "four frames are due within 0.08 s, and the clock stands still"
    reader.close()


@pytest.mark.parametrize(
    ("device", "said"),
    [("/dev/video77", "no /dev/video77; plugged in: "), ("/nowhere.avi", "no /nowhere.avi"), (__file__, "in use")],
)
def test_what_cannot_be_opened_is_said(device, said):
    with pytest.raises(CaptureError, match=said):
        open_capture(replace(CAMERA, device=device))


@pytest.fixture
def rig_of(start, cell, tmp_path):
    rigs = []

    def make(kind, **changes):
        values = yaml.safe_load(cell.robot_path.read_text())
        values.update(tick="timer", kinematics=str(cell.robot.kinematics_path))
        values["cameras"][1].update(changes)
        path = tmp_path / "robot.yaml"
        path.write_text(yaml.safe_dump(values))
        start(robot=path, task=None)
        outputs = (
            ("wrist/image_raw", kind, topics.QOS_SENSOR),
            (topics.DIAGNOSTICS, DiagnosticArray, topics.QOS_CONTROL),
        )
        rigs.append(Rig(V4l2CameraNode(), Probe(outputs, ())))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def test_the_node_publishes_a_device_s_jpegs_and_comes_back_when_it_is_plugged_in_again(rig_of, film):
    rig = rig_of(CompressedImage, transport="compressed", device=str(film), rate_hz=100.0)
    seen = rig.probe.seen["wrist/image_raw"]
    rig.until(lambda: len(seen) >= 4, "images")
    rig.until(lambda: rig.probe.level("v4l2_camera")[0] == DiagnosticStatus.OK, "health")
    levels = {round(decode_compressed(message).mean() / 10) for message in seen}
    assert levels <= {round(level / 10) for level in LEVELS}
    assert {(message.format, message.header.frame_id) for message in seen} == {("jpeg", "wrist")}
    assert all(0 < stamp_ns(m.header.stamp) <= rig.node.get_clock().now().nanoseconds for m in seen)
    away = film.rename(film.with_suffix(".away"))
    rig.until(lambda: rig.probe.level("v4l2_camera")[0] == DiagnosticStatus.ERROR, "the error")
    assert f"camera wrist: no {film}" in rig.probe.level("v4l2_camera")[1]
    count = len(seen)
    away.rename(film)
    rig.until(lambda: len(seen) > count, "images again")
    rig.until(lambda: rig.probe.level("v4l2_camera")[0] == DiagnosticStatus.OK, "health again")


def test_a_raw_camera_is_published_as_bgr8(rig_of, film):
    rig = rig_of(Image, device=str(film), rate_hz=100.0)
    seen = rig.probe.seen["wrist/image_raw"]
    rig.until(lambda: seen, "an image")
    assert seen[0].encoding == "bgr8"
    assert decode_raw(seen[0]).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("changes", "said"), [({}, "no camera has a `device`"), ({"device": "/dev/video0"}, "`device` needs tick: timer")]
)
def test_a_robot_without_a_device_or_in_lockstep_is_refused(start, cell, tmp_path, changes, said):
    values = yaml.safe_load(cell.robot_path.read_text())
    values.update(kinematics=str(cell.robot.kinematics_path))
    values["cameras"][0].update(changes)
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(values))
    start(robot=path, task=None)
    with pytest.raises(ParameterError, match=said):
        V4l2CameraNode()
