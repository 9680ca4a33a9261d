"""The integrator's limits hold for every input, and bad input changes nothing."""

from dataclasses import replace
from itertools import product

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlt_common.kinematics import ArmChain, ArmKinematics
from rlt_common.rotations import rotation_vector
from rlt_control.delta_pose import MISS_M, MISS_RAD, DeltaPoseIntegrator, MotionLimits

AXES = ("0 0 1", "0 1 0", "0 1 0", "1 0 0", "0 1 0", "1 0 0")
OFFSETS = ("0 0 0.1", "0 0 0.05", "0.05 0 0.3", "0.2 0 0", "0.1 0 0", "0.08 0 0")


def _arm_xml(name: str, x: float) -> str:
    inner = (
        f'<site name="{name}_tip" pos="0.1 0 0"/><body><joint name="{name}_g" type="slide" range="0 0.04"/>'
        '<geom size="0.01"/></body>'
    )
    for k in reversed(range(6)):
        inner = (
            f'<body pos="{OFFSETS[k]}"><joint name="{name}_j{k}" axis="{AXES[k]}" range="-2 2"/>'
            f'<geom size="0.02" mass="0.1"/>{inner}</body>'
        )
    return f'<body pos="{x} 0 0">{inner}</body>'


XML = f"""<mujoco><compiler angle="radian" autolimits="true"/>
<worldbody>{_arm_xml("a", -0.5)}{_arm_xml("b", 0.5)}</worldbody></mujoco>"""
CHAINS = tuple(ArmChain(tuple(f"{arm}_j{k}" for k in range(6)), f"{arm}_tip") for arm in "ab")
NAMES = tuple(f"{arm}_{joint}" for arm in "ab" for joint in ("j0", "j1", "j2", "j3", "j4", "j5", "g"))
START = np.array([0.2, -0.4, 0.8, 0.3, -0.6, 0.2, 0.01] * 2)
KINEMATICS = ArmKinematics(mujoco.MjModel.from_xml_string(XML), NAMES, CHAINS)
TIPS = [position for position, _ in KINEMATICS.forward(START)]
LIMITS = MotionLimits(
    workspace=tuple((tuple(tip - 0.05), tuple(tip + 0.05)) for tip in TIPS),
    joint_lower=(*[-1.9] * 6, 0.0) * 2,
    joint_upper=(*[1.9] * 6, 0.04) * 2,
)
STEP = LIMITS.step_vector()
FAST = replace(LIMITS, joint_velocity=40.0)  # more than inverse kinematics ever asks for in one step
JOINT_STEP = LIMITS.joint_velocity * LIMITS.period_s

actions = st.lists(st.floats(-0.2, 0.2), min_size=14, max_size=14).map(np.array)
fractions = st.lists(st.floats(-1.0, 1.0), min_size=14, max_size=14).map(np.array)


def make(limits: MotionLimits = LIMITS, **options) -> DeltaPoseIntegrator:
    integrator = DeltaPoseIntegrator(KINEMATICS, ("a_g", "b_g"), limits, **options)
    integrator.reset(START)
    return integrator


def test_zero_action_holds_the_measured_joints():
    result = make().step(np.zeros(14), START)
    np.testing.assert_allclose(result.joint_targets, START, atol=1e-9)
    np.testing.assert_allclose(result.applied, 0.0, atol=1e-12)
    assert not result.clamped.any()


@settings(deadline=None)
@given(fractions)
def test_an_action_within_the_limits_is_applied_whole(fraction):
    action = fraction * STEP
    integrator = make(FAST)
    before = integrator.commanded
    result = integrator.step(action, START)
    np.testing.assert_allclose(result.applied, action, atol=1e-9)
    assert not result.clamped.any()
    for arm, ((p0, r0), (p1, r1)) in enumerate(zip(before, integrator.commanded, strict=True)):
        np.testing.assert_allclose(p1 - p0, action[7 * arm : 7 * arm + 3], atol=1e-9)
        np.testing.assert_allclose(rotation_vector(r1 @ r0.T), action[7 * arm + 3 : 7 * arm + 6], atol=1e-7)
    for (wanted, _), (at, _) in zip(integrator.commanded, KINEMATICS.forward(result.joint_targets), strict=True):
        assert np.linalg.norm(wanted - at) < 1e-3
    np.testing.assert_allclose(result.joint_targets[[6, 13]], np.clip(START[[6, 13]] + action[[6, 13]], 0, 0.04))


