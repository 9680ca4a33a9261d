"""A person's pad for the benches: says which keys of config/joy/keyboard.yaml are down, as its node does."""

from __future__ import annotations

import time

from rclpy.node import Node
from sensor_msgs.msg import Joy

from harness.fault_graph import FaultError, FaultyGraph
from rlt_bringup.graph import config_file
from rlt_common import topics
from rlt_msgs.msg import EpisodeState
from rlt_teleop.joy_mapping import load_mapping

KEYS = load_mapping(config_file("joy", "keyboard"))
SAY_S, TURN_S = 0.05, 1.0
DEFLECTION = 0.6
PRESS_S, TRY_S, PATIENCE_S = 0.3, 3.0, 120.0
MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)


class Pad(Node):
    """Moves the selected tool forth and back, a second each, wherever the enable key counts."""

    def __init__(self) -> None:
        super().__init__("bench_pad")
        self.held: set[str] = set()
        self._publisher = self.create_publisher(Joy, topics.JOY, topics.QOS_EVENT)
        self.create_timer(SAY_S, self._say)

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return self._publisher.get_subscription_count() > 0

    def _say(self) -> None:
        message = Joy(axes=[0.0] * KEYS.axes_needed, buttons=[0] * KEYS.buttons_needed)
        message.axes[KEYS.axes.x.index] = DEFLECTION if time.monotonic() // TURN_S % 2 else -DEFLECTION
        for name in self.held:
            message.buttons[KEYS.button(name)] = 1
        self._publisher.publish(message)

    def press(self, graph: FaultyGraph, name: str) -> None:
        """One key, down and up."""
        self.held = {name}
        graph.spin(PRESS_S)
        self.held = set()
        graph.spin(PRESS_S)

    def drive(self, graph: FaultyGraph) -> float:
        """Let go, take over anew and keep the key down; begin an episode where none runs.

        Returns s until the first step that the person drove. Raises FaultError when none comes.
        """
        begun, before = time.monotonic(), graph.seen.last_human_s
        self.held = set()
        graph.spin(PRESS_S)
        while graph.seen.last_human_s == before:
            if time.monotonic() - begun > PATIENCE_S:
                raise FaultError(f"the person could not take over: {graph.seen.health}")
            if graph.watch.phase not in MOVING:
                self.press(graph, "next_episode")
                continue
            self.held = {"enable"}
            if not graph.until(lambda: graph.seen.last_human_s != before, TRY_S):
                self.held = set()
                graph.spin(PRESS_S)
        return time.monotonic() - begun
