"""The executor's rules, with time moved by the test: nothing sleeps, no node is started."""

from dataclasses import replace

import numpy as np
import pytest
from executor_rig import HOME, PERIOD_NS, ROBOT, Rig, human
from hypothesis import given, settings
from hypothesis import strategies as st

from rlt_common.kinematics import build_kinematics
from rlt_common.rotations import rotation_vector
from rlt_control.records import Episode, HumanCommand, Phase, RobotState, Source


def test_lockstep_sends_nothing_until_the_chunk_comes():
    rig = Rig(wait_for_chunk=True)
    rig.start()
    first = rig.tick()
    assert first.joint_target is None
    assert first.executed is None
    assert first.request is not None
    assert rig.answer(first.request) == ""
    steps = [rig.tick().executed for _ in range(10)]
    assert [s.step for s in steps] == list(range(10))
    assert [s.row for s in steps] == list(range(10))
    assert {s.source for s in steps} == {Source.RL}
    np.testing.assert_allclose(steps[3].action[7], 0.001, atol=1e-9)
    np.testing.assert_allclose(steps[3].reference[7], 0.0005)
    waiting = rig.tick()
    assert waiting.joint_target is None
    assert waiting.request.boundary_step == waiting.request.first_step == 10


def test_on_a_robot_a_missing_chunk_holds_and_the_step_is_recorded():
    rig = Rig()
    rig.start()
    before = rig.q.copy()
    held = [rig.tick() for _ in range(3)]
    assert [t.executed.source for t in held] == [Source.HOLD] * 3
    np.testing.assert_allclose(rig.q, before, atol=1e-4)
    assert rig.executor.hold_reason == "no chunk row for this step"
    assert rig.executor.counters.held == 3


def test_a_late_chunk_is_trimmed_by_the_steps_consumed():
    rig = Rig()
    rig.start()
    request = rig.tick().request
    for _ in range(3):
        rig.tick()
    assert rig.answer(request) == ""
    assert rig.tick().executed.row == 4


def test_a_request_whose_steps_have_all_passed_is_asked_anew_and_its_answer_refused():
    rig = Rig(request_retry_s=0.1)
    rig.start()
    first = rig.tick().request
    while (again := rig.tick().request) is None or again == first:
        pass
    assert again.boundary_step == 10, "the first stride at which none of the ten rows could be played"
    assert "chunk ends at step 10" in rig.answer(first)
    assert rig.answer(again) == ""
    assert rig.tick().executed.source == Source.RL


