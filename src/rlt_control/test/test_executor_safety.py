"""What the executor does when an input is late, silent, wrong or lying. Time is moved, nobody sleeps."""

from dataclasses import replace

import numpy as np
import pytest
from executor_rig import HOME, ROBOT, Rig, human
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlt_common.kinematics import build_kinematics
from rlt_control import inputs
from rlt_control.joint_jumps import JumpLimit
from rlt_control.records import Frame, HumanCommand, Phase, RobotState, Source, Tick

FORCE = replace(
    ROBOT, arms=(ROBOT.arms[0], replace(ROBOT.arms[1], wrench_topic="wrench", max_force=20.0, max_torque=2.0))
)
WRENCH = inputs.wrench(FORCE.arms[1])


def push(rig: Rig, newtons: float) -> None:
    """The right arm's sensor says so many newtons."""
    if reason := inputs.wrench_refusal(FORCE.arms[1], (newtons, 0.0, 0.0), (0.0, 0.0, 0.0)):
        rig.watchdog.alarm(WRENCH, reason)
    else:
        rig.watchdog.heard(WRENCH, rig.now_s)


UR = replace(ROBOT, drivers=tuple(replace(driver, ready_topic="robot_program_running") for driver in ROBOT.drivers))
(READY,) = inputs.readiness(UR)


def goes_on(rig: Rig, first: Tick | None = None) -> None:
    """With the fault over (`first` tick), the arms move again: with a new chunk, from where they are."""
    ticks = [first or rig.tick(), rig.tick()]
    (request,) = filter(None, (tick.request for tick in ticks))
    before = rig.q.copy()
    assert rig.answer(request) == ""
    executed = rig.tick().executed
    assert (executed.source, executed.chunk_id) == (Source.RL, request.request_id)
    assert 0 < np.abs(rig.q - before).max() < 0.05


def test_silent_joint_states_hold_after_their_time_out_and_nothing_new_is_sent():
    rig = Rig().in_motion()
    rig.joints_speak = False
    for _ in range(5):
        assert rig.tick().executed is not None
    for _ in range(20):
        assert rig.tick().joint_target is None
    assert rig.executor.hold_reason.startswith("joint_states: ")
    assert "time-out 100 ms" in rig.executor.hold_reason
    rig.joints_speak = True
    goes_on(rig)


def test_before_a_driver_has_said_that_it_obeys_the_arms_hold():
    rig = Rig(UR)
    rig.start()
    assert rig.tick().executed.source == Source.HOLD
    assert rig.executor.hold_reason.startswith(f"{READY}: robot_program_running has not said yet")


@pytest.mark.parametrize("state", ["moving", "between episodes", "emergency stop"])
def test_while_a_driver_does_not_obey_what_is_commanded_follows_the_arms(state):
    rig = Rig(UR)
    rig.watchdog.heard(READY, 0.0)
    rig.in_motion()
    if state == "between episodes":
        rig.change(phase=Phase.LABELLED)
    elif state == "emergency stop":
        rig.executor.estop("test", rig.state())
    rig.tick()
    rig.watchdog.refuse(READY, "robot_program_running says no")
    rig.tick()
    moved = rig.q.copy()
    moved[7] += 0.2  # by hand
    rig.q = moved.copy()
    rig.tick()
    np.testing.assert_allclose(rig.q, moved, atol=1e-4)
    rig.q = moved.copy()
    rig.watchdog.heard(READY, rig.now_s)
    rig.tick()
    np.testing.assert_allclose(rig.q, moved, atol=1e-4)


@pytest.mark.parametrize("state", ["no episode yet", "between episodes", "emergency stop"])
def test_arms_that_fell_while_their_states_were_silent_are_held_where_they_are(state):
    rig = Rig()
    if state != "no episode yet":
        rig.in_motion()
        rig.change(phase=Phase.LABELLED)
    rig.tick()
    rig.joints_speak = False
    for _ in range(10):
        rig.tick()
    if state == "emergency stop":
        rig.executor.estop("test", RobotState(0, rig.q.copy()))  # the node's newest state, which is old
        rig.tick()
    rig.q[1] += 0.4
    fallen = rig.q.copy()
    rig.joints_speak = True
    for _ in range(30):  # until so far a way is believed
        rig.tick()
    np.testing.assert_allclose(rig.q, fallen, atol=1e-3)


