"""Joystick node: a gamepad's states become the operator's decisions and motion commands.

Subscribes  joy (sensor_msgs/Joy)
Publishes   operator_event (rlt_msgs/OperatorEvent: once per press), teleop_command (rlt_msgs/TeleopCommand: at control
            rate of wall time while the enable button is held, then once with enabled false), /diagnostics

A pad that goes silent while it is in control: enabled is published as false, control is not given back, the executor
holds, diagnostics say so. joy's autorepeat repeats the last state of a pad that is gone, for ever: with it unplugging
cannot be seen here. The gamepad node of this package stops instead.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Joy

from rlt_common import topics
from rlt_common.codecs import floats
from rlt_common.config import load_robot
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import OperatorEvent, TeleopCommand
from rlt_teleop.joy_mapping import load_mapping
from rlt_teleop.joy_operator import JoyError, JoyOperator


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the joystick node."""

    robot: str = param(description="path of the robot file")
    mapping: str = param(description="path of the joystick mapping, e.g. config/joy/xbox.yaml")
    silence_s: float = param(
        0.5,
        "s without a Joy message before a pad that is in control counts as silent; joy repeats every 0.05 s",
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
        arms = [arm.name for arm in robot.arms]
        self._operator = JoyOperator(self._mapping, arms, robot.control_hz, parameters.silence_s)
        self._frame = robot.frame
        self._stamp = self.get_clock().now().to_msg()
        self._events = 0
        self._error = ""
        self._health = Health(self, self._mapping.device)
        self._event_publisher = self.create_publisher(OperatorEvent, topics.OPERATOR_EVENT, topics.QOS_EVENT)
        self._command_publisher = self.create_publisher(TeleopCommand, topics.TELEOP_COMMAND, topics.QOS_CONTROL)
        self.create_subscription(Joy, topics.JOY, self._on_joy, topics.QOS_EVENT)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._motion = self.create_timer(robot.period_s, self._publish_command, clock=steady, autostart=False)
        self.create_timer(1.0, self._show_health, clock=steady)

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
        message = TeleopCommand(enabled=command.enabled, device=self._mapping.device, action=floats(command.action))
        message.header.stamp = self._stamp
        message.header.frame_id = self._frame
        self._command_publisher.publish(message)

    def _show_health(self) -> None:
        operator = self._operator
        silent = operator.silent(time.monotonic())
        if self._error:
            level, text = ERROR, self._error
        elif operator.intervening and silent:
            level, text = (
                ERROR,
                "the pad went silent while in control: the arms hold; press and let go the enable button",
            )
        elif not operator.heard:
            level, text = WARN, "no message from the pad yet: is it plugged in, and joy_node or gamepad running?"
        else:
            level, text = OK, "in control" if operator.intervening else "watching"
        self._health.set(level, text, arm=operator.arm, events=self._events, refused=operator.refused)


def main() -> None:
    """Entry point of `ros2 run rlt_teleop joy_operator`."""
    run_node("joy_operator", JoyOperatorNode)
