"""Tells a person at the robot what happens, by words, voice or rumble: `ros2 run rlt_teleop feedback`. Only listens.

Subscribes  episode_state, control_state, recorder_status (latched), /diagnostics
Publishes   joy/set_feedback (sensor_msgs/JoyFeedback) with the output `rumble`, /diagnostics
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JoyFeedback

from rlt_common import topics
from rlt_common.health import OK, WARN, Health
from rlt_common.parameters import ParameterError, declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import ControlState, EpisodeState, RecorderStatus
from rlt_teleop.feedback_cues import Cue, Cues
from rlt_teleop.feedback_outputs import Output, Rumble, Speech, Terminal

OUTPUTS = ("terminal", "speech", "rumble")
RUMBLE_S = 0.4


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the feedback node."""

    outputs: tuple[str, ...] = param(("terminal",), f"how to tell: any of {', '.join(OUTPUTS)}")
    speech_command: str = param("spd-say --wait", "speaks its last argument; for the output speech")

    def __post_init__(self) -> None:
        validate(self)
        unknown = [name for name in self.outputs if name not in OUTPUTS]
        if unknown or not self.outputs:
            raise ParameterError(f"outputs: {unknown[0] if unknown else 'empty'}: choose from {', '.join(OUTPUTS)}")
        if "speech" in self.outputs:
            command = shlex.split(self.speech_command)
            if not command or shutil.which(command[0]) is None:
                raise ParameterError(
                    f"speech_command: {self.speech_command!r} is not there: install speech-dispatcher, or name another"
                )


class FeedbackNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("feedback")
        parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self._cues = Cues()
        self._told = 0
        self._health = Health(self)
        self._outputs = [self._make(name, parameters) for name in dict.fromkeys(parameters.outputs)]
        cues = self._cues
        self._listen(EpisodeState, topics.EPISODE_STATE, cues.on_episode)
        self._listen(ControlState, topics.CONTROL_STATE, lambda message: cues.on_control(message, time.monotonic()))
        self._listen(RecorderStatus, topics.RECORDER_STATUS, cues.on_recorder)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_health, topics.QOS_EVENT)
        self.create_timer(1.0, self._on_time, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._health.set(OK, f"tells by {', '.join(parameters.outputs)}")

    def _listen(self, kind: type, topic: str, on_message: Callable[..., list[Cue]]) -> None:
        def tell(message: object) -> None:
            for cue in on_message(message):
                self._tell(cue)

        self.create_subscription(kind, topic, tell, topics.QOS_LATCHED_READER)

    def _on_health(self, message: DiagnosticArray) -> None:
        own = self.get_namespace().strip("/")
        for status in message.status:
            if status.name.rpartition("/")[0] == own:  # /diagnostics is one topic for all robots
                for cue in self._cues.on_health(status.name, status.level, status.message):
                    self._tell(cue)

    def _on_time(self) -> None:
        for cue in self._cues.on_time(time.monotonic()):
            self._tell(cue)

    def _tell(self, cue: Cue) -> None:
        self._told += 1
        for output in self._outputs:
            try:
                output.emit(cue)
            except OSError as error:  # a person who is not told is better than a run that ends
                self._health.set(WARN, f"{type(output).__name__.lower()}: {error}")

    def _make(self, name: str, parameters: NodeParameters) -> Output:
        if name == "terminal":
            return Terminal(sys.stdout)
        if name == "speech":
            return Speech(shlex.split(parameters.speech_command))
        publisher = self.create_publisher(JoyFeedback, topics.JOY_FEEDBACK, topics.QOS_EVENT)
        return Rumble(publisher.publish, self._later)

    def _later(self, call: Callable[[], None]) -> None:
        def once() -> None:
            self.destroy_timer(timer)
            call()

        timer = self.create_timer(RUMBLE_S, once, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def leave(self) -> None:
        """End what is being said."""
        for output in self._outputs:
            if isinstance(output, Speech):
                output.close()


def main() -> None:
    """Entry point of `ros2 run rlt_teleop feedback`."""
    run_node("feedback", FeedbackNode, at_exit=FeedbackNode.leave)


if __name__ == "__main__":
    main()
