"""sensor_msgs/JointState as a command: crisp_controllers' `target_joint`."""

from __future__ import annotations

from sensor_msgs.msg import JointState

from rlt_common.codecs import doubles, to_time
from rlt_common.config import RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_control.drivers.encoder import Command, JointUnits


class JointStates:
    """Names and positions."""

    message_type = JointState
    speed = False

    def __init__(self, _: RobotConfig, driver: DriverConfig, units: JointUnits) -> None:
        self.topic = driver.topic
        self._units = units

    def encode(self, command: Command) -> JointState:
        """See Encoder."""
        message = JointState(name=list(self._units.names), position=doubles(self._units.of(command.target)))
        message.header.stamp = to_time(command.stamp_ns)
        return message
