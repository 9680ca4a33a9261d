"""Actions that change joints: what is asked is done where the limits allow it, and those of the tools hold too."""

from dataclasses import replace

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from executor_rig import ROBOT, Rig, human
from hypothesis import given, settings
from hypothesis import strategies as st
from test_delta_pose import KINEMATICS, LIMITS, START

from rlt_common.config import learning_hash, load_task
from rlt_common.rotations import rotation_vector
from rlt_control.arms import build_integrator
from rlt_control.delta_joints import DeltaJointIntegrator
from rlt_control.delta_pose import DeltaPoseIntegrator
from rlt_control.records import Source

GRIPS = [6, 13]
STEP = np.array(([LIMITS.step_joint] * 6 + [LIMITS.step_gripper]) * 2)
SMALL = np.array(([0.003] * 6 + [LIMITS.step_gripper]) * 2)
"""Changes that no limit of a tool cuts short."""
FASTEST = np.where(np.isin(np.arange(14), GRIPS), LIMITS.step_gripper, LIMITS.joint_velocity * LIMITS.period_s)
fractions = st.lists(st.floats(-1.0, 1.0), min_size=14, max_size=14).map(np.array)


def make(limits=LIMITS, **options):
    integrator = DeltaJointIntegrator(KINEMATICS, ("a_g", "b_g"), limits, **options)
    integrator.reset(START)
    return integrator


@settings(deadline=None)
@given(fractions)
def test_an_action_within_the_limits_changes_the_joints_by_it(fraction):
    action = fraction * SMALL
    integrator = make()
    result = integrator.step(action, START)
    expected = START + action
    expected[GRIPS] = np.clip(expected[GRIPS], 0.0, 0.04)
    np.testing.assert_allclose(result.joint_targets, expected, atol=1e-12)
    np.testing.assert_allclose(result.applied, expected - START, atol=1e-12)
    for (wanted, facing), (at, turned) in zip(
        integrator.commanded, KINEMATICS.forward(result.joint_targets), strict=True
    ):
        np.testing.assert_array_equal(wanted, at)
        np.testing.assert_array_equal(facing, turned)


@settings(deadline=None, max_examples=30)
@given(fractions, st.booleans(), st.booleans())
def test_step_leash_box_and_joint_limits_hold_whatever_is_asked(fraction, stuck, from_measured):
    integrator = make(from_measured=from_measured)
    measured, targets = START, START
    for _ in range(30):
        before = integrator.commanded
        result = integrator.step(3.0 * fraction * STEP, measured)
        assert (result.joint_targets >= np.array(LIMITS.joint_lower)).all()
        assert (result.joint_targets <= np.array(LIMITS.joint_upper)).all()
        moves = np.abs(result.joint_targets - targets)
        assert (moves <= FASTEST + 1e-9).all()
        np.testing.assert_array_equal(result.clamped, np.abs(result.applied - result.requested) > 1e-9)
        for arm, ((p0, r0), (p1, r1), (at, facing)) in enumerate(
            zip(before, integrator.commanded, KINEMATICS.forward(measured), strict=True)
        ):
            assert np.abs(p1 - p0).max() <= LIMITS.step_position * (1 + 1e-6)
            assert np.abs(rotation_vector(r1 @ r0.T)).max() <= LIMITS.step_rotation * (1 + 1e-6)
            assert np.abs(p1 - at).max() <= LIMITS.leash_position + LIMITS.step_position
            assert np.linalg.norm(rotation_vector(r1 @ facing.T)) <= LIMITS.leash_rotation + LIMITS.step_rotation
            low, high = LIMITS.workspace[arm]
            assert (p1 >= np.array(low) - 1e-9).all()
            assert (p1 <= np.array(high) + 1e-9).all()
        targets = result.joint_targets
        measured = START if stuck else targets


def test_an_arm_that_is_stuck_is_pressed_no_further_than_the_leash():
    integrator = make()
    for _ in range(100):
        result = integrator.step(SMALL, START)
    for (position, _), (at, _) in zip(integrator.commanded, KINEMATICS.forward(START), strict=True):
        assert np.abs(position - at).max() <= LIMITS.leash_position + 1e-9
    assert result.clamped.any()


def test_an_arm_that_was_pushed_away_takes_what_is_commanded_along_and_the_other_arm_goes_on():
    integrator = make()
    pushed = START.copy()
    pushed[0] += 0.1
    away = KINEMATICS.forward(pushed)[0][0]
    before = [position for position, _ in integrator.commanded]
    action = np.zeros(14)
    action[7:13] = 0.001
    for count in range(1, 201):
        result = integrator.step(action * (count <= 5), pushed)
        now = [position for position, _ in integrator.commanded]
        assert np.abs(now[0] - before[0]).max() <= LIMITS.step_position + 1e-4  # what inverse kinematics misses
        before = now
        pushed[7:14] = result.joint_targets[7:14]
        if count == 5:
            np.testing.assert_allclose(result.joint_targets[7:13], START[7:13] + 0.005, atol=1e-12)
            assert result.clamped[:6].any()
            assert not result.clamped[7:].any()
    assert np.abs(before[0] - away).max() <= LIMITS.leash_position + 1e-9


