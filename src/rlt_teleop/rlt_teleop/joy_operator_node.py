"""Joystick node: what a person does with a device becomes the operator's decisions and motion commands.

Subscribes  the mapping's joy_topic (sensor_msgs/Joy); with `motion: twist` its topic (geometry_msgs/Twist); with
            `motion: leader` the leaders' topics (sensor_msgs/JointState) and executed_action (rlt_msgs/ExecutedAction:
            where the arms were told to be)
Publishes   operator_event (rlt_msgs/OperatorEvent: once per press), teleop_command (rlt_msgs/TeleopCommand: at control
            rate of wall time while the enable button is held, then once with enabled false), /diagnostics

A pad that was there and says nothing any more is an error in diagnostics, in control or not: its emergency stop is
gone.
A pad, twist or leader that goes silent while it is in control: enabled is published as false, control is not given
back, the executor holds, diagnostics say so. The gamepad node of this package stops when the pad is unplugged; where
another reader repeats the last state of a pad that is gone (joy's autorepeat), motion ends after `unchanged_s`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

from geometry_msgs.msg import Twist
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy

from rlt_common import topics
from rlt_common.codecs import floats
from rlt_common.config import load_robot
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import ExecutedAction, OperatorEvent, TeleopCommand
from rlt_teleop.joy_mapping import load_mapping
from rlt_teleop.joy_operator import JoyError, JoyOperator
from rlt_teleop.leader_motion import LeaderMotion
from rlt_teleop.motion import MotionError, TwistMotion
from rlt_teleop.operator_actions import BUTTON

START_READER = {
    "gamepad": "is it plugged in, and joy_node or gamepad running?",
    "keyboard": "start it in a terminal of its own: ros2 run rlt_teleop keyboard",
    "spacenav": "is it plugged in, and are spacenavd and spacenav_node running?",
    "none": "start what publishes it",
}
"""What to do when the mapping's reader says nothing."""
REPEATING = ("gamepad", "keyboard")
"""Readers that repeat the state: their silence means that the device is gone. The others speak on a change alone."""


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the joystick node."""

    robot: str = param(description="path of the robot file")
    mapping: str = param(description="path of the joystick mapping, e.g. config/joy/xbox.yaml")
    silence_s: float = param(
        0.25,
        "s without a Joy message before a pad that is in control counts as silent; readers repeat every 0.05 s",
        minimum=0.1,
        maximum=10.0,
    )

    def __post_init__(self) -> None:
        validate(self)


class JoyOperatorNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("joy_operator")
        parameters = declare(self, NodeParameters)
        reject_unknown(self)
        robot = load_robot(parameters.robot)
        self._mapping = load_mapping(parameters.mapping)
        self._operator = JoyOperator(self._mapping, robot, parameters.silence_s)
        self._frame = robot.frame
        self._stamp = self.get_clock().now().to_msg()
        self._events = 0
        self._error = self._motion_error = self._holding = ""
        self._health = Health(self, self._mapping.device)
        self._event_publisher = self.create_publisher(OperatorEvent, topics.OPERATOR_EVENT, topics.QOS_EVENT)
        self._command_publisher = self.create_publisher(TeleopCommand, topics.TELEOP_COMMAND, topics.QOS_CONTROL)
        self.create_subscription(Joy, self._mapping.joy_topic, self._on_joy, topics.QOS_EVENT)
        self._subscribe_motion()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._motion = self.create_timer(robot.period_s, self._publish_command, clock=steady, autostart=False)
        self.create_timer(1.0, self._show_health, clock=steady)

    def _subscribe_motion(self) -> None:
        motion, mapping = self._operator.motion, self._mapping
        if isinstance(motion, TwistMotion):
            self.create_subscription(Twist, mapping.twist.topic, self._on_twist, topics.QOS_SENSOR)
        elif isinstance(motion, LeaderMotion):
            self.create_subscription(ExecutedAction, topics.EXECUTED_ACTION, self._on_executed, topics.QOS_STREAM)
            for name, leader in mapping.leader.arms.items():
                accept = functools.partial(self._on_leader, name)
                self.create_subscription(JointState, leader.topic, accept, topics.QOS_SENSOR)

    def _on_twist(self, message: Twist) -> None:
        linear, angular = message.linear, message.angular
        values = (linear.x, linear.y, linear.z, angular.x, angular.y, angular.z)
        self._take(self._operator.motion.accept, values)

    def _on_leader(self, arm: str, message: JointState) -> None:
        self._take(self._operator.motion.accept, arm, message.name, message.position)

    def _on_executed(self, message: ExecutedAction) -> None:
        self._take(self._operator.motion.executed, message.joint_names, message.joint_target)

    def _take(self, accept: Callable[..., None], *values: object) -> None:
        """Hand a message to the motion source; what it refuses is shown."""
        try:
            accept(*values, time.monotonic())
            self._motion_error = ""
        except MotionError as error:
            self._motion_error = str(error)
            self.get_logger().error(self._motion_error, throttle_duration_sec=5.0)
            self._show_health()

    def _on_joy(self, message: Joy) -> None:
        try:
            events = self._operator.accept(message.axes, message.buttons, time.monotonic())
        except JoyError as error:
            self._error = str(error)
            self._show_health()
            return
        self._error = ""
        self._stamp = message.header.stamp
        for event in events:
            out = OperatorEvent(event=event, source=self._mapping.device)
            out.header.stamp = self._stamp
            self._event_publisher.publish(out)
            self._events += 1
        if OperatorEvent.EVENT_INTERVENE_START in events:
            self._motion.reset()
        if OperatorEvent.EVENT_INTERVENE_STOP in events:
            self._motion.cancel()
        if events:
            self._publish_command()

    def _publish_command(self) -> None:
        command = self._operator.command(time.monotonic())
        message = TeleopCommand(
            enabled=command.enabled,
            device=self._mapping.device,
            frame=command.frame,
            repositioning=command.repositioning,
            action=floats(command.action),
        )
        message.header.stamp = self._stamp
        message.header.frame_id = self._frame if command.frame == TeleopCommand.FRAME_WORLD else ""
        self._command_publisher.publish(message)
        if command.reason != self._holding:
            self._holding = command.reason
            self._show_health()

    def _show_health(self) -> None:
        operator = self._operator
        if self._error or self._motion_error:
            level, text = ERROR, self._error or self._motion_error
        elif operator.intervening and self._holding:
            level, text = ERROR, f"in control, but the arms hold: {self._holding}"
        elif self._mapping.reader in REPEATING and operator.gone(time.monotonic()):
            text = (
                f"{self._mapping.joy_topic} is silent: no button of it works, the emergency stop neither: "
                f"{START_READER[self._mapping.reader]}"
            )
            level = ERROR
        elif not operator.heard:
            level, text = WARN, f"no message on {self._mapping.joy_topic} yet: {START_READER[self._mapping.reader]}"
        else:
            level, text = OK, "in control" if operator.intervening else "watching"
        self._health.set(
            level,
            text,
            arm=operator.arm,
            events=self._events,
            refused=operator.refused,
            **{BUTTON + name: written for name, written in self._mapping.names.items()},
        )


def main() -> None:
    """Entry point of `ros2 run rlt_teleop joy_operator`."""
    run_node("joy_operator", JoyOperatorNode)
