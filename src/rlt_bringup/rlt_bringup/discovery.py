"""Who on the network may find the graph: this machine alone, unless the caller says otherwise."""

from __future__ import annotations

import os

VARIABLE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def stay_on_this_machine() -> None:
    """Set the discovery range of this process and its children to LOCALHOST where nobody has chosen one.

    ROS 2 itself would take SUBNET: anybody on the network could then command the robot. Call it before rclpy.init.
    """
    os.environ.setdefault(VARIABLE, "LOCALHOST")