@settings(deadline=None)
@given(actions)
def test_step_limit_holds_and_is_reported(action):
    result = make().step(action, START)
    assert (np.abs(result.applied) <= STEP + 1e-9).all()
    np.testing.assert_array_equal(result.clamped, np.abs(result.applied - action) > 1e-9)
    over = np.abs(action) > STEP + 1e-9
    assert result.clamped[over].all()


@settings(deadline=None, max_examples=30)
@given(fractions, st.integers(5, 40))
def test_leash_box_and_joint_limits_hold_when_the_arm_is_stuck(fraction, count):
    integrator = make()
    previous = START
    for _ in range(count):
        result = integrator.step(fraction * STEP, START)  # measured joints never move
        assert (result.joint_targets >= np.array(LIMITS.joint_lower)).all()
        assert (result.joint_targets <= np.array(LIMITS.joint_upper)).all()
        assert np.abs(result.joint_targets - previous).max() <= JOINT_STEP + 1e-9
        previous = result.joint_targets
    for (position, rotation), (at, facing), tip in zip(
        integrator.commanded, KINEMATICS.forward(START), TIPS, strict=True
    ):
        assert np.abs(position - at).max() <= LIMITS.leash_position + 1e-9
        assert np.linalg.norm(rotation_vector(rotation @ facing.T)) <= LIMITS.leash_rotation + 1e-6
        assert np.abs(position - tip).max() <= 0.05 + 1e-9


@settings(deadline=None, max_examples=20)
@given(fractions)
def test_a_free_arm_stays_in_its_box_and_its_joint_limits(fraction):
    integrator = make()
    measured = START
    for _ in range(60):
        measured = integrator.step(fraction * STEP, measured).joint_targets  # a perfect arm
        assert (measured >= np.array(LIMITS.joint_lower)).all()
        assert (measured <= np.array(LIMITS.joint_upper)).all()
    for (position, _), tip in zip(integrator.commanded, TIPS, strict=True):
        assert np.abs(position - tip).max() <= 0.05 + 1e-9


def test_applied_is_nothing_once_the_leash_is_tight():
    integrator = make()
    push = np.zeros(14)
    push[7] = 0.005
    for _ in range(4):
        assert integrator.step(push, START).applied[7] == pytest.approx(0.005)
    result = integrator.step(push, START)
    assert result.applied[7] == pytest.approx(0.0, abs=1e-9)
    assert result.clamped.tolist() == [k == 7 for k in range(14)]


def test_an_arm_outside_its_box_comes_back_step_by_step():
    low, high = TIPS[0] + [0.02, -0.05, -0.05], TIPS[0] + 0.05
    limits = MotionLimits(((tuple(low), tuple(high)), LIMITS.workspace[1]), LIMITS.joint_lower, LIMITS.joint_upper)
    integrator = make(limits)
    action = np.zeros(14)
    assert np.abs(integrator.step(action, START).applied).max() < 1e-9
    action[0] = -0.005
    assert integrator.step(action, START).applied[0] == pytest.approx(0.0, abs=1e-9)
    action[0] = 0.005
    assert integrator.step(action, START).applied[0] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("action", "measured", "text"),
    [
        (np.full(14, np.nan), START, "action is not finite at components"),
        (np.array([0.0] * 13 + [np.inf]), START, r"components \[13\]"),
        (np.zeros(13), START, r"action has shape \(13,\), expected \(14,\)"),
        (np.zeros(14), np.full(14, np.nan), "measured joints is not finite"),
        (np.zeros(14), np.zeros(7), "measured joints has shape"),
    ],
)
def test_bad_input_raises_and_changes_nothing(action, measured, text):
    integrator, twin = make(), make()
    with pytest.raises(ValueError, match=text):
        integrator.step(action, measured)
    good = 0.5 * STEP
    np.testing.assert_array_equal(integrator.step(good, START).joint_targets, twin.step(good, START).joint_targets)