def test_a_chunk_is_requested_ahead_by_the_prefetch_and_waits_for_its_turn():
    rig = Rig(prefetch_steps=4)
    rig.start()
    first = rig.tick().request
    rig.answer(first)
    requests, played = {}, []
    for _ in range(40):
        tick = rig.tick()
        played.append((tick.executed.source, tick.executed.chunk_id, tick.executed.row))
        if tick.request:
            requests[tick.executed.step] = tick.request
            rig.answer(tick.request)
    assert list(requests) == [9, 19, 29, 39], "half a stride before the step of its observation"
    assert [r.first_step for r in requests.values()] == [14, 24, 34, 44]
    assert [source for source, *_ in played[:3]] == [Source.HOLD] * 3, "the first chunk begins four steps on"
    ids = [first.request_id, *(r.request_id for r in requests.values())]
    expected = [(Source.RL, ids[step // 10], step % 10) for step in range(37)]
    assert played[3:] == expected, "row after row, chunk after chunk, without a pause"


def play(rig: Rig, steps: int, observed, arrives_ns: int) -> tuple[list, dict[int, int]]:
    """What `rig` executes while each request is answered from the first of the stamps `observed` that it asks for,
    `arrives_ns` after it; and the stamp behind each chunk."""
    executed, waiting, stamp_of = [], None, {}
    while len(executed) < steps:
        if waiting is not None and stamp_of[waiting.request_id] + arrives_ns <= rig.state().stamp_ns:
            assert rig.answer(waiting, observation_stamp_ns=stamp_of[waiting.request_id]) == ""
            waiting = None
        tick = rig.tick()
        executed.append(tick.executed)
        if tick.request is not None:
            waiting = tick.request
            stamp_of[waiting.request_id] = next(stamp for stamp in observed if stamp >= waiting.not_before_ns)
    return executed, stamp_of


def begins(executed, stamp_ns: int) -> int:
    """The control step that an observation belongs to, by the rule of scheduler and learner."""
    return next(e.step for e in executed if e.stamp_ns >= stamp_ns)


@pytest.mark.parametrize("arrives_ms", [4, 70])
@pytest.mark.parametrize("phase_ms", [-39, -20, -19, -1, 0])
def test_on_a_timer_a_chunk_begins_its_delay_after_the_step_that_its_observation_belongs_to(phase_ms, arrives_ms):
    rig = Rig(prefetch_steps=4)
    rig.start()
    observed = range(phase_ms * 1_000_000, 10**10, 2 * PERIOD_NS)
    executed, stamp_of = play(rig, 80, observed, arrives_ms * 1_000_000)
    played = [e for e in executed if e.source == Source.RL]
    assert {e.step - e.row - begins(executed, stamp_of[e.chunk_id]) for e in played} == {4}
    first = played[0].step
    assert first <= 2 + 4, "no longer than the next observation and the delay"
    assert [e.row for e in played] == [i % 10 for i in range(80 - first)], "row after row, without a pause"
    assert {(e.stamp_ns - stamp_of[e.chunk_id]) * 1e-9 - e.delay_s for e in played} == {0.0}


def test_a_chunk_of_places_leaves_out_no_row_of_the_one_before():
    rig = Rig(prefetch_steps=4)
    rig.start()
    request, begun = rig.tick().request, {}
    for step in range(60):
        if request is not None:
            early = request.not_before_ns  # the oldest observation that may be
            assert rig.answer(request, observation_stamp_ns=early, anchored=True) == ""
        tick = rig.tick()
        if tick.executed.row == 0:
            begun[tick.executed.step] = step
        request = tick.request
        if request is not None:
            assert request.first_step - request.boundary_step == 4
    assert list(begun) == [4, 14, 24, 34, 44, 54], "ten rows each"


@pytest.mark.parametrize("seed", range(4))
def test_however_stamps_jitter_a_chunk_begins_its_delay_after_its_observation(seed):
    rng = np.random.default_rng(seed)
    rig = Rig(prefetch_steps=4)
    rig.start()
    due = np.arange(0, 4_000, 40) + rng.uniform(-40, 0)
    observed = [int(1e6 * (at + rng.choice([-4, 0, 4]))) for at in due]
    executed, stamp_of = play(rig, 120, observed, 70_000_000)
    played = [e for e in executed if e.source == Source.RL]
    assert {e.step - e.row - begins(executed, stamp_of[e.chunk_id]) for e in played} == {4}
    chunks = len({e.chunk_id for e in played})
    held = sum(e.source == Source.HOLD for e in executed[played[0].step :])
    assert held <= chunks // 2 + 1, "a step at most where the grid moves on"


def test_an_observation_of_a_state_that_a_step_before_had_too_is_not_asked_for():
    rig = Rig(prefetch_steps=4)
    rig.start(human_in_control=True)
    for _ in range(3):
        human(rig)
        seen = rig.tick().executed
    rig.change(epoch=2, human_in_control=False)
    request = rig.tick().request
    assert request.boundary_step == 3
    assert request.not_before_ns > request.stamp_ns > seen.stamp_ns


def test_an_observation_that_comes_at_once_is_placed_when_its_step_is_known():
    rig = Rig(prefetch_steps=0)
    rig.start()
    request = rig.tick().request
    assert rig.answer(request, observation_stamp_ns=PERIOD_NS + 1) == ""
    assert [rig.tick().executed.row for _ in range(3)] == [-1, 0, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 0},
        {"epoch": 2},
        {"episode_id": 2},
        {"actions": np.zeros((10, 13)), "reference": np.zeros((10, 13))},
        {"actions": np.zeros((0, 14)), "reference": np.zeros((0, 14))},
        {"actions": np.full((10, 14), np.nan)},
        {"reference": np.full((10, 14), np.inf)},
        {"source": Source.HUMAN},
        {"first_step": -20},
        {"first_step": 40},
        {"chunk_id": 7},
        {"arm_names": ("right", "left")},
        {"arm_names": ()},
    ],
)
def test_a_bad_or_stale_chunk_is_refused_whole_and_nothing_moves(changes):
    rig = Rig(wait_for_chunk=True)
    rig.start()
    request = rig.tick().request
    assert rig.answer(request, **changes) != ""
    assert rig.executor.counters.dropped_chunks == 1
    assert rig.tick().joint_target is None


def test_a_new_epoch_flushes_the_chunk_in_play():
    rig = Rig(wait_for_chunk=True)
    rig.start()
    rig.answer(rig.tick().request)
    for _ in range(4):
        rig.tick()
    rig.change(epoch=2, phase=Phase.CRITICAL, handoff_step=4)
    tick = rig.tick()
    assert tick.joint_target is None
    assert (tick.request.epoch, tick.request.boundary_step) == (2, 4)


def test_an_odd_step_is_held_until_there_is_an_observation():
    rig = Rig(wait_for_chunk=True)
    rig.start()
    rig.answer(rig.tick().request)
    for _ in range(3):
        rig.tick()
    rig.change(epoch=2, phase=Phase.CRITICAL, handoff_step=3)
    held = rig.tick()
    assert held.executed.source == Source.HOLD
    assert held.request is None
    assert rig.tick().request.boundary_step == 4


def test_the_end_of_the_episode_stops_inside_a_chunk():
    rig = Rig(wait_for_chunk=True)
    rig.start()
    rig.answer(rig.tick().request)
    rig.tick()
    rig.change(epoch=2, phase=Phase.LABELLED)
    assert rig.tick().joint_target is None


def test_an_older_epoch_is_ignored():
    rig = Rig(wait_for_chunk=True)
    rig.start(epoch=5)
    rig.change(epoch=4, phase=Phase.CRITICAL)
    assert rig.executor.episode.epoch == 5


def test_the_time_out_of_a_phase_stops_and_is_shown():
    rig = Rig(wait_for_chunk=True)
    rig.start(max_base_steps=6)
    rig.answer(rig.tick().request)
    for _ in range(6):
        assert rig.tick().executed is not None
    assert rig.tick().executed is None
    assert rig.executor.step_limit_reached


def test_an_emergency_stop_holds_is_latched_and_never_resumes_by_itself():
    rig = Rig()
    rig.start()
    rig.answer(rig.tick().request)
    rig.tick()
    rig.executor.estop("test", rig.state())
    held_at = rig.q.copy()
    for _ in range(5):
        tick = rig.tick()
        assert tick.executed is None
        np.testing.assert_array_equal(tick.joint_target, held_at)
    rig.executor.reset_estop()
    np.testing.assert_array_equal(rig.tick().joint_target, held_at)
    rig.change(epoch=9)
    assert rig.tick().executed is None
    rig.start(episode_id=2)
    assert rig.tick().executed is not None


def test_an_executor_started_in_the_middle_of_an_episode_does_not_go_on_with_it():
    rig = Rig(wait_for_chunk=True)
    rig.executor.set_episode(Episode(3, 2, Phase.CRITICAL, False, 10, 20, 1000, 1000))
    assert "middle of episode 3" in rig.executor.estop_reason
    assert rig.tick().executed is None


def test_a_human_drives_only_with_the_enable_button_and_fresh_commands():
    rig = Rig()
    rig.start()
    rig.answer(rig.tick().request)
    assert human(rig) == ""
    assert rig.tick().executed.source == Source.RL
    rig.change(epoch=2, human_in_control=True)
    assert rig.tick().executed.source == Source.HOLD
    human(rig)
    executed = rig.tick().executed
    assert executed.source == Source.HUMAN
    np.testing.assert_array_equal(executed.reference, executed.action)
    human(rig, enabled=False)
    assert rig.tick().executed.source == Source.HOLD
    human(rig)
    for _ in range(5):
        assert rig.tick().executed.source == Source.HUMAN
    rig.tick()
    assert rig.tick().executed.source == Source.HOLD
    assert rig.executor.hold_reason == "the operator has taken over; teleop_command: 120 ms old, time-out 100 ms"


@pytest.mark.parametrize("action", [np.full(14, np.nan), np.zeros(7)])
def test_a_bad_human_command_is_refused(action):
    rig = Rig()
    rig.start(human_in_control=True)
    assert rig.executor.offer_human(HumanCommand(True, action, 0.0)) != ""
    assert rig.tick().executed.source == Source.HOLD


def test_a_request_without_an_answer_is_repeated_with_its_id():
    rig = Rig(wait_for_chunk=True, request_retry_s=0.1)
    rig.start()
    first = rig.tick().request
    repeats = [rig.tick().request for _ in range(12)]
    again = [r for r in repeats if r is not None]
    assert again
    assert {r.request_id for r in again} == {first.request_id}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["tick", "chunk", "stale", "epoch", "label", "estop", "reset", "human"]), max_size=60))
