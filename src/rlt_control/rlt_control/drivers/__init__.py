"""How each kind of arm driver is commanded: one small encoder per kind, chosen by `drivers` of the robot file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlt_common.config import RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_common.kinematics import build_kinematics
from rlt_control.drivers.encoder import Encoder, JointUnits
from rlt_control.drivers.interbotix import InterbotixGroup, InterbotixSingle
from rlt_control.drivers.joint_positions import JointPositions
from rlt_control.drivers.joint_state import JointStates
from rlt_control.drivers.joint_trajectory import Trajectory
from rlt_control.drivers.tool import ToolFrame, ToolPose, ToolTwist

JOINT_ENCODERS: Mapping[str, Callable[[RobotConfig, DriverConfig, JointUnits], Encoder]] = {
    "joint_positions": JointPositions,
    "joint_trajectory": Trajectory,
    "joint_state": JointStates,
    "interbotix_group": InterbotixGroup,
    "interbotix_single": InterbotixSingle,
}
TOOL_ENCODERS: Mapping[str, Callable[[RobotConfig, DriverConfig, ToolFrame], Encoder]] = {
    "tool_pose": ToolPose,
    "tool_twist": ToolTwist,
}


def build_encoders(robot: RobotConfig) -> list[Encoder]:
    """One encoder per driver of the robot file, in its order.

    Raises ParameterError for a driver whose message package is not installed, and ValueError for a frame that the
    kinematics model does not have.
    """
    kinematics = build_kinematics(robot)
    encoders: list[Encoder] = []
    for driver in robot.drivers:
        if driver.type in TOOL_ENCODERS:
            frame = ToolFrame(robot, driver, kinematics)
            encoders.append(TOOL_ENCODERS[driver.type](robot, driver, frame))
        else:
            units = JointUnits(robot, driver)
            encoders.append(JOINT_ENCODERS[driver.type](robot, driver, units))
    return encoders
