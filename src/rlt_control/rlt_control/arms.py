"""Builds the motion limits and the integrator of a robot from its configuration."""

from __future__ import annotations

import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.kinematics import ArmKinematics, build_kinematics
from rlt_common.parameters import ParameterError
from rlt_control.delta_joints import DeltaJointIntegrator
from rlt_control.delta_pose import DeltaPoseIntegrator, MotionLimits


def motion_limits(robot: RobotConfig, kinematics: ArmKinematics) -> MotionLimits:
    """Motion limits of the robot file: its joint_limits narrow the ranges of its kinematics model.

    Raises ParameterError for a joint that they leave no range.
    """
    limits = robot.limits
    lower, upper = kinematics.lower.copy(), kinematics.upper.copy()
    for joint, (low, high) in robot.joint_limits.items():
        index = robot.joint_names.index(joint)
        lower[index], upper[index] = max(lower[index], low), min(upper[index], high)
        if lower[index] >= upper[index]:
            raise ParameterError(
                f"robot {robot.name}: joint_limits: {joint}: {low} to {high} has nothing in common with the model's "
                f"{kinematics.lower[index]:g} to {kinematics.upper[index]:g}"
            )
    own = robot.joint_velocity_limits
    tools = tuple((tuple(arm.tool_min), tuple(arm.tool_max)) for arm in robot.arms)
    return MotionLimits(
        workspace=tuple((tuple(arm.workspace_min), tuple(arm.workspace_max)) for arm in robot.arms),
        joint_lower=tuple(lower),
        joint_upper=tuple(upper),
        step_position=limits.step_translation,
        step_rotation=limits.step_rotation,
        step_gripper=limits.step_gripper,
        step_joint=limits.step_joint,
        leash_position=limits.leash_translation,
        leash_rotation=limits.leash_rotation,
        joint_velocity=tuple(own.get(joint, limits.joint_velocity) for joint in robot.joint_names)
        if own
        else limits.joint_velocity,
        period_s=robot.period_s,
        tools=tools if np.any(tools) else (),
    )


def integrator_of(robot: RobotConfig, kinematics: ArmKinematics, limits: MotionLimits) -> DeltaPoseIntegrator:
    """The integrator for the robot's kind of actions, within `limits`."""
    grippers = tuple(arm.gripper for arm in robot.arms)
    integrator = DeltaJointIntegrator if robot.actions == "joints" else DeltaPoseIntegrator
    return integrator(kinematics, grippers, limits, from_measured=robot.relative_to == "measured")


def build_integrator(robot: RobotConfig) -> DeltaPoseIntegrator:
    """The integrator that turns actions into joint targets for this robot."""
    kinematics = build_kinematics(robot)
    return integrator_of(robot, kinematics, motion_limits(robot, kinematics))
