"""Health of a node on /diagnostics, at 1 Hz of wall time, whatever the simulated clock does."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from rlt_common import topics

OK = DiagnosticStatus.OK
WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR


class Health:
    """One DiagnosticStatus per node: level, message and named values; published at 1 Hz and when the level changes."""

    def __init__(self, node: Node, hardware_id: str = "") -> None:
        self._node = node
        self._status = DiagnosticStatus(
            level=OK,
            name=node.get_fully_qualified_name().lstrip("/"),
            message="starting",
            hardware_id=hardware_id,
        )
        self._publisher = node.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, topics.QOS_CONTROL)
        self._timer = node.create_timer(1.0, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def set(self, level: bytes, message: str, **values: object) -> None:
        """Set the level and the message; `values` replace the named values shown beside it."""
        changed = level != self._status.level
        self._status.level = level
        self._status.message = message
        self._status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        if changed:
            self.publish()

    def publish(self) -> None:
        """Send the current status now."""
        array = DiagnosticArray(status=[self._status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