def test_step_before_reset_and_bad_reset_raise():
    integrator = DeltaPoseIntegrator(KINEMATICS, ("a_g", "b_g"), LIMITS)
    with pytest.raises(ValueError, match="call reset"):
        integrator.step(np.zeros(14), START)
    with pytest.raises(ValueError, match="not finite"):
        integrator.reset(np.full(14, np.nan))


def test_reset_forgets_the_command():
    integrator = make()
    integrator.step(STEP, START)
    integrator.reset(START)
    np.testing.assert_allclose(integrator.step(np.zeros(14), START).joint_targets, START, atol=1e-9)


def test_configuration_errors_are_named():
    with pytest.raises(ValueError, match="leash_position is 0"):
        MotionLimits(LIMITS.workspace, LIMITS.joint_lower, LIMITS.joint_upper, leash_position=0.0)
    with pytest.raises(ValueError, match="workspace of arm 0 is empty"):
        MotionLimits((((0, 0, 0), (1, 0, 1)),), LIMITS.joint_lower, LIMITS.joint_upper)
    with pytest.raises(ValueError, match="joint_lower exceeds"):
        MotionLimits(LIMITS.workspace, LIMITS.joint_upper, LIMITS.joint_lower)
    with pytest.raises(ValueError, match="14 lower and 2 upper"):
        MotionLimits(LIMITS.workspace, LIMITS.joint_lower, (0.0, 1.0))
    with pytest.raises(ValueError, match="gripper joints"):
        DeltaPoseIntegrator(KINEMATICS, ("a_g", "c_g"), LIMITS)
    with pytest.raises(ValueError, match="1 gripper joints"):
        DeltaPoseIntegrator(KINEMATICS, ("a_g",), LIMITS)
    short = MotionLimits(LIMITS.workspace, (0.0,), (1.0,))
    with pytest.raises(ValueError, match="14 joints, but 1 joint limits"):
        DeltaPoseIntegrator(KINEMATICS, ("a_g", "b_g"), short)


def stuck_at(limits: MotionLimits, fraction: np.ndarray, count: int = 60):
    """The integrator, and its result, after `count` steps of a perfect arm."""
    integrator, measured = make(limits), START
    for _ in range(count):
        result = integrator.step(fraction * STEP, measured)
        measured = result.joint_targets
    return integrator, result


@settings(deadline=None, max_examples=30)
@given(fractions, st.floats(0.05, 2.0))
def test_no_joint_is_faster_than_its_velocity_and_what_was_cut_is_recorded(fraction, velocity):
    limits = replace(LIMITS, joint_velocity=velocity)
    integrator, measured = make(limits), START
    for _ in range(20):
        before = integrator.commanded
        result = integrator.step(fraction * STEP, measured)
        arms = [k for k in range(14) if k not in (6, 13)]
        assert np.abs(result.joint_targets - measured)[arms].max() <= velocity * 0.02 + 1e-9
        np.testing.assert_array_equal(result.clamped, np.abs(result.applied - fraction * STEP) > 1e-9)
        for arm, ((p0, _), (p1, _)) in enumerate(zip(before, integrator.commanded, strict=True)):
            np.testing.assert_allclose(p1 - p0, result.applied[7 * arm : 7 * arm + 3], atol=1e-9)
        measured = result.joint_targets
        for (commanded, _), (at, _) in zip(integrator.commanded, KINEMATICS.forward(measured), strict=True):
            assert np.linalg.norm(commanded - at) < 2e-3, "the commanded pose does not run ahead of the joints"


@pytest.mark.parametrize("velocity", [0.5, 2.0])
def test_too_slow_joints_slow_the_tool_down_and_do_not_turn_it_aside(velocity):
    rng = np.random.default_rng(0)
    cut = 0
    for _ in range(100):
        fraction = rng.uniform(-1, 1, 14)
        result = make(replace(LIMITS, joint_velocity=velocity)).step(fraction * STEP, START)
        for arm in (slice(0, 6), slice(7, 13)):
            if result.clamped[arm].any():
                cut += 1
                wanted, got = fraction[arm], (result.applied / STEP)[arm]
                assert np.linalg.norm(got) > 0.0
                assert wanted @ got > 0.9 * np.linalg.norm(wanted) * np.linalg.norm(got)
    assert cut > 100


