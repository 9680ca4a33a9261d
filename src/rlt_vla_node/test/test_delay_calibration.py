"""What a recording must have before a camera's delay is believed, on pictures of a dot that a joint moves."""

from dataclasses import replace

import numpy as np
import pytest
from node_rig import Probe, Rig, image, joint_state
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState

from rlt_common import topics
from rlt_common.codecs import CodecError
from rlt_common.parameters import ParameterError
from rlt_vla_node.calibrate_delay import camera_of, joints_of, listener, main, positions_of
from rlt_vla_node.delay_calibration import CalibrationError, MotionRecording

START_NS = 10_000_000_000
MS = 1_000_000
PERIOD_MS = 20


def irregular(count=1000, seed=0):
    """(count,) rad: a joint moved by hand, every 20 ms."""
    rng = np.random.default_rng(seed)
    path, goal, until = [0.0], 0.0, 0
    for step in range(1, count):
        if step >= until:
            until = step + int(rng.integers(10, 45))
            goal = path[-1] if rng.random() < 0.3 else rng.uniform(-1.0, 1.0)
        path.append(path[-1] + 0.1 * (goal - path[-1]))
    return np.array(path)


def picture(angle):
    """(32, 32, 3): a blurred dot whose place is the joint's angle."""
    y, x = np.mgrid[0:32, 0:32]
    dot = 200.0 * np.exp(-((x - 16 - 12 * angle) ** 2 + (y - 16) ** 2) / 8.0)
    return np.repeat(dot[:, :, None], 3, 2).astype(np.uint8)


def recording_of(path, delay_ms, seen=None, every=2):
    found = MotionRecording()
    for step, angle in enumerate(path):
        stamp_ns = START_NS + step * PERIOD_MS * MS
        found.on_state(stamp_ns, [angle, 0.3])
        if step % every == 0:
            found.on_image(stamp_ns + round(delay_ms * MS), picture((path if seen is None else seen)[step]))
    return found


@pytest.mark.parametrize("delay_ms", [-60.0, 0.0, 33.0, 250.0])
def test_the_delay_is_found_between_the_frames(delay_ms):
    found = recording_of(irregular(), delay_ms).estimate()
    assert found.delay_s * 1e3 == pytest.approx(delay_ms, abs=3.0)
    assert found.error_s < 0.005


def test_lost_images_and_repeated_stamps_do_no_harm():
    rng, whole = np.random.default_rng(1), MotionRecording()
    for step, angle in enumerate(irregular()):
        stamp_ns = START_NS + step * PERIOD_MS * MS
        for _ in range(2):
            whole.on_state(stamp_ns, [angle])
        if rng.random() < 0.4:
            whole.on_image(stamp_ns + 70 * MS, picture(angle))
            whole.on_image(stamp_ns + 70 * MS, picture(0.0))
    assert whole.estimate().delay_s == pytest.approx(0.07, abs=0.004)


def test_a_short_recording_is_refused():
    with pytest.raises(CalibrationError, match="at least 80 over 8 s are needed"):
        recording_of(irregular(300), 0.0).estimate()
    with pytest.raises(CalibrationError, match=r"0 images over 0\.0 s"):
        MotionRecording().estimate()


def test_another_s_motion_is_refused():
    with pytest.raises(CalibrationError, match="does not follow the joints"):
        recording_of(irregular(seed=1), 0.0, seen=irregular(seed=2)).estimate()


def test_a_motion_that_repeats_itself_is_refused():
    with pytest.raises(CalibrationError, match="the motion repeats itself"):
        recording_of(0.8 * np.sin(np.arange(1000) * 0.02 * 2 * np.pi / 0.9), 40.0).estimate()


def test_a_delay_beyond_the_search_is_refused():
    with pytest.raises(CalibrationError, match=r"beyond|does not follow"):
        recording_of(irregular(), 900.0).estimate()


def test_a_picture_that_never_changes_is_refused():
    with pytest.raises(CalibrationError, match="whether the arm moved or not"):
        recording_of(irregular(), 0.0, seen=np.zeros(1000)).estimate()


def test_joints_and_cameras_are_named(cell):
    assert joints_of(cell.robot, "right")[0] == "right_waist"
    assert len(joints_of(cell.robot, "")) == 12
    with pytest.raises(ParameterError, match="no arm 'middle'; it has: left, right"):
        joints_of(cell.robot, "middle")
    with pytest.raises(ParameterError, match="no camera 'top'; it has: base, wrist"):
        camera_of(cell.robot, "top")
    message = JointState(name=["b", "a"], position=[1.0, float("nan")])
    assert positions_of(message, ("b",)) == [1.0]
    for joint in ("a", "c"):
        with pytest.raises(CodecError, match=f"no finite position of {joint}"):
            positions_of(message, (joint,))


def test_the_node_records_what_is_on_the_topics_and_publishes_no_command(start, cell):
    start()
    recording, camera = MotionRecording(), replace(cell.robot.cameras[0], width=32, height=32)
    inputs = (
        (topics.JOINT_STATES, JointState, topics.QOS_CONTROL),
        (camera.topic, Image, qos_profile_sensor_data),
    )
    rig = Rig(listener(recording, cell.robot, camera, joints_of(cell.robot, "")), Probe((), inputs))
    try:
        rig.until(rig.probe.matched, "discovery")
        for step, angle in enumerate(irregular(600)):
            stamp_ns = START_NS + step * PERIOD_MS * MS
            rig.probe.out[topics.JOINT_STATES].publish(joint_state(cell.robot, stamp_ns, 0.1 * angle))
            rig.until(lambda step=step: recording.states == step + 1, "the state")
            if step % 2 == 0:
                rig.probe.out[camera.topic].publish(image(picture(angle), stamp_ns + 90 * MS))
                rig.until(lambda step=step: recording.images == step // 2 + 1, "the image")
        assert recording.estimate().delay_s == pytest.approx(0.09, abs=0.004)
        own = rig.probe.get_publisher_names_and_types_by_node("calibrate_delay", "/")
        assert {name for name, _ in own} == {"/rosout", "/parameter_events"}
    finally:
        rig.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--robot", "nobody", "--camera", "top"], "robots: no 'nobody'; there are: aloha"),
        (["--camera", "top"], "no camera 'top'"),
        (["--camera", "base", "--arm", "third"], "no arm 'third'"),
        (["--camera", "base", "--seconds", "5"], "--seconds 5: give 10 to 600"),
    ],
)
def test_the_command_says_what_is_wrong_with_its_arguments(cell, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["--robot", str(cell.robot_path), *arguments])
    assert message in str(ended.value.code)


def test_the_command_listens_to_a_shipped_robot_in_a_namespace(monkeypatch):
    """Nothing is there: what it names as silent says where it listened."""
    monkeypatch.setattr("rlt_vla_node.calibrate_delay.PATIENCE", 0.1)
    with pytest.raises(
        SystemExit, match="nobody publishes on /cell8/camera_high/camera/color/image_rect_raw/compressed"
    ):
        main(["--robot", "aloha", "--camera", "high", "--namespace", "cell8", "--seconds", "10"])
