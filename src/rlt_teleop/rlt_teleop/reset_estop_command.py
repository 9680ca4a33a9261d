"""Release the latched emergency stop: `ros2 run rlt_teleop reset_estop`, for who has no `ros2 service call` at hand.

It does not move anything: the stopped episode is over, and a new one has to be begun. Look at the robot first.
"""

from __future__ import annotations

import sys

import rclpy
from rclpy.utilities import remove_ros_args

from rlt_common import topics
from rlt_msgs.srv import ResetEstop

TIMEOUT_S = 5.0


def main() -> None:
    """Entry point. Ends with status 1 and a reason when the stop was not released."""
    if unknown := remove_ros_args(sys.argv)[1:]:
        sys.exit(f"reset_estop: {unknown[0]!r}: it takes no arguments but --ros-args")
    rclpy.init()
    node = rclpy.create_node("reset_estop_command")
    try:
        client = node.create_client(ResetEstop, topics.SERVICE_RESET_ESTOP)
        if not client.wait_for_service(TIMEOUT_S):
            sys.exit(f"reset_estop: no service {client.srv_name}: is the chunk executor running in this namespace?")
        future = client.call_async(ResetEstop.Request())
        rclpy.spin_until_future_complete(node, future, timeout_sec=TIMEOUT_S)
        if not future.done():
            sys.exit(f"reset_estop: {client.srv_name} did not answer within {TIMEOUT_S:g} s")
        answer = future.result()
        if not answer.reset:
            sys.exit(f"reset_estop: {answer.message}")
        print(answer.message)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