def test_each_joint_has_its_own_velocity():
    slow = (0.01, *[10.0] * 6) * 2
    turn = np.zeros(14)
    turn[5] = 0.05  # about the vertical axis, joint 0 takes part in it
    fast = make().step(turn, START).joint_targets - START
    cut = make(replace(LIMITS, joint_velocity=slow)).step(turn, START)
    assert abs(fast[0]) > 0.01 * 0.02
    assert abs(cut.joint_targets[0] - START[0]) <= 0.01 * 0.02 + 1e-12
    assert cut.clamped[:6].any()


def test_a_step_that_comes_early_moves_the_joints_by_less_and_a_late_one_by_no_more():
    turn = np.zeros(14)
    turn[5] = 0.05
    limits = replace(LIMITS, joint_velocity=1.0)
    moved = [
        np.abs(make(limits).step(turn, START, period).joint_targets - START).max()
        for period in (None, 0.02, 0.005, 0.5, -0.1)
    ]
    assert moved[0] == moved[1] == moved[3] == pytest.approx(0.02)
    assert moved[2] <= 0.005 + 1e-12
    assert moved[4] == 0.0


def test_at_the_end_of_a_joint_s_range_the_tool_stays_in_its_box_and_nothing_is_claimed():
    turn = np.zeros(14)
    turn[5] = 1.0
    integrator, result = stuck_at(LIMITS, turn)
    assert np.abs(result.joint_targets[:6]).max() == pytest.approx(1.9)
    assert result.clamped[5]
    (at, _), _ = KINEMATICS.forward(result.joint_targets)
    assert np.abs(at - TIPS[0]).max() <= 0.05 + 1e-9
    back = -turn
    moved = integrator.step(back * STEP, result.joint_targets)
    assert moved.applied[5] == pytest.approx(-0.05, abs=1e-3), "the way back is free"


