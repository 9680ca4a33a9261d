"""The integrator's limits hold for every input, and bad input changes nothing."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlt_common.kinematics import ArmChain, ArmKinematics
from rlt_common.rotations import rotation_vector
from rlt_control.delta_pose import DeltaPoseIntegrator, MotionLimits

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

actions = st.lists(st.floats(-0.2, 0.2), min_size=14, max_size=14).map(np.array)
fractions = st.lists(st.floats(-1.0, 1.0), min_size=14, max_size=14).map(np.array)


def make(limits: MotionLimits = LIMITS) -> DeltaPoseIntegrator:
    integrator = DeltaPoseIntegrator(KINEMATICS, ("a_g", "b_g"), limits)
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
    integrator = make()
    before = integrator.commanded
    result = integrator.step(action, START)
    np.testing.assert_allclose(result.applied, action, atol=1e-9)
    assert not result.clamped.any()
    for arm, ((p0, r0), (p1, r1)) in enumerate(zip(before, integrator.commanded, strict=True)):
        np.testing.assert_allclose(p1 - p0, action[7 * arm : 7 * arm + 3], atol=1e-9)
        np.testing.assert_allclose(rotation_vector(r1 @ r0.T), action[7 * arm + 3 : 7 * arm + 6], atol=1e-7)
    # Where no joint needs more than its largest step the pose is reached at once, else by the next step.
    at_once = np.abs(result.joint_targets - START).max() < LIMITS.joint_step - 1e-9
    targets = result.joint_targets if at_once else integrator.step(np.zeros(14), START).joint_targets
    for (wanted, _), (at, _) in zip(integrator.commanded, KINEMATICS.forward(targets), strict=True):
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
        assert np.abs(result.joint_targets - previous).max() <= LIMITS.joint_step + 1e-9
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
