"""The robot file's limits as the integrator keeps them."""

from dataclasses import replace

import numpy as np
import pytest
from executor_rig import HOME, ROBOT

from rlt_common.kinematics import build_kinematics
from rlt_common.parameters import ParameterError
from rlt_control.arms import build_integrator, motion_limits

KINEMATICS = build_kinematics(ROBOT)
WAIST = ROBOT.joint_names.index("right_waist")


def test_without_limits_of_their_own_joints_have_the_model_s_range_and_a_fifth_of_a_radian_per_step():
    limits = motion_limits(ROBOT, KINEMATICS)
    np.testing.assert_array_equal(limits.joint_lower, KINEMATICS.lower)
    np.testing.assert_array_equal(limits.joint_upper, KINEMATICS.upper)
    assert limits.joint_velocity * limits.period_s == 0.2


def test_joint_limits_narrow_and_never_widen():
    robot = replace(ROBOT, joint_limits={"right_waist": (-0.1, 99.0)}, joint_velocity_limits={"right_waist": 0.5})
    limits = motion_limits(robot, KINEMATICS)
    assert (limits.joint_lower[WAIST], limits.joint_upper[WAIST]) == (-0.1, KINEMATICS.upper[WAIST])
    assert limits.joint_velocity[WAIST] == 0.5
    assert limits.joint_velocity[0] == 10.0


def test_a_range_that_has_nothing_in_common_with_the_model_s_is_an_error():
    robot = replace(ROBOT, joint_limits={"right_waist": (50.0, 60.0)})
    with pytest.raises(ParameterError, match=r"right_waist: 50\.0 to 60\.0 has nothing in common with the model's"):
        build_integrator(robot)


def test_a_narrowed_joint_stops_at_its_end_and_the_record_says_so():
    integrator = build_integrator(replace(ROBOT, joint_limits={"right_waist": (-0.02, 0.02)}))
    q = HOME.copy()
    integrator.reset(q)
    action = np.zeros(14)
    action[8] = 0.004  # sideways: the waist turns
    clamped = []
    for _ in range(10):
        result = integrator.step(action, q)
        q = result.joint_targets
        assert abs(q[WAIST]) <= 0.02 + 1e-12
        clamped.append(result.clamped[7:].any())
        np.testing.assert_allclose(integrator.commanded[1][0], KINEMATICS.forward(q)[1][0], atol=1e-3)
    assert abs(q[WAIST]) > 0.015
    assert not clamped[0]
    assert clamped[-1]


def test_what_an_arm_holds_is_handed_on():
    arms = (replace(ROBOT.arms[0], tool_max=(0.1, 0.0, 0.0)), ROBOT.arms[1])
    limits = motion_limits(replace(ROBOT, arms=arms), KINEMATICS)
    assert limits.tools == (((0.0,) * 3, (0.1, 0.0, 0.0)), ((0.0,) * 3,) * 2)