def test_whatever_happens_arms_move_only_in_an_episode_and_steps_count_up(events):
    rig = Rig()
    rig.start()
    request, last = None, -1
    stopped = False
    for event in events:
        executor = rig.executor
        if event == "chunk" and request:
            rig.answer(request, dx=0.004)
        elif event == "stale" and request:
            rig.answer(request, epoch=request.epoch + 7)
        elif event == "epoch":
            rig.change(epoch=executor.episode.epoch + 1)
        elif event == "label":
            rig.change(epoch=executor.episode.epoch + 1, phase=Phase.LABELLED)
        elif event == "estop":
            executor.estop("x", rig.state())
            stopped = True
        elif event == "reset":
            executor.reset_estop()
        elif event == "human":
            human(rig)
        before = rig.q.copy()
        tick = rig.tick()
        request = tick.request or request
        if tick.executed is None:
            np.testing.assert_allclose(rig.q, before, atol=1e-9)
        else:
            assert not stopped
            assert executor.episode.phase == Phase.BASE
            assert tick.executed.step == last + 1
            last = tick.executed.step
            assert (np.abs(tick.executed.action) <= ROBOT.step_limit + 1e-9).all()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_measurement_that_no_joint_can_have_moves_nothing(stopped):
    rig = Rig()
    rig.start()
    rig.answer(rig.tick().request)
    rig.tick()
    if stopped:
        rig.executor.estop("test", RobotState(0, np.full(14, 1e6)))
    true = rig.q.copy()
    rig.q = true.copy()
    rig.q[1] = 1e6
    tick = rig.tick()
    assert tick.joint_target is None
    assert "is measured at 1e+06, its range is" in rig.executor.hold_reason
    rig.q = true
    np.testing.assert_allclose(rig.tick().joint_target, true, atol=0.02)