@pytest.mark.parametrize("stopped", [False, True])
def test_an_arm_that_is_moved_away_takes_the_pose_that_it_holds_along_a_step_at_a_time(stopped):
    rig = Rig()
    rig.tick()
    if stopped:
        rig.executor.estop("test", rig.state())
    begun = rig.tick().joint_target
    displaced, targets = begun.copy(), [begun]
    for _ in range(80):
        displaced[7] = min(displaced[7] + 0.02, begun[7] + 0.6)  # torque is off, somebody turns the waist
        rig.q = displaced.copy()
        targets.append(rig.tick().joint_target)
    forward = build_kinematics(ROBOT).forward
    tools = np.array([forward(q)[1][0] for q in targets])
    assert np.abs(np.diff(tools, axis=0)).max() <= ROBOT.limits.step_translation + 1e-9
    assert np.abs(tools[-1] - forward(displaced)[1][0]).max() <= ROBOT.limits.leash_translation
    np.testing.assert_array_equal(targets[-1], targets[-5])


def test_arms_that_sag_do_not_sink_with_every_silence():
    rig = Rig()
    target = rig.tick().joint_target
    sagged = target.copy()
    sagged[8] += 0.01
    for _ in range(5):
        rig.q = sagged.copy()
        rig.watchdog.refuse(inputs.JOINT_STATES, "a wrong length")
        rig.joints_speak = False
        assert rig.tick().joint_target is None
        rig.q, rig.joints_speak = sagged.copy(), True
        np.testing.assert_array_equal(rig.tick().joint_target, target)


def test_one_wrong_joint_state_between_episodes_moves_the_tool_by_no_more_than_a_step():
    rig = Rig()
    before = [rig.tick() for _ in range(5)][-1].joint_target
    rig.wrong[7] = SPIKE
    after = rig.tick().joint_target
    forward = build_kinematics(ROBOT).forward
    assert 0 < np.abs(forward(after)[1][0] - forward(before)[1][0]).max() <= ROBOT.limits.step_translation + 1e-9
    np.testing.assert_array_equal(rig.tick().joint_target, after)


GRIPPERS = [6, 13]


def grips_a_part(rig):
    """The right gripper is told to close further than the part lets it."""
    rig.start(rows=40)
    request = rig.tick().request
    chunk = rig.chunk(request, dx=0.0)
    chunk.actions[:, 13] = -0.002
    assert rig.executor.offer_chunk(chunk, rig.now_s) == ""
    part = rig.q[13]
    for _ in range(5):
        told = rig.tick().joint_target
        rig.q[13] = part
    assert told[13] < part - 0.005
    return part, told[13]


@pytest.mark.parametrize("what", ["emergency stop", "cameras", "joint states", "label", "time-out", "next episode"])
def test_a_hold_leaves_a_gripper_the_command_that_it_has(what):
    rig = Rig(replace(ROBOT, joint_limits={ROBOT.arms[1].gripper: (0.0, 0.06)}))
    rig.q[GRIPPERS] = 0.03
    part, told = grips_a_part(rig)
    if what == "emergency stop":
        rig.executor.estop("test", rig.state())
    elif what == "cameras":
        rig.cameras_speak = False
    elif what == "joint states":
        rig.joints_speak = False
    elif what == "label":
        rig.change(phase=Phase.LABELLED)
    elif what == "time-out":
        rig.change(max_base_steps=1)
    else:
        rig.start(episode_id=2)
    held = []
    for step in range(20):
        rig.joints_speak |= step > 10
        tick = rig.tick()
        rig.q[13] = part
        if tick.executed is not None and tick.executed.source == Source.RL:
            told = tick.joint_target[13]  # what is at fault has not been noticed yet
        elif tick.joint_target is not None:
            held.append(tick.joint_target[13])
    np.testing.assert_allclose(held, told)
    assert held


