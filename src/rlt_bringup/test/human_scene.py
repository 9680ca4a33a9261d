"""A person in the graph's tests: says which keys of config/joy/keyboard.yaml are down, and waits for the effect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState, Joy

from rlt_bringup.graph import Resolved, config_file, describe
from rlt_bringup.runner import GraphRunner
from rlt_common import topics
from rlt_msgs.msg import EpisodeState, ExecutedAction, TeleopCommand, TrainingStatus
from rlt_teleop.joy_mapping import load_mapping

KEYS = load_mapping(config_file("joy", "keyboard"))
DEADLINE_S = 90.0


class Person(Node):
    """Says every 50 ms which keys are down and, where there are any, how leaders stand; sees what comes of it."""

    def __init__(self) -> None:
        super().__init__("test_person")
        self.held: set[str] = set()
        self.forward = 0.0
        self.silent = False
        self.leaders: dict[str, JointState] = {}
        self.joints = JointState()
        self.states: list[EpisodeState] = []
        self.executed: list[ExecutedAction] = []
        self.commands: list[TeleopCommand] = []
        self.training = TrainingStatus()
        self.joy = self.create_publisher(Joy, topics.JOY, topics.QOS_EVENT)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self.states.append, topics.QOS_LATCHED_READER)
        self.create_subscription(ExecutedAction, topics.EXECUTED_ACTION, self.executed.append, topics.QOS_STREAM)
        self.create_subscription(TeleopCommand, topics.TELEOP_COMMAND, self.commands.append, topics.QOS_CONTROL)
        self.create_subscription(
            JointState, topics.JOINT_STATES, lambda m: setattr(self, "joints", m), topics.QOS_CONTROL
        )
        self.create_subscription(
            TrainingStatus, topics.TRAINING_STATUS, lambda m: setattr(self, "training", m), topics.QOS_LATCHED
        )
        self.leading: dict[str, Publisher] = {}
        self.create_timer(0.05, self._say)

    @property
    def state(self) -> EpisodeState:
        return self.states[-1] if self.states else EpisodeState()

    def _say(self) -> None:
        if self.silent:
            return
        message = Joy(axes=[0.0] * KEYS.axes_needed, buttons=[0] * KEYS.buttons_needed)
        message.axes[KEYS.axes.x.index] = self.forward
        for name in self.held:
            message.buttons[KEYS.button(name)] = 1
        self.joy.publish(message)
        for topic, leader in self.leaders.items():
            if topic not in self.leading:
                self.leading[topic] = self.create_publisher(JointState, topic, topics.QOS_CONTROL)
            self.leading[topic].publish(leader)


class Scene:
    """The person and the graph, and the waiting."""

    def __init__(self, person: Person, runner: GraphRunner) -> None:
        self.person, self._runner = person, runner
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(person)

    def until(self, condition: Callable[[], object], what: str) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            self._runner.poll()
            assert time.monotonic() < end_s, f"waited {DEADLINE_S} s for {what}: {self.person.state}"
            self._executor.spin_once(timeout_sec=0.05)

    def press(self, name: str, condition: Callable[[], object], what: str) -> None:
        """Press a key every second until it has had its effect: what comes too early is refused."""
        begin_s = time.monotonic()

        def reached() -> bool:
            down = (time.monotonic() - begin_s) % 1.0 < 0.5
            (self.person.held.add if down else self.person.held.discard)(name)
            return condition()

        self.until(reached, what)
        self.person.held.discard(name)

    def steps(self, source: int, count: int) -> None:
        """Wait for so many more steps of a source."""
        seen = len(self.person.executed)
        self.until(
            lambda: sum(m.source == source for m in self.person.executed[seen:]) >= count, f"steps of source {source}"
        )

    def drive(self, count: int) -> None:
        """Hold the enable button until a person has driven so many more steps.

        When the machine stalls, the pad is silent for a moment: it must then be let go and pressed again.
        """
        seen, steps, since_s = len(self.person.executed), 0, time.monotonic()

        def driven() -> bool:
            nonlocal steps, since_s
            now = sum(m.source == ExecutedAction.SOURCE_HUMAN for m in self.person.executed[seen:])
            if now > steps:
                steps, since_s = now, time.monotonic()
            stuck = (time.monotonic() - since_s) % 1.0 > 0.7
            (self.person.held.discard if stuck else self.person.held.add)("enable")
            return steps >= count

        self.until(driven, "steps of the person")

    def close(self) -> None:
        self._executor.shutdown()
        self.person.destroy_node()


@contextmanager
def playing(resolved: Resolved) -> Iterator[Scene]:
    """The graph with a person in it."""
    rclpy.init()
    try:
        with GraphRunner(describe(resolved), resolved.run / "log") as runner:
            scene = Scene(Person(), runner)
            try:
                yield scene
            finally:
                scene.close()
    finally:
        rclpy.try_shutdown()
