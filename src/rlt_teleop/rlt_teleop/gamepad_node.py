"""Gamepad node for machines without the `joy` package: reads the kernel's input events (evdev).

Publishes   joy (sensor_msgs/Joy: on every change, and repeated at `repeat_hz`), /diagnostics
Subscribes  joy/set_feedback (sensor_msgs/JoyFeedback: rumble, as joy_node takes it)

A pad that is unplugged stops the messages at once (nothing repeats a state that nobody holds), diagnostics say so, and
the node looks for it again every second.
"""

from __future__ import annotations

import array
import math
from dataclasses import dataclass

import evdev
from evdev import ecodes
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Joy, JoyFeedback

from rlt_common import topics
from rlt_common.health import ERROR, OK, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_teleop.gamepad_events import PadState
from rlt_teleop.pad_connection import PadConnection

POLL_HZ = 100.0


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the gamepad node."""

    device: str = param("", "device path (/dev/input/...), or part of the device's name; empty: the first gamepad")
    repeat_hz: float = param(20.0, "Hz, repetition of the last state", minimum=1.0, maximum=POLL_HZ)

    def __post_init__(self) -> None:
        validate(self)


class GamepadNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("gamepad")
        parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self._wanted = parameters.device
        self._health = Health(self)
        self._publisher = self.create_publisher(Joy, topics.JOY, topics.QOS_EVENT)
        self._connection = PadConnection(lambda: find_pad(self._wanted))
        self._rumble_problem = ""
        self.create_subscription(JoyFeedback, topics.JOY_FEEDBACK, self._on_feedback, topics.QOS_EVENT)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._connect, clock=steady)
        self.create_timer(1.0 / POLL_HZ, self._poll, clock=steady)
        self.create_timer(1.0 / parameters.repeat_hz, self._repeat, clock=steady)
        self._connect()

    def _connect(self) -> None:
        self._connection.connect()
        self._show_health()

    def _poll(self) -> None:
        was_connected = self._connection.state is not None
        for state in self._connection.poll():
            self._publish(state)
        if was_connected and self._connection.state is None:
            self._show_health()

    def _repeat(self) -> None:
        if self._connection.state is not None:
            self._publish(self._connection.state)

    def _on_feedback(self, message: JoyFeedback) -> None:
        if message.type == JoyFeedback.TYPE_RUMBLE and math.isfinite(message.intensity):
            self._rumble_problem = self._connection.rumble(message.intensity)
            self._show_health()

    def _publish(self, state: PadState) -> None:
        message = Joy(axes=array.array("f", state.axes), buttons=array.array("i", state.buttons))
        message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _show_health(self) -> None:
        if self._connection.state is None:
            self._health.set(ERROR, f"no gamepad: {self._connection.error}", wanted=self._wanted or "any")
        else:
            self._health.set(OK, f"reading {self._connection.name}", rumble_problem=self._rumble_problem)


def find_pad(wanted: str) -> evdev.InputDevice:
    """Open the pad at a path, or the first gamepad whose name contains `wanted`. Raises OSError when there is none.

    One that may only be read will do, as in the container; evdev writes, to rumble, where it may.
    """
    if wanted.startswith("/"):
        return evdev.InputDevice(wanted)
    seen = []
    for path in evdev.list_devices(writable=False):
        device = evdev.InputDevice(path)
        keys = device.capabilities().get(ecodes.EV_KEY, [])
        if wanted.lower() in device.name.lower() and ecodes.BTN_SOUTH in keys:
            return device
        seen.append(device.name)
        device.close()
    raise FileNotFoundError(
        f"none of the input devices {seen} is a gamepad named like {wanted!r}; "
        "plug it in, or give this user access to /dev/input/event* (group input)"
    )


def main() -> None:
    """Entry point of `ros2 run rlt_teleop gamepad`."""
    run_node("gamepad", GamepadNode)