@pytest.mark.parametrize("how", ["silent", "does not obey"])
def test_a_gripper_that_was_opened_while_nobody_watched_does_not_snap_shut(how):
    rig = Rig(UR)
    rig.watchdog.heard(READY, 0.0)
    rig.q[GRIPPERS] = 0.03
    part, _ = grips_a_part(rig)
    rig.change(phase=Phase.LABELLED)
    rig.joints_speak = how != "silent"
    if how == "does not obey":
        rig.watchdog.refuse(READY, "robot_program_running says no")
    for step in range(10):
        opened = how != "silent" or step >= 6  # until the silence is noticed nothing new is known
        rig.q[13] = 0.038 if opened else part
        target = rig.tick().joint_target
        assert not opened or target is None or target[13] == pytest.approx(0.038)
    rig.q[13] = 0.038
    rig.joints_speak = True
    rig.watchdog.heard(READY, rig.now_s)
    assert rig.tick().joint_target[13] == pytest.approx(0.038)


def test_a_manager_that_started_anew_and_knows_less_does_not_make_the_arms_go_on():
    rig = Rig().in_motion()
    old = replace(rig.executor.episode, episode_id=0, epoch=0, phase=Phase.IDLE)
    assert not rig.executor.set_episode(old)
    assert "is older than ours" in rig.executor.last_refusal
    assert rig.executor.episode.episode_id == 1


def test_a_stop_from_before_the_first_episode_keeps_that_one_still_after_the_reset():
    rig = Rig()
    rig.executor.estop("test", rig.state())
    rig.start()
    rig.executor.reset_estop()
    assert rig.tick().executed is None
    rig.start(episode_id=2)
    assert rig.tick().executed is not None


def test_joint_states_that_repeat_their_stamp_are_silent():
    rig = Rig().in_motion()
    stuck = rig.state().stamp_ns
    for _ in range(12):
        rig.clock_offset_ns = stuck - rig.ticks * 20_000_000
        tick = rig.tick()
    assert tick.joint_target is None
    assert "joint_states: " in rig.executor.hold_reason


@pytest.mark.parametrize("jump_s", [-3600.0, -0.5, 0.5, 3600.0])
def test_a_clock_that_jumps_holds_until_it_has_run_evenly(jump_s):
    rig = Rig().in_motion()
    rig.clock_offset_ns = round(jump_s * 1e9)
    held = 0
    while (tick := rig.tick()).joint_target is None:
        held += 1
        assert "its stamps jumped by" in rig.executor.hold_reason
    assert 4 <= held <= 6
    goes_on(rig, tick)


@pytest.mark.parametrize("actions", ["tool_pose", "joints"])
@pytest.mark.parametrize("relative_to", ["commanded", "measured"])
@pytest.mark.parametrize("driver", ["chunk", "human", "hold"])
def test_one_plausible_but_wrong_joint_state_moves_the_tool_by_no_more_than_a_step(driver, actions, relative_to):
    rig = Rig(replace(ROBOT, actions=actions, relative_to=relative_to))
    rig.start(rows=40, human_in_control=driver != "chunk")
    if driver == "chunk":
        assert rig.answer(rig.tick().request, dx=0.0005) == ""
    for k in range(8):
        if driver == "human":
            human(rig, dx=0.0005)
        rig.wrong[7] = 0.2 if k == 5 else 0.0
        before = rig.executor._integrator._kinematics.forward(rig.q)
        tick = rig.tick()
        after = rig.executor._integrator._kinematics.forward(rig.q)
        moved = max(np.abs(p1 - p0).max() for (p0, _), (p1, _) in zip(before, after, strict=True))
        assert tick.executed is not None
        assert moved <= ROBOT.limits.step_translation * 1.1, f"in tick {k}"


