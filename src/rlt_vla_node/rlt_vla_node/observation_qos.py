"""QoS of the observation topic: reliable, and kept for those who come late.

In lockstep the robot waits for the chunk of an observation that is already out. A VLA node that was restarted
meanwhile must find it, or the run would never go on.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

QOS_OBSERVATION = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=200,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
