"""std_msgs/Float64MultiArray: ros2_control's forward_command_controller, as UR and others run it; the simulator."""

from __future__ import annotations

from std_msgs.msg import Float64MultiArray

from rlt_common.codecs import command_message
from rlt_common.config import RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_control.drivers.encoder import Command, JointUnits


class JointPositions:
    """Positions in the controller's order of joints; it holds the last ones."""

    message_type = Float64MultiArray
    speed = False

    def __init__(self, _: RobotConfig, driver: DriverConfig, units: JointUnits) -> None:
        self.topic = driver.topic
        self._units = units

    def encode(self, command: Command) -> Float64MultiArray:
        """See Encoder."""
        return command_message(self._units.of(command.target), command.stamp_ns)