def test_a_joint_state_that_no_arm_can_have_reached_is_refused_and_named():
    rig = Rig().in_motion()
    before = rig.q.copy()
    rig.wrong[7] = 0.5
    assert rig.tick().joint_target is None
    assert rig.executor.hold_reason == (
        "joint_states: joint right_waist is measured 0.5 rad from where it was 20 ms before, its velocity limit is "
        "10 rad/s"
    )
    np.testing.assert_array_equal(rig.q, before)
    goes_on(rig)


def test_arms_that_really_are_elsewhere_are_believed_after_the_time_that_the_way_would_have_taken():
    rig = Rig().in_motion()
    rig.q[7] += 1.5  # at twice 10 rad/s
    elsewhere = rig.q.copy()
    held = 0
    while rig.tick().joint_target is None:
        held += 1
    assert held == 3
    np.testing.assert_allclose(rig.q, elsewhere, atol=1e-3)


def test_grippers_old_stamps_and_first_states_are_not_judged_by_their_speed():
    limit = JumpLimit(ROBOT)
    first, off = RobotState(10_000_000_000, HOME), HOME.copy()
    off[7] = 1.0
    assert limit.refusal(None, first) == ""
    assert limit.refusal(first, RobotState(10_001_000_000, off)) != ""
    assert limit.refusal(first, RobotState(10_000_000_000, off)) == ""
    assert limit.refusal(first, RobotState(5_000_000_000, off)) == ""
    gripped = HOME.copy()
    gripped[6] = 0.9
    assert limit.refusal(first, RobotState(10_001_000_000, gripped)) == ""
    slow = JumpLimit(replace(ROBOT, joint_velocity_limits={"right_waist": 0.5}))
    near = HOME.copy()
    near[7] += 0.03
    assert "its velocity limit is 0.5 rad/s" in slow.refusal(first, RobotState(10_005_000_000, near))
    assert slow.refusal(first, RobotState(10_050_000_000, near)) == ""


def test_broken_joint_states_hold_at_once():
    rig = Rig().in_motion()
    rig.watchdog.refuse(inputs.JOINT_STATES, "left_waist is not finite")
    rig.joints_speak = False
    assert rig.tick().joint_target is None
    assert rig.executor.hold_reason == "joint_states: left_waist is not finite"
    rig.joints_speak = True
    goes_on(rig)


def test_before_the_first_state_and_with_wrong_lengths_nothing_is_sent():
    rig = Rig()
    rig.start()
    assert rig.executor.tick(None, 0.0).joint_target is None
    rig.q = rig.q[:7]
    assert rig.tick().joint_target is None
    rig.q = np.full(14, np.nan)
    assert rig.tick().joint_target is None


def test_a_manager_that_is_silent_holds_and_the_steps_are_recorded():
    rig = Rig().in_motion()
    rig.manager_speaks = False
    sources = [rig.tick().executed.source for _ in range(40)]
    last_moving = max(i for i, source in enumerate(sources) if source == Source.RL)
    assert last_moving == 7, "the chunk's rows are played to the end, none is left after it"
    assert sources[30:] == [Source.HOLD] * 10
    assert rig.executor.hold_reason.startswith("episode_state: ")
    rig.manager_speaks = True
    goes_on(rig)


@pytest.mark.parametrize("human_drives", [False, True])
def test_cameras_at_fault_stop_a_chunk_and_a_human_in_the_next_tick(human_drives):
    rig = Rig()
    rig.start(rows=60, human_in_control=human_drives)
    if not human_drives:
        rig.answer(rig.tick().request)
    human(rig)
    assert rig.tick().executed.source == (Source.HUMAN if human_drives else Source.RL)
    rig.cameras_speak = False
    rig.watchdog.refuse(inputs.CAMERAS, "camera base: 100 ms old, time-out 80 ms")
    human(rig)
    assert rig.tick().executed.source == Source.HOLD
    assert rig.executor.hold_reason == "cameras: camera base: 100 ms old, time-out 80 ms"


