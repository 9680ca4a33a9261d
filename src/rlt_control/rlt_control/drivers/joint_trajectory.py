"""trajectory_msgs/JointTrajectory: ros2_control's joint_trajectory_controller, one point per control step.

Positions only, which the controller takes as linear motion. The stamp is 0, "now": clocks need not agree. A new
trajectory takes the place of the one before it, so the point lies a little later than the next command will come.
"""

from __future__ import annotations

from builtin_interfaces.msg import Duration
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rlt_common.codecs import doubles
from rlt_common.config import RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_control.drivers.encoder import Command, JointUnits


class Trajectory:
    """One point, reached after `point_time_s`."""

    message_type = JointTrajectory
    speed = False

    def __init__(self, robot: RobotConfig, driver: DriverConfig, units: JointUnits) -> None:
        self.topic = driver.topic
        self._units = units
        self._ahead_ns = round((driver.point_time_s or 2.0 * robot.period_s) * 1e9)

    def encode(self, command: Command) -> JointTrajectory:
        """See Encoder."""
        sec, nanosec = divmod(self._ahead_ns, 1_000_000_000)
        point = JointTrajectoryPoint(
            positions=doubles(self._units.of(command.target)), time_from_start=Duration(sec=sec, nanosec=nanosec)
        )
        return JointTrajectory(joint_names=list(self._units.names), points=[point])