def test_a_joint_slightly_beyond_its_range_is_held_within_it():
    rig = Rig()
    kinematics = build_kinematics(ROBOT)
    rig.q[1] = kinematics.upper[1] + 0.05
    target = rig.tick().joint_target
    assert target[1] == kinematics.upper[1]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_joint_far_outside_its_limits_is_held_where_it_is(stopped):
    limits = {"right_elbow": (1.2, 1.6)}
    rig = Rig(replace(ROBOT, joint_limits=limits, limits=replace(ROBOT.limits, joint_velocity=1.0)))
    if stopped:
        rig.executor.estop("test", rig.state())
    measured = rig.q.copy()
    targets = [rig.tick().joint_target for _ in range(20)]
    assert 0.0 < np.abs(targets[-1] - measured).max() <= 1.0 * ROBOT.period_s + 1e-9


def test_a_request_of_any_episode_fits_its_message():
    rig = Rig()
    rig.start(episode_id=2**63)
    assert 0 <= rig.tick().request.request_id < 2**64


class Behind(Rig):
    """Arms that come half of the way in every step."""

    def tick(self):
        before = self.q
        tick = super().tick()
        self.q = (before + self.q) / 2
        return tick


@pytest.mark.parametrize("relative_to", ["commanded", "measured"])
def test_a_policy_s_actions_start_where_the_robot_file_says(relative_to):
    robot = replace(ROBOT, relative_to=relative_to)
    rig, kinematics = Behind(robot), build_kinematics(robot)
    rig.start()
    assert rig.answer(rig.tick().request, dx=0.004) == ""
    for _ in range(5):
        measured, commanded = rig.q, rig.executor._integrator.commanded[1][0]
        tick = rig.tick()
    np.testing.assert_allclose(tick.executed.action[7], 0.004, atol=1e-9)
    begun = commanded if relative_to == "commanded" else kinematics.forward(measured)[1][0]
    reached = rig.executor._integrator.commanded[1][0]
    np.testing.assert_allclose(reached - begun, [0.004, 0.0, 0.0], atol=5e-5)
    np.testing.assert_allclose(kinematics.forward(tick.joint_target)[1][0], reached, atol=1e-4)


