"""interbotix_xs_msgs: the xs_sdk of the ViperX and WidowX arms, as ALOHA runs them.

The SDK checks neither limits nor time-outs and holds the last command. Grippers are commanded in the motor's rad.
"""

from __future__ import annotations

from typing import Any

from rlt_common.codecs import floats
from rlt_common.config import RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_control.drivers.encoder import Command, JointUnits, optional_message

PACKAGE = "interbotix_xs_msgs"


class InterbotixGroup:
    """JointGroupCommand: all joints of a group."""

    speed = False

    def __init__(self, robot: RobotConfig, driver: DriverConfig, units: JointUnits) -> None:
        self.message_type = optional_message(PACKAGE, "JointGroupCommand", robot, driver)
        self.topic = driver.topic
        self._group, self._units = driver.group, units

    def encode(self, command: Command) -> Any:
        """See Encoder."""
        return self.message_type(name=self._group, cmd=floats(self._units.of(command.target)))


class InterbotixSingle:
    """JointSingleCommand: one joint, the gripper's."""

    speed = False

    def __init__(self, robot: RobotConfig, driver: DriverConfig, units: JointUnits) -> None:
        self.message_type = optional_message(PACKAGE, "JointSingleCommand", robot, driver)
        self.topic = driver.topic
        self._group, self._units = driver.group, units

    def encode(self, command: Command) -> Any:
        """See Encoder."""
        return self.message_type(name=self._group, cmd=float(self._units.of(command.target)[0]))