def test_a_joint_outside_its_range_may_come_back_and_starts_without_a_jump():
    low = list(LIMITS.joint_lower)
    low[1] = -0.3  # START has -0.4
    result = make(replace(LIMITS, joint_lower=tuple(low))).step(np.zeros(14), START)
    np.testing.assert_allclose(result.joint_targets, START, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_joints_hold_the_tool_where_it_is_commanded_out_of_reach_and_at_singularities_too(seed):
    rng = np.random.default_rng(seed)
    box = ((-3.0, -3.0, -3.0), (3.0, 3.0, 3.0))
    integrator = make(replace(LIMITS, workspace=(box, box)))
    q = rng.uniform(KINEMATICS.lower, KINEMATICS.upper)
    integrator.reset(q)
    for way in rng.choice((-1.0, 0.0, 1.0), size=(8, 14)):
        for _ in range(15):
            q = integrator.step(way * STEP, q).joint_targets
            for (position, rotation), (at, facing) in zip(integrator.commanded, KINEMATICS.forward(q), strict=True):
                assert np.linalg.norm(position - at) <= MISS_M + 1e-9
                assert np.linalg.norm(rotation_vector(rotation @ facing.T)) <= MISS_RAD + 1e-9


def test_a_tool_frame_action_follows_the_tool():
    integrator = make()
    action = np.zeros(14)
    action[7:10], action[10:13], action[13] = (0.003, 0.0, 0.001), (0.0, 0.02, 0.0), 0.002
    _, (_, facing) = integrator.commanded
    turned = integrator.in_world(action)
    np.testing.assert_allclose(turned[7:10], facing @ action[7:10])
    np.testing.assert_allclose(turned[10:13], facing @ action[10:13])
    assert turned[13] == 0.002
    assert not turned[:7].any()
    _, (before, _) = integrator.commanded
    integrator.step(turned, START)
    _, (after, new_facing) = integrator.commanded
    np.testing.assert_allclose(facing.T @ (after - before), action[7:10], atol=1e-9)
    np.testing.assert_allclose(rotation_vector(facing.T @ new_facing), action[10:13], atol=1e-6)


def corners(position, rotation, tool):
    return np.array([position + rotation @ corner for corner in product(*zip(*tool, strict=True))])


@settings(deadline=None, max_examples=30)
@given(fractions)
def test_what_the_tool_holds_stays_in_the_box_too(fraction):
    tool = ((-0.01, -0.02, 0.0), (0.03, 0.02, 0.02))
    integrator, measured = make(replace(LIMITS, tools=(tool, tool))), START
    for _ in range(60):
        measured = integrator.step(fraction * STEP, measured).joint_targets
        for (position, rotation), tip in zip(integrator.commanded, TIPS, strict=True):
            assert np.abs(corners(position, rotation, tool) - tip).max() <= 0.05 + 1e-8


def sagging(integrator, q, metres):
    """Joints of arms whose tools hang `metres` below the joints q."""
    poses = [(position - [0.0, 0.0, metres], rotation) for position, rotation in KINEMATICS.forward(q)]
    return KINEMATICS.inverse(q, poses, 30)


def test_an_action_from_the_measured_pose_starts_there_and_the_gripper_from_where_it_was_commanded():
    integrator = make(from_measured=True)
    integrator.follow(np.array([0.0] * 6 + [0.003] + [0.0] * 7), START)
    measured = sagging(integrator, START, 0.004)
    action = np.array([0.001, 0.002, -0.001, 0.0, 0.01, 0.0, 0.002] * 2)
    result = integrator.step(action, measured)
    np.testing.assert_allclose(result.applied, action, atol=1e-9)
    assert not result.clamped.any()
    for (position, rotation), (at, facing) in zip(integrator.commanded, KINEMATICS.forward(measured), strict=True):
        np.testing.assert_allclose(position - at, action[:3], atol=1e-9)
        np.testing.assert_allclose(rotation_vector(rotation @ facing.T), action[3:6], atol=1e-7)
    np.testing.assert_allclose(result.joint_targets[[6, 13]], START[[6, 13]] + [0.005, 0.002])


@pytest.mark.parametrize("from_measured", [False, True])
def test_a_hold_does_not_sink_however_the_arms_sag(from_measured):
    integrator = make(from_measured=from_measured)
    for _ in range(100):
        result = integrator.follow(np.zeros(14), sagging(integrator, START, 0.012))
    np.testing.assert_allclose(result.joint_targets, START, atol=1e-6)
    up = 0.012 if from_measured else 0.0  # what was done, said as an action of the robot
    np.testing.assert_allclose(result.applied, ([0.0, 0.0, up] + [0.0] * 4) * 2, atol=1e-6)
    np.testing.assert_allclose(result.requested, result.applied, atol=1e-6)
    assert not result.clamped.any()


def test_a_human_moves_the_commanded_pose_where_actions_start_from_the_measured_one_too():
    integrator, twin = make(from_measured=True), make()
    change = np.array([0.002, 0.0, -0.001, 0.0, 0.01, 0.0, 0.001] * 2)
    for _ in range(5):
        measured = sagging(integrator, integrator._targets, 0.003)
        result, plain = integrator.follow(change, measured), twin.step(change, measured)
    np.testing.assert_array_equal(result.joint_targets, plain.joint_targets)
    np.testing.assert_allclose(result.applied - plain.applied, ([0.0, 0.0, 0.003] + [0.0] * 4) * 2, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(fractions, st.floats(-0.01, 0.01))
def test_from_the_measured_pose_every_limit_holds(fraction, sag):
    integrator, measured, before = make(from_measured=True), START, START
    for k in range(30):
        result = integrator.step(fraction * STEP, measured) if k % 5 else integrator.follow(np.zeros(14), measured)
        assert np.abs(result.joint_targets - before)[np.arange(14) % 7 < 6].max() <= JOINT_STEP + 1e-9
        before = result.joint_targets
        at = KINEMATICS.forward(measured)
        for (position, _), (tip, _), home in zip(integrator.commanded, at, TIPS, strict=True):
            assert np.abs(position - home).max() <= 0.05 + 1e-8, "however far the arm overshoots"
            assert np.abs(position - tip).max() <= LIMITS.leash_position + 1e-8
        measured = sagging(integrator, before, sag)


def test_slow_joints_come_back_to_a_measured_pose_that_is_further_away_than_a_step():
    slow = replace(LIMITS, joint_velocity=0.05)
    integrator = make(slow, from_measured=True)
    measured = sagging(integrator, START, 0.012)
    for _ in range(200):
        result = integrator.step(np.zeros(14), measured)
    np.testing.assert_allclose(result.joint_targets[np.arange(14) % 7 < 6], measured[np.arange(14) % 7 < 6], atol=1e-3)
