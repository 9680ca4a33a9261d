"""Keyboard node: a terminal in place of a gamepad, for the simulation. Run it in a terminal of its own.

Subscribes  episode_state (rlt_msgs/EpisodeState, latched: outside an episode there is nothing to take over)
Publishes   joy (sensor_msgs/Joy: at every key, and repeated at 20 Hz), /diagnostics

The keys are in keyboard_keys.py; motion ends by itself when keys stop coming. When this node ends, stops or is stopped
(Ctrl-Z), its messages stop, and so does the motion: the joystick node holds the arms and gives nothing back.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Joy

from rlt_common import topics
from rlt_common.health import OK, Health
from rlt_common.parameters import reject_unknown
from rlt_common.process import run_node
from rlt_msgs.msg import EpisodeState
from rlt_teleop.keyboard_keys import HELP, Keyboard, KeyState, parse

POLL_HZ = 50.0
REPEAT_HZ = 20.0
STALE_S = 0.5
"""After so long without a look at the terminal, what has piled up in it is thrown away."""
READ_BYTES = 1024
MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)


class KeyboardNode(Node):
    """See the module docstring.

    Args:
        terminal: file descriptor to read keys from, in cbreak mode.
    """

    def __init__(self, terminal: int) -> None:
        super().__init__("keyboard")
        reject_unknown(self)
        self._terminal = terminal
        self._keyboard = Keyboard()
        self._polled_s = time.monotonic()
        self._moving = True  # until a manager says otherwise
        self._shown = ""
        self._health = Health(self)
        self._publisher = self.create_publisher(Joy, topics.JOY, topics.QOS_EVENT)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / POLL_HZ, self._poll, clock=steady)
        self.create_timer(1.0 / REPEAT_HZ, self._repeat, clock=steady)
        print(HELP, flush=True)
        self._show()

    def _on_episode(self, message: EpisodeState) -> None:
        self._moving = message.phase in MOVING
        self._end_control()
        self._show()

    def _end_control(self) -> None:
        """Control ends with the episode: the next one must not begin with a person who only seems to drive."""
        if not self._moving:
            self._keyboard.give_back()

    def _poll(self) -> None:
        now_s = time.monotonic()
        stale, self._polled_s = now_s - self._polled_s > STALE_S, now_s
        if stale:
            tty.setcbreak(self._terminal)
            termios.tcflush(self._terminal, termios.TCIFLUSH)
            self._keyboard.forget()
        if not select.select([self._terminal], [], [], 0.0)[0]:
            return
        try:
            data = os.read(self._terminal, READ_BYTES)
        except OSError:
            data = b""
        if not data:
            raise KeyboardInterrupt  # the terminal is gone
        for key in parse(data):
            self._keyboard.hear(key, now_s)
            self._end_control()
            self._publish(self._keyboard.state(now_s))
        self._show()

    def _repeat(self) -> None:
        self._publish(self._keyboard.state(time.monotonic()))

    def _publish(self, state: KeyState) -> None:
        message = Joy(axes=array.array("f", state.axes), buttons=array.array("i", state.buttons))
        message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _show(self) -> None:
        text = "IN CONTROL: SPACE gives back" if self._keyboard.in_control else "watching: SPACE takes over"
        if not self._moving:
            text = "no episode is running: ENTER begins the next one"
        if self._keyboard.repositioning:
            text += "; REPOSITIONING: kept out of training, p ends it"
        self._health.set(OK, text)
        if text != self._shown:
            self._shown = text
            print(f"[keyboard] {text}", flush=True)


@contextlib.contextmanager
def cbreak(terminal: int) -> Iterator[None]:
    """Keys come one by one and are not echoed; Ctrl-C and Ctrl-Z work as ever."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def main() -> None:
    """Entry point of `ros2 run rlt_teleop keyboard`."""
    if not sys.stdin.isatty():
        sys.exit("keyboard: there is no terminal to read keys from: run it in a terminal of its own")
    terminal = sys.stdin.fileno()
    with cbreak(terminal):
        run_node("keyboard", lambda: KeyboardNode(terminal))


if __name__ == "__main__":
    main()