def test_holds_and_a_human_keep_to_the_commanded_pose_and_are_recorded_as_actions_from_the_measured_one():
    robot = replace(ROBOT, relative_to="measured")
    rig, twin = Behind(robot), Behind(ROBOT)
    for one in (rig, twin):
        one.start(human_in_control=True)
        for _ in range(6):
            human(one)
            one.tick()
    kinematics = build_kinematics(robot)
    for enabled, source in ((True, Source.HUMAN), (False, Source.HOLD)):
        human(rig, enabled=enabled)
        human(twin, enabled=enabled)
        at = kinematics.forward(rig.q)[1][0]
        executed, other = rig.tick().executed, twin.tick().executed
        assert (executed.source, other.source) == (source, source)
        np.testing.assert_array_equal(executed.joint_target, other.joint_target)
        np.testing.assert_allclose(executed.action[7:10], rig.executor._integrator.commanded[1][0] - at, atol=1e-9)
        np.testing.assert_allclose(executed.commanded, executed.action, atol=1e-9)
        np.testing.assert_array_equal(executed.reference, executed.action if enabled else np.zeros(14))
        assert executed.action[7] > other.action[7] + 0.0005


@pytest.mark.parametrize("actions", ["tool_pose", "joints"])
def test_a_request_says_what_will_be_commanded_before_its_chunk_begins(actions):
    robot = replace(ROBOT, actions=actions)
    rig = Rig(robot, prefetch_steps=4)
    rig.start()
    kinematics, q, asked, seen = build_kinematics(robot), None, [], {}
    for _ in range(40):
        tick = rig.tick()
        if tick.request is not None:
            asked.append(tick.request)
            rig.answer(tick.request)
        if tick.executed is not None:
            q = tick.executed.joint_target
            seen[tick.executed.step] = q
    later = [request for request in asked if 0 < request.first_step - 1 < 35]
    assert len(later) >= 3
    for request in later:
        q = seen[request.first_step - 1]
        expected = []
        for arm, (position, rotation) in zip(robot.arms, kinematics.forward(q), strict=True):
            grip = q[robot.joint_names.index(arm.gripper)]
            joints = [q[robot.joint_names.index(name)] for name in arm.joints]
            expected += [*position, *rotation_vector(rotation), grip] if actions == "tool_pose" else [*joints, grip]
        np.testing.assert_allclose(request.anchor, expected, atol=1e-6)


def test_where_actions_start_from_the_measured_pose_a_request_has_no_anchor():
    rig = Rig(replace(ROBOT, relative_to="measured"), prefetch_steps=4)
    rig.start()
    assert rig.tick().request.anchor is None


class Standing(Rig):
    """Arms that nobody commands, as in a dry run."""

    def tick(self):
        q, tick = self.q, super().tick()
        self.q = q
        return tick


def test_in_a_dry_run_a_person_moves_arms_that_stand_up_to_the_workspace_and_not_to_the_leash():
    rig = Standing(dry_run=True)
    low, high = ROBOT.arms[1].workspace_min[0], ROBOT.arms[1].workspace_max[0]
    at = build_kinematics(ROBOT).forward(rig.q)[1][0][0]
    rig.start(human_in_control=True)
    steps = int((high - at) / 0.002)
    assert 0.002 * steps > 2 * ROBOT.limits.leash_translation
    for _ in range(steps):
        human(rig)
        assert not rig.tick().executed.clamped.any()
    for _ in range(5):
        human(rig)
        tick = rig.tick()
    assert tick.executed.clamped[7]
    assert low < rig.executor._integrator.commanded[1][0][0] <= high + 1e-9


def test_in_a_dry_run_every_chunk_begins_where_its_observation_was_taken():
    rig, begun = Standing(dry_run=True), build_kinematics(ROBOT).forward(HOME)[1][0]
    rig.start()
    request = rig.tick().request
    for rows in (9, 10, 10, 10):  # the first row of all was due when its chunk was asked for
        assert rig.answer(request, dx=0.004) == ""
        ticks = [rig.tick() for _ in range(rows)]
        assert not any(tick.executed.clamped.any() for tick in ticks)
        (request,) = [tick.request for tick in ticks if tick.request]
        reached = rig.executor._integrator.commanded[1][0] - begun
        np.testing.assert_allclose(reached, [0.004 * rows, 0.0, 0.0], atol=1e-3)


def test_in_a_dry_run_the_measured_arms_are_still_what_is_judged():
    rig = Standing(dry_run=True)
    rig.in_motion()
    rig.q[1] = 50.0
    assert rig.tick().joint_target is None
    assert "its range is" in rig.executor.hold_reason
    rig.q[1] = HOME[1]
    rig.tick()
    np.testing.assert_allclose(rig.executor._integrator.commanded[1][0], build_kinematics(ROBOT).forward(HOME)[1][0])
