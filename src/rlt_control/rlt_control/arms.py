"""Builds the motion limits and the delta-pose integrator of a robot from its configuration."""

from __future__ import annotations

from rlt_common.config import RobotConfig
from rlt_common.kinematics import ArmKinematics, build_kinematics
from rlt_control.delta_pose import DeltaPoseIntegrator, MotionLimits


def motion_limits(robot: RobotConfig, kinematics: ArmKinematics) -> MotionLimits:
    """Motion limits of the robot file, with the joint ranges of its kinematics model."""
    limits = robot.limits
    return MotionLimits(
        workspace=tuple((tuple(arm.workspace_min), tuple(arm.workspace_max)) for arm in robot.arms),
        joint_lower=tuple(kinematics.lower),
        joint_upper=tuple(kinematics.upper),
        step_position=limits.step_translation,
        step_rotation=limits.step_rotation,
        step_gripper=limits.step_gripper,
        leash_position=limits.leash_translation,
        leash_rotation=limits.leash_rotation,
    )


def build_integrator(robot: RobotConfig) -> DeltaPoseIntegrator:
    """The integrator that turns actions into joint targets for this robot."""
    kinematics = build_kinematics(robot)
    grippers = tuple(arm.gripper for arm in robot.arms)
    return DeltaPoseIntegrator(kinematics, grippers, motion_limits(robot, kinematics))
