"""Recorded motions against a robot file's limits: judged by the executor's own code, and the limit named."""

from dataclasses import replace

import numpy as np
import pytest
from executor_rig import HOME, ROBOT

from rlt_common.kinematics import build_kinematics
from rlt_control.arms import build_integrator
from rlt_control.limit_check import JOINT_RANGE, LimitCheck, gaps

DIM = 14
X, Y, Z = build_kinematics(ROBOT).forward(HOME)[1][0]
"""Where the right tool is."""


def action(**components):
    """x, y, z, turn, grip of the right arm."""
    values = np.zeros(DIM)
    for name, value in components.items():
        values[7 + ["x", "y", "z", "rx", "ry", "rz", "grip"].index(name)] = value
    return values


def limits(**changes):
    return replace(ROBOT, limits=replace(ROBOT.limits, **changes))


def right(**changes):
    left, arm = ROBOT.arms
    return replace(ROBOT, arms=(left, replace(arm, **changes)))


def verdict(robot, wanted, commanded=HOME, measured=HOME):
    return LimitCheck(robot).step(wanted, commanded, measured)


@pytest.mark.parametrize("actions", ["tool_pose", "joints"])
@pytest.mark.parametrize("relative_to", ["commanded", "measured"])
def test_every_step_of_a_motion_is_judged_as_the_executor_did(actions, relative_to):
    """A walk that meets step, leash and workspace; the arms lag behind."""
    robot = replace(right(workspace_max=(X + 0.01, Y + 0.01, Z + 0.01)), actions=actions, relative_to=relative_to)
    integrator, check = build_integrator(robot), LimitCheck(robot)
    rng = np.random.default_rng(0)
    commanded, measured = HOME.copy(), HOME.copy()
    integrator.reset(HOME)
    drift = rng.normal(0, 0.004, DIM)
    clamped = 0
    for _ in range(60):
        wanted = drift + rng.normal(0, 0.003, DIM)
        result = integrator.step(wanted, measured)
        found = check.step(wanted, commanded, measured)
        np.testing.assert_allclose(found.applied, result.applied, atol=2e-4)
        assert bool(found.limits) == bool(found.clamped.any())
        sure = np.abs(np.abs(result.applied - result.requested) - 1e-9) > 2e-4
        np.testing.assert_array_equal(found.clamped[sure], result.clamped[sure])
        clamped += bool(result.clamped.any())
        commanded = result.joint_targets
        measured = measured + 0.3 * (commanded - measured)
    assert clamped > 10


def test_a_step_within_all_limits_is_left_alone():
    found = verdict(ROBOT, action(x=0.002, rz=0.01))
    assert (found.held, dict(found.limits), found.stopped) == ("", {}, False)
    np.testing.assert_allclose(found.applied, action(x=0.002, rz=0.01), atol=1e-12)


@pytest.mark.parametrize(
    ("robot", "name", "by"),
    [
        (limits(step_translation=0.001), "step", 0.003),
        (limits(step_rotation=0.01), "step", 0.02),
        (limits(leash_translation=0.0015), "leash", 0.0025),
        (right(workspace_max=(X + 0.001, 0.1, 0.22)), "workspace", 0.003),
        (limits(joint_velocity=0.02), "joint velocity", None),
        (replace(ROBOT, joint_limits={"right_waist": (-0.001, 0.001)}), JOINT_RANGE, None),
    ],
)
def test_the_limit_that_cuts_a_step_short_is_named_with_how_much_it_takes(robot, name, by):
    found = verdict(robot, action(x=0.004, y=0.004, rz=0.03))
    assert list(found.limits) == [name]
    assert found.clamped.any()
    if by is not None:
        assert found.limits[name] == pytest.approx(by, abs=3e-4)


def test_two_limits_are_named_both():
    robot = replace(limits(step_translation=0.003), arms=right(workspace_max=(X + 0.001, 0.1, 0.22)).arms)
    assert set(verdict(robot, action(x=0.004)).limits) == {"step", "workspace"}


def test_a_tool_at_the_wall_is_stopped_and_one_that_turns_back_is_not():
    robot = right(workspace_max=(X + 0.002, 0.1, 0.22))
    at_the_wall = LimitCheck(robot).chunk(np.tile(action(x=0.004), (2, 1)), HOME)
    assert [v.stopped for v in at_the_wall] == [False, True]
    assert not verdict(robot, action(x=-0.004)).limits


def test_joints_where_no_arm_can_be_hold():
    measured = HOME.copy()
    measured[0] = 9.0
    found = verdict(ROBOT, action(x=0.001), measured=measured)
    assert "joint left_waist is measured at 9" in found.held
    assert found.stopped


def test_a_chunk_is_followed_row_by_row():
    """Ten rows of 4 mm: the wall is 20 mm away."""
    robot = right(workspace_max=(X + 0.0201, 0.1, 0.22))
    found = LimitCheck(robot).chunk(np.tile(action(x=0.004), (10, 1)), HOME)
    assert ["workspace" in v.limits for v in found] == [False] * 5 + [True] * 5


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="action has shape"):
        verdict(ROBOT, np.zeros(7))
    with pytest.raises(ValueError, match="not finite"):
        verdict(ROBOT, np.full(DIM, np.nan))


def test_gaps_between_steps_longer_than_the_time_out():
    assert gaps([0, 20_000_000, 220_000_000, 240_000_000], 0.1) == [(2, 0.2)]
    assert gaps([0], 0.1) == []
