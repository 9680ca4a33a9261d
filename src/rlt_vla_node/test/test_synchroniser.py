"""Joint states and images to complete sets, with stamps and wall time handed in."""

from dataclasses import replace

import pytest
from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from rlt_vla_node.synchroniser import SyncConfig, Synchroniser, cdr_stamp_ns, input_watchdog, sync_config

MS = 1_000_000
CAMERAS = ("base", "wrist")


def synchroniser(tolerance_ms=0, period_ms=40, **options):
    config = SyncConfig(tolerance_ns=tolerance_ms * MS, period_ns=period_ms * MS, stall_s=0.1, **options)
    return Synchroniser(CAMERAS, config)


def payload(content):
    return b"\0" * 12 + str(content).encode()


def stamps(sets):
    return [(s.stamp_ns // MS, [image.stamp_ns // MS for image in s.images]) for s in sets]


def test_in_lockstep_a_set_is_made_of_equal_stamps():
    s = synchroniser()
    s.on_state(0, "q0", 0.0)
    assert s.take() == []
    s.on_image("base", 0, payload(0), 0.0)
    assert s.take() == []
    s.on_image("wrist", 0, payload(0), 0.0)
    (only,) = s.take()
    assert (only.stamp_ns, only.state) == (0, "q0")
    s.on_state(20 * MS, "q1", 0.0)
    s.on_state(40 * MS, "q2", 0.0)
    for camera in CAMERAS:
        s.on_image(camera, 40 * MS, payload(40), 0.0)
    assert stamps(s.take()) == [(40, [40, 40])]
    assert s.counters.unmatched_states == 0


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_in_lockstep_no_observation_is_lost_whatever_order_the_topics_arrive_in(data):
    queues = [[("state", t) for t in range(0, 200, 20)]]
    queues += [[(camera, t) for t in range(0, 200, 40)] for camera in CAMERAS]
    s = synchroniser()
    found = []
    while any(queues):
        source, t = data.draw(st.sampled_from([q for q in queues if q])).pop(0)
        if source == "state":
            s.on_state(t * MS, t, 0.0)
        else:
            s.on_image(source, t * MS, payload(t), 0.0)
        found += s.take()
    assert stamps(found) == [(t, [t, t]) for t in range(0, 200, 40)]


def test_in_real_time_the_nearest_image_within_the_tolerance_is_taken():
    s = synchroniser(tolerance_ms=15)
    for t in (3, 36):
        s.on_image("base", t * MS, payload(t), 0.0)
    s.on_image("wrist", 28 * MS, payload(28), 0.0)
    s.on_state(30 * MS, "q", 0.0)
    assert stamps(s.take()) == [(30, [36, 28])]


def test_the_rate_follows_the_period_and_does_not_drift():
    s = synchroniser(tolerance_ms=20)
    found = []
    for t in range(0, 2000, 8):
        if t % 32 == 0:
            for camera in CAMERAS:
                s.on_image(camera, t * MS, payload(t), 0.0)
        s.on_state(t * MS, t, 0.0)
        found += s.take()
    assert len(found) == 50


def test_a_state_without_an_image_is_counted_and_the_next_is_used():
    s = synchroniser()
    for t in (0, 40):
        s.on_state(t * MS, t, 0.0)
        s.on_image("base", t * MS, payload(t), 0.0)
    s.on_image("wrist", 40 * MS, payload(40), 0.0)
    assert stamps(s.take()) == [(40, [40, 40])]
    assert s.counters.unmatched_states == 1


def test_repeated_messages_make_no_second_set():
    s = synchroniser()
    for _ in range(2):
        s.on_state(0, "q", 0.0)
        for camera in CAMERAS:
            s.on_image(camera, 0, payload(0), 0.0)
    assert len(s.take()) == 1
    assert s.take() == []
    assert s.counters.repeated_images == 2


def test_a_stalled_camera_is_named_and_stops_the_sets():
    s = synchroniser(tolerance_ms=15)
    now = 0.0
    for t in range(0, 200, 20):
        now = t / 1000
        s.on_state(t * MS, t, now)
        s.on_image("base", t * MS, payload(t), now)
        if t < 60:
            s.on_image("wrist", t * MS, payload(t), now)
    made = s.take()
    assert made[-1].stamp_ns <= 60 * MS
    assert s.problems(now) == []
    (problem,) = s.problems(now + 0.2)
    assert "wrist" in problem
    assert "stopped" in problem
    s.on_image("wrist", 200 * MS, payload(200), now + 0.3)
    assert s.problems(now + 0.3) == []


def test_a_camera_that_never_came_is_named():
    s = synchroniser()
    s.on_state(0, "q", 0.0)
    s.on_image("base", 0, payload(0), 0.0)
    assert s.problems(0.05) == []
    (problem,) = s.problems(0.2)
    assert "wrist" in problem
    assert "never" in problem


def test_a_paused_simulator_is_no_stall():
    """In lockstep time may stand still at an odd step, for which there are no images."""
    s = synchroniser()
    s.on_state(0, "q", 0.0)
    for camera in CAMERAS:
        s.on_image(camera, 0, payload(0), 0.0)
    s.on_state(20 * MS, "q", 0.0)
    assert s.problems(60.0) == []


def test_a_camera_with_latency_is_no_stall():
    s = synchroniser(tolerance_ms=15)
    found = []
    for t in range(0, 2000, 20):
        now = t / 1000
        s.on_state(t * MS, t, now)
        for camera in CAMERAS:
            if t >= 80:
                s.on_image(camera, (t - 80) * MS, payload(t), now)
        found += s.take()
        if t >= 80:
            assert s.problems(now) == []
    assert stamps(found)[:2] == [(0, [0, 0]), (40, [40, 40])]
    assert len(found) == 48


def test_a_frozen_camera_is_named_and_its_images_are_not_used():
    s = synchroniser(frozen_images=3)
    found = []
    for t in range(0, 400, 40):
        s.on_state(t * MS, t, t / 1000)
        s.on_image("base", t * MS, payload(t), t / 1000)
        s.on_image("wrist", t * MS, payload("same"), t / 1000)
        found += s.take()
    assert [s.stamp_ns // MS for s in found] == [0, 40]
    (problem,) = s.problems(0.4)
    assert "wrist is frozen" in problem


def test_equal_images_are_fine_where_freezing_is_not_watched():
    s = synchroniser()
    for t in range(0, 400, 40):
        s.on_state(t * MS, t, 0.0)
        for camera in CAMERAS:
            s.on_image(camera, t * MS, payload("same"), 0.0)
    assert len(s.take()) == 10
    assert s.problems(0.0) == []


def test_a_clock_that_jumps_back_starts_anew():
    s = synchroniser()
    for t in (5_000, 0):
        s.on_state(t * MS, t, 0.0)
        for camera in CAMERAS:
            s.on_image(camera, t * MS, payload(t), 0.0)
        assert stamps(s.take()) == [(t, [t, t])]
    assert s.counters.clock_resets == 1


@pytest.mark.parametrize("kind", [Image, CompressedImage])
@pytest.mark.parametrize(("sec", "nanosec"), [(0, 0), (1_700_000_000, 999_999_999)])
def test_the_stamp_is_read_off_the_serialised_message(kind, sec, nanosec):
    message = kind(header=Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id="camera"))
    assert cdr_stamp_ns(serialize_message(message)) == sec * 1_000_000_000 + nanosec


def test_a_message_too_short_for_a_header_is_an_error():
    with pytest.raises(ValueError, match="11 bytes"):
        cdr_stamp_ns(b"\0" * 11)


def test_a_robot_s_cameras_may_miss_or_repeat_two_frames_and_a_simulator_s_may_repeat_for_ever(cell):
    simulated = sync_config(cell.robot, cell.task)
    assert (simulated.stall_s, simulated.frozen_images) == (pytest.approx(0.08), 0)
    slow = replace(cell.robot.cameras[0], rate_hz=10.0)
    robot = replace(cell.robot, tick="timer", cameras=(slow, *cell.robot.cameras[1:]))
    real = sync_config(robot, cell.task)
    assert (real.stall_s, real.frozen_images) == (pytest.approx(0.2), 3)
    assert sync_config(robot, cell.task, 7).frozen_images == 7


def test_images_of_a_simulator_that_ticks_by_a_timer_may_repeat_for_arms_that_hold_look_frozen(cell):
    on_a_timer = replace(cell.robot, tick="timer", reset="operator")
    assert sync_config(on_a_timer, cell.task).frozen_images == on_a_timer.camera_timeout_frames + 1
    assert sync_config(replace(on_a_timer, reset="service"), cell.task).frozen_images == 0


def test_with_a_robot_s_settings_a_frozen_camera_ends_the_sets_and_a_live_one_begins_them_again(cell):
    s = Synchroniser(CAMERAS, replace(sync_config(replace(cell.robot, tick="timer"), cell.task), tolerance_ns=0))
    made = []
    for frame in range(12):
        stamp, frozen = frame * 40 * MS, 3 <= frame < 9
        s.on_state(stamp, frame, frame * 0.04)
        s.on_image("base", stamp, payload(frame), frame * 0.04)
        s.on_image("wrist", stamp, payload("stuck" if frozen else frame), frame * 0.04)
        made += [found.state for found in s.take()]
        assert bool(s.problems(frame * 0.04)) == (5 <= frame < 9)
    assert made == [0, 1, 2, 3, 4, 9, 10, 11]


def test_a_robot_s_inputs_have_their_time_outs_and_a_simulator_s_are_only_shown(cell):
    slow = replace(cell.robot.cameras[0], rate_hz=10.0)
    robot = replace(cell.robot, tick="timer", cameras=(slow, *cell.robot.cameras[1:]))
    real = input_watchdog(robot)
    assert [row.timeout_s for row in real.table(0.0)] == pytest.approx([0.1, 0.2, 0.08])
    assert [row.name for row in real.table(0.0)] == ["joint_states", "base", "wrist"]
    for frame in range(20):
        for name in ("joint_states", "base"):
            real.heard(name, 0.04 * frame, 40 * frame * MS)
        real.heard("wrist", 0.04 * frame, 40 * min(frame, 15) * MS)
    assert real.first_fault(0.77) == "wrist: 170 ms old, time-out 80 ms"
    assert input_watchdog(cell.robot).first_fault(1e6) == ""
