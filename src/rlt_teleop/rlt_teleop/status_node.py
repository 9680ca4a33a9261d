"""What an operator has to know, in a terminal: `ros2 run rlt_teleop status`. Only listens.

Subscribes  episode_state, control_state, training_status, recorder_status, relabel (latched), /diagnostics

On a terminal it redraws one page; where the output is a file or a pipe it prints a line whenever one changes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rich.console import Console
from rich.live import Live

from rlt_common import topics
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import ControlState, EpisodeState, RecorderStatus, Relabel, TrainingStatus
from rlt_teleop.status_model import StatusModel
from rlt_teleop.status_view import line, panel


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the status view."""

    refresh_hz: float = param(4.0, "Hz", minimum=0.1, maximum=20.0)

    def __post_init__(self) -> None:
        validate(self)


class StatusNode(Node):
    """See the module docstring. `view` takes what is to be shown, several times a second."""

    def __init__(self, console: Console) -> None:
        super().__init__("status")
        parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self._console = console
        self._live: Live | None = None
        self._printed = ""
        self.model = StatusModel()
        model = self.model
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, model.on_episode, topics.QOS_LATCHED_READER)
        self.create_subscription(ControlState, topics.CONTROL_STATE, model.on_control, topics.QOS_LATCHED)
        self.create_subscription(TrainingStatus, topics.TRAINING_STATUS, model.on_training, topics.QOS_LATCHED)
        self.create_subscription(RecorderStatus, topics.RECORDER_STATUS, model.on_recorder, topics.QOS_LATCHED)
        self.create_subscription(Relabel, topics.RELABEL, model.on_relabel, topics.QOS_RELABEL)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.QOS_EVENT)
        self.create_timer(1.0 / parameters.refresh_hz, self._show, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {value.key: value.value for value in status.values}
            self.model.on_diagnostics(status.name, status.level, status.message, values, time.monotonic())

    def _show(self) -> None:
        snapshot = self.model.snapshot(time.monotonic())
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, screen=True)
                self._live.start()
            self._live.update(panel(snapshot), refresh=True)
        elif (text := line(snapshot)) != self._printed:
            self._printed = text
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def leave(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()


def main() -> None:
    """Entry point of `ros2 run rlt_teleop status`."""
    console = Console()
    run_node("status", lambda: StatusNode(console), at_exit=StatusNode.leave)


if __name__ == "__main__":
    main()