def test_a_pushed_arm_that_the_policy_leads_back_within_the_leash_goes_where_it_says():
    integrator = make()
    for _ in range(100):
        pressed = integrator.step(SMALL, START).joint_targets
    aside = START.copy()
    aside[:6] -= 2e-4
    back = np.zeros(14)
    back[:6] = -0.002
    np.testing.assert_allclose(integrator.step(back, aside).joint_targets[:6], pressed[:6] - 0.002, atol=1e-12)


def test_a_large_action_goes_as_far_as_the_tool_may_in_the_direction_that_was_asked():
    action = np.zeros(14)
    action[:6] = [0.05, -0.02, 0.03, 0.0, 0.01, 0.0]
    result = make().step(action, START)
    moved = result.joint_targets[:6] - START[:6]
    share = moved[0] / action[0]
    assert 0.0 < share < 1.0
    np.testing.assert_allclose(moved, share * action[:6], atol=1e-12)
    assert result.clamped[:3].all()


def test_a_step_that_comes_at_once_moves_no_arm_and_without_a_reset_there_is_none():
    action = np.array([0.002] * 14)
    np.testing.assert_array_equal(make().step(action, START, 0.0).joint_targets[:6], START[:6])
    half = make(replace(LIMITS, joint_velocity=0.1)).step(action, START, 0.01).joint_targets - START
    np.testing.assert_allclose(half[:6], 0.001, atol=1e-12)
    with pytest.raises(ValueError, match="call reset"):
        DeltaJointIntegrator(KINEMATICS, ("a_g", "b_g"), LIMITS).step(action, START)


def test_from_the_measured_joints_the_lag_is_not_pressed_further_and_the_gripper_keeps_its_command():
    measured = START.copy()
    measured[[0, 6]] += [-0.004, 0.005]
    action = np.zeros(14)
    action[0] = 0.002
    result = make(from_measured=True).step(action, measured)
    assert result.joint_targets[0] == pytest.approx(START[0] - 0.002)
    assert result.joint_targets[6] == START[6]
    np.testing.assert_allclose(result.applied, action, atol=1e-12)
    assert make().step(action, measured).joint_targets[0] == pytest.approx(START[0] + 0.002)


@settings(deadline=None, max_examples=20)
@given(fractions)
def test_a_human_moves_the_tools_as_ever_and_is_recorded_in_joints(fraction):
    change = fraction * LIMITS.step_vector()
    joints, poses = make(), DeltaPoseIntegrator(KINEMATICS, ("a_g", "b_g"), LIMITS)
    poses.reset(START)
    result, other = joints.follow(change, START), poses.follow(change, START)
    np.testing.assert_array_equal(result.joint_targets, other.joint_targets)
    np.testing.assert_allclose(result.applied, result.joint_targets - START, atol=1e-12)
    np.testing.assert_array_equal(result.clamped.reshape(2, 7).any(axis=1), other.clamped.reshape(2, 7).any(axis=1))


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (np.full(14, np.nan), "action is not finite at components"),
        (np.zeros(13), r"action has shape \(13,\), expected \(14,\)"),
    ],
)
def test_bad_input_raises_and_changes_nothing(action, text):
    integrator, twin = make(), make()
    with pytest.raises(ValueError, match=text):
        integrator.step(action, START)
    good = 0.5 * SMALL
    np.testing.assert_array_equal(integrator.step(good, START).joint_targets, twin.step(good, START).joint_targets)


def test_the_robot_file_chooses_and_robots_that_differ_in_it_share_no_learner():
    joints = replace(ROBOT, actions="joints")
    assert type(build_integrator(joints)) is DeltaJointIntegrator
    assert type(build_integrator(ROBOT)) is DeltaPoseIntegrator
    sizes = [len(arm.joints) + 1 for arm in ROBOT.arms]
    assert joints.action_dim == sum(sizes)
    assert joints.step_limit[0] == ROBOT.limits.step_joint
    np.testing.assert_array_equal(joints.hand_step_limit, ROBOT.step_limit)
    task = load_task(get_package_share_directory("rlt_bringup") + "/config/tasks/screw.yaml")
    assert learning_hash(joints, task) != learning_hash(ROBOT, task)


def test_the_executor_plays_them_holds_and_lets_a_human_take_over():
    rig = Rig(replace(ROBOT, actions="joints"))
    waist = ROBOT.joint_names.index("right_waist")
    rig.start()
    assert rig.answer(rig.tick().request, dx=0.002) == ""
    for _ in range(3):
        before = rig.q
        tick = rig.tick()
        assert tick.executed.source == Source.RL
        assert tick.executed.action[7] == pytest.approx(0.002)
        np.testing.assert_allclose(np.flatnonzero(np.abs(tick.joint_target - before) > 1e-9), [waist])
    rig.change(human_in_control=True, epoch=2)
    before = rig.q
    held = rig.tick()
    assert held.executed.source == Source.HOLD
    np.testing.assert_allclose(held.joint_target, before, atol=1e-6)
    assert human(rig, dx=0.003) == ""
    tick = rig.tick()
    assert tick.executed.source == Source.HUMAN
    np.testing.assert_allclose(tick.executed.action[:6], 0.0, atol=1e-6)
    np.testing.assert_allclose(tick.executed.action[7:13], (tick.joint_target - before)[7:13], atol=1e-6)
    assert np.abs(tick.executed.action[7:13]).max() > 1e-3