def test_an_ingest_that_is_silent_stops_a_chunk_within_its_time_out():
    rig = Rig()
    rig.start(rows=60)
    rig.answer(rig.tick().request)
    rig.cameras_speak = False
    sources = [rig.tick().executed.source for _ in range(20)]
    assert sources.index(Source.HOLD) * 0.02 == pytest.approx(0.1, abs=0.021)
    rig.cameras_speak = True
    goes_on(rig)


def test_in_lockstep_cameras_are_no_input():
    assert inputs.CAMERAS not in Rig(wait_for_chunk=True).watchdog


def test_a_manager_that_falls_silent_inside_a_chunk_stops_it():
    rig = Rig()
    rig.start(rows=60)
    rig.answer(rig.tick().request)
    rig.manager_speaks = False
    sources = [rig.tick().executed.source for _ in range(40)]
    stopped = sources.index(Source.HOLD)
    assert stopped * 0.02 == pytest.approx(0.5, abs=0.021)
    assert set(sources[stopped:]) == {Source.HOLD}


def test_a_force_above_the_limit_holds_the_arms_where_they_are_measured():
    rig = Rig(FORCE)
    rig.start()
    push(rig, 1.0)
    rig.answer(rig.tick().request)
    push(rig, 1.0)
    rig.tick()
    push(rig, 25.0)
    held = rig.tick()
    assert held.executed.source == Source.HOLD
    assert rig.executor.hold_reason == "wrench.right: force 25.0 N, limit 20 N"
    measured = rig.q.copy()
    for _ in range(5):
        push(rig, 25.0)
        np.testing.assert_allclose(rig.tick().joint_target, measured, atol=1e-3)
    for _ in range(4):
        push(rig, 3.0)
        tick = rig.tick()
    assert rig.executor.hold_reason == "no chunk row for this step", "the chunk of before is not gone on with"
    assert tick.executed.source == Source.HOLD


def test_the_commanded_pose_falls_back_to_the_measured_one_when_the_force_is_too_high():
    rig = Rig(FORCE)
    rig.start(rows=40)
    push(rig, 1.0)
    stuck = rig.q.copy()
    rig.answer(rig.tick().request, dx=0.004)
    for _ in range(4):
        push(rig, 10.0)
        pressed = rig.tick().joint_target
        rig.q = stuck.copy()  # the arm is against something
    assert np.abs(pressed - stuck).max() > 0.01
    push(rig, 25.0)
    np.testing.assert_allclose(rig.tick().joint_target, stuck, atol=1e-3)


@pytest.mark.parametrize("rising", [True, False])
def test_a_force_peak_between_two_ticks_holds_in_the_next_one_and_only_there(rising):
    rig = Rig(FORCE)
    rig.start()
    push(rig, 1.0)
    rig.answer(rig.tick().request)
    push(rig, 1.0)
    assert rig.tick().executed.source == Source.RL
    for newtons in (19.0, 60.0, 25.0, 3.0) if rising else (60.0, 3.0):  # a sensor of a few hundred Hz
        push(rig, newtons)
    assert rig.tick().executed.source == Source.HOLD
    assert "limit 20 N" in rig.executor.hold_reason
    push(rig, 3.0)
    first = rig.tick()
    assert rig.executor.hold_reason == "no chunk row for this step", "the chunk of before is not gone on with"
    push(rig, 3.0)
    goes_on(rig, first)


def test_a_force_peak_between_episodes_holds_nothing_later():
    rig = Rig(FORCE)
    push(rig, 60.0)
    push(rig, 1.0)
    rig.tick()
    rig.start()
    push(rig, 1.0)
    rig.answer(rig.tick().request)
    assert rig.tick().executed.source == Source.RL


@pytest.mark.parametrize(
    ("force", "torque", "words"),
    [
        ((0.0, 0.0, 19.9), (0.0, 0.0, 1.9), ""),
        ((15.0, 15.0, 0.0), (0.0, 0.0, 0.0), "force 21.2 N, limit 20 N"),
        ((0.0, 0.0, 0.0), (0.0, -2.5, 0.0), "torque 2.50 N m, limit 2 N m"),
        ((np.nan, 0.0, 0.0), (0.0, 0.0, 0.0), "not finite"),
        ((0.0, 0.0, 0.0), (0.0, np.inf, 0.0), "not finite"),
    ],
)
def test_a_wrench_is_judged_by_its_length(force, torque, words):
    reason = inputs.wrench_refusal(FORCE.arms[1], force, torque)
    assert words in reason
    assert bool(words) == bool(reason)


def test_a_silent_force_sensor_holds_and_one_that_never_spoke_does_too():
    rig = Rig(FORCE)
    rig.start()
    assert rig.tick().executed.source == Source.HOLD
    assert rig.executor.hold_reason == "wrench.right: nothing heard yet"
    for _ in range(2):
        push(rig, 0.0)
        if request := rig.tick().request:
            rig.answer(request)
    sources = [rig.tick().executed.source for _ in range(9)]
    assert Source.RL in sources[:5]
    assert set(sources[5:]) == {Source.HOLD}
    assert "wrench.right: " in rig.executor.hold_reason


@pytest.mark.parametrize(
    "changes",
    [
        {"actions": np.full((10, 14), np.nan)},
        {"reference": np.full((10, 14), np.inf)},
        {"actions": np.zeros((10, 7)), "reference": np.zeros((10, 7))},
        {"arm_names": ("left", "middle")},
        {"source": Source.HOLD},
    ],
)
def test_a_broken_chunk_ends_the_one_in_play(changes):
    rig = Rig().in_motion()
    request = rig.executor._play.next_request(rig.executor.episode, 10, rig.state(), rig.now_s)
    assert rig.answer(request, **changes) != ""
    assert rig.tick().executed.source == Source.HOLD
    assert rig.executor.last_refusal
    assert rig.executor.counters.dropped_chunks == 1


@pytest.mark.parametrize("changes", [{"epoch": 0}, {"episode_id": 7}, {"chunk_id": 99}, {"first_step": 500}])
def test_a_chunk_that_nobody_asked_for_leaves_the_one_in_play(changes):
    rig = Rig().in_motion()
    request = rig.executor._play.next_request(rig.executor.episode, 10, rig.state(), rig.now_s)
    assert rig.answer(request, **{"actions": np.zeros((10, 14)), **changes}) != ""
    assert rig.tick().executed.action[7] == pytest.approx(0.001)


def test_the_same_chunk_twice_is_played_once():
    rig = Rig(wait_for_chunk=True)
    rig.start()
    request = rig.tick().request
    assert rig.answer(request) == ""
    assert "no request is open" in rig.answer(request)
    assert [rig.tick().executed.row for _ in range(10)] == list(range(10))


def test_a_second_commander_holds_and_is_named():
    rig = Rig().in_motion()
    rig.watchdog.refuse(inputs.COMMAND_TOPIC, "a second /chunk_executor publishes on it")
    assert rig.tick().executed.source == Source.HOLD
    assert rig.executor.hold_reason == "command_topic: a second /chunk_executor publishes on it"


def test_in_lockstep_time_stands_still_until_it_is_clear_who_commands():
    rig = Rig(wait_for_chunk=True).in_motion()
    rig.watchdog.refuse(inputs.COMMAND_TOPIC, "a second /chunk_executor publishes on it")
    step = rig.executor.step
    for _ in range(5):
        tick = rig.tick()
        assert (tick.executed, tick.joint_target, rig.executor.step) == (None, None, step)
    rig.watchdog.heard(inputs.COMMAND_TOPIC, rig.now_s)
    request = next(filter(None, (rig.tick().request for _ in range(3))))
    assert rig.answer(request) == ""
    assert rig.tick().executed.source == Source.RL


def test_who_else_commands_is_told_apart_from_who_is_not_known_yet():
    own = "/chunk_executor"
    assert inputs.foreign_commanders(own, [own]) == ([], "")
    assert inputs.foreign_commanders(own, []) == ([], "")
    assert inputs.foreign_commanders(own, [own, "/moveit", "/b/teleop"]) == (["/b/teleop", "/moveit"], "")
    others, doubtful = inputs.foreign_commanders(own, [own, own, "/_NODE_NAME_UNKNOWN_"])
    assert others == []
    assert "a second /chunk_executor" in doubtful
    assert "does not give its name" in doubtful


def test_a_tool_frame_command_moves_along_the_tool():
    rig = Rig()
    rig.start(human_in_control=True)
    rig.tick()
    human(rig, dx=0.002, frame=Frame.TOOL)
    _, (_, facing) = rig.executor._integrator.commanded
    executed = rig.tick().executed
    np.testing.assert_allclose(executed.action[7:10], facing @ [0.002, 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(executed.commanded, executed.action, atol=1e-9)
    np.testing.assert_array_equal(executed.reference, executed.action)


def test_repositioning_is_executed_and_marked():
    rig = Rig()
    rig.start(human_in_control=True)
    human(rig, repositioning=True)
    marked = rig.tick().executed
    assert (marked.source, marked.repositioning) == (Source.HUMAN, True)
    assert marked.action[7] == pytest.approx(0.002)
    human(rig)
    assert not rig.tick().executed.repositioning


def test_a_human_takes_over_where_the_arms_are_commanded_to_be_and_no_step_is_too_large():
    rig = Rig()
    rig.start(rows=40)
    rig.answer(rig.tick().request, dx=0.004)
    for _ in range(5):
        rig.tick()
    rig.change(epoch=2, human_in_control=True)
    rig.tick()
    before = rig.executor._integrator.commanded[1][0]
    human(rig, dx=0.5)
    executed = rig.tick().executed
    after = rig.executor._integrator.commanded[1][0]
    assert executed.commanded[7] == 0.5
    np.testing.assert_allclose(after - before, [ROBOT.limits.step_translation, 0, 0], atol=1e-9)
    assert (np.abs(executed.action) <= ROBOT.step_limit + 1e-9).all()


def test_letting_go_flushes_and_asks_anew():
    rig = Rig().in_motion()
    rig.change(epoch=2, human_in_control=True)
    human(rig)
    assert rig.tick().executed.source == Source.HUMAN
    rig.change(epoch=3, human_in_control=False)
    ticks = [rig.tick() for _ in range(2)]
    requests = [tick.request for tick in ticks if tick.request]
    assert [request.epoch for request in requests] == [3]
    assert {tick.executed.source for tick in ticks} == {Source.HOLD}


def test_a_human_command_that_cannot_be_read_ends_the_one_before_it():
    rig = Rig()
    rig.start(human_in_control=True)
    human(rig)
    assert rig.tick().executed.source == Source.HUMAN
    rig.executor.refuse_human("teleop_command action holds a value that is not finite")
    assert rig.tick().executed.source == Source.HOLD
    assert "not finite" in rig.executor.hold_reason
    human(rig)
    assert rig.tick().executed.source == Source.HUMAN


def test_in_lockstep_wall_time_judges_nothing_but_the_human():
    rig = Rig(FORCE, wait_for_chunk=True)
    rig.start()
    rig.answer(rig.tick().request)
    rig.joints_speak = rig.manager_speaks = False
    rig.ticks += 5000
    assert rig.tick().executed.source == Source.RL
    rig.watchdog.refuse(WRENCH, "force 25.0 N, limit 20 N")
    assert rig.tick().executed.source == Source.HOLD


def test_an_emergency_stop_holds_in_the_next_tick_whatever_else_is_wrong():
    rig = Rig().in_motion()
    rig.executor.estop("test", rig.state())
    rig.manager_speaks = False
    rig.watchdog.refuse(inputs.COMMAND_TOPIC, "x")
    held_at = rig.q.copy()
    for _ in range(3):
        tick = rig.tick()
        assert tick.executed is None
        np.testing.assert_array_equal(tick.joint_target, held_at)


SPIKE, IMPOSSIBLE = 0.2, 3.0
"""rad that one sample of one joint is off: within what the joint could have moved in a period, and beyond it."""
EVENTS = ["tick", "chunk", "broken", "silence", "speak", "jump", "quiet manager", "loud manager", "refuse", "human"]
EVENTS += ["spike", "impossible"]


def steady(rig: Rig) -> bool:
    """Nothing is at fault, and nothing was before: no tick will start anew from the measured joints."""
    executor = rig.executor
    fault = rig.watchdog.first_fault(rig.now_s, apart_from=(inputs.HUMAN,)) or executor.estop_reason
    return executor._trusted and not fault and executor.step > 0 and executor._hold_target is None


@settings(max_examples=80, deadline=None)
@example(["tick", "chunk", "tick", "spike", "tick", "impossible", "tick", "chunk", "spike"])
@example(["take", "human", "human", "spike", "human", "spike", "impossible", "human"])
@example(["tick"] * 5 + ["silence"] + ["tick"] * 3 + ["chunk"])  # the joint states' age is just their time-out
@given(st.lists(st.sampled_from([*EVENTS, "take", "give", "estop", "reset"]), max_size=80))
def test_whatever_is_at_fault_no_tick_moves_the_tool_by_more_than_a_step_and_faults_hold(events):
    rig = Rig()
    rig.start()
    request, epoch = None, 1
    for event in events:
        if event == "chunk" and request:
            rig.answer(request, dx=0.01)
        elif event == "broken" and request:
            rig.answer(request, actions=np.full((10, 14), np.nan))
        elif event in ("silence", "speak"):
            rig.joints_speak = event == "speak"
        elif event == "jump":
            rig.clock_offset_ns += 3_000_000_000
        elif event in ("quiet manager", "loud manager"):
            rig.manager_speaks = event == "loud manager"
        elif event == "refuse":
            rig.watchdog.refuse(inputs.MANAGER, "broken")
        elif event == "human":
            rig.executor.offer_human(HumanCommand(True, np.full(14, 0.004), rig.now_s, Frame.TOOL))
        elif event in ("take", "give"):
            epoch += 1
            rig.change(epoch=epoch, human_in_control=event == "take")
        elif event == "estop":
            rig.executor.estop("x", rig.state())
        elif event == "reset":
            rig.executor.reset_estop()
        elif (event == "impossible" and rig.joints_speak and rig.heard_of) or (event == "spike" and steady(rig)):
            rig.wrong[7] = SPIKE if event == "spike" else -IMPOSSIBLE
        before = rig.executor._integrator._kinematics.forward(rig.q)
        fault, now_s = bool(rig.executor.estop_reason), rig.now_s
        tick = rig.tick()
        fault |= bool(rig.watchdog.first_fault(now_s, apart_from=(inputs.HUMAN,)))
        request = tick.request or request
        after = rig.executor._integrator._kinematics.forward(rig.q)
        moved = max(np.abs(p1 - p0).max() for (p0, _), (p1, _) in zip(before, after, strict=True))
        assert moved <= 0.0055, "a step, and what inverse kinematics leaves of the one before"
        if fault:
            assert tick.executed is None or tick.executed.source == Source.HOLD
            assert moved <= 1e-3


def test_phases_that_do_not_move_do_not_move():
    for phase in (Phase.IDLE, Phase.RESETTING, Phase.LABELLED, Phase.ESTOP):
        rig = Rig()
        rig.start(phase=phase)
        assert rig.tick().executed is None
        np.testing.assert_array_equal(rig.q, HOME)
