"""Joystick node and gamepad node over real DDS, and what every node does with a wrong parameter."""

import subprocess
import sys

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import Joy
from teleop_doubles import ROBOT, TASK

from rlt_common import topics
from rlt_msgs.msg import OperatorEvent, TeleopCommand
from rlt_teleop.gamepad_node import GamepadNode
from rlt_teleop.joy_operator_node import JoyOperatorNode

JOY = ROBOT.parents[1] / "joy"
HANDOFF, SUCCESS, ENABLE = 0, 3, 5  # xbox.yaml


class Pad(Node):
    """A pad, and somebody who reads what comes of it."""

    def __init__(self) -> None:
        super().__init__("test_pad")
        self.events: list[int] = []
        self.commands: list[TeleopCommand] = []
        self.levels: list[bytes] = []
        self.words = ""
        self.joy_received: list[Joy] = []
        self.joy = self.create_publisher(Joy, topics.JOY, topics.QOS_EVENT)
        self.create_subscription(
            OperatorEvent, topics.OPERATOR_EVENT, lambda m: self.events.append(m.event), topics.QOS_EVENT
        )
        self.create_subscription(TeleopCommand, topics.TELEOP_COMMAND, self.commands.append, topics.QOS_EVENT)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.QOS_EVENT)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if message.status[0].name.startswith(self.get_namespace().lstrip("/")):
            self.levels.append(message.status[0].level)
            self.words = message.status[0].message

    def hold(self, *buttons: int, forward: float = 0.0) -> None:
        self.joy.publish(Joy(axes=[0.0, forward] + [0.0] * 6, buttons=[int(i in buttons) for i in range(11)]))


@pytest.fixture
def operated(make_graph):
    graph = make_graph(
        {"joy_operator": {"robot": str(ROBOT), "mapping": str(JOY / "xbox.yaml"), "silence_s": 0.3}},
    )
    pad, node = graph.add(Pad()), graph.add(JoyOperatorNode())
    graph.until(
        lambda: (
            pad.joy.get_subscription_count() == 1
            and node._event_publisher.get_subscription_count() == 1
            and node._command_publisher.get_subscription_count() == 1
            and pad.levels
        ),
        "every endpoint is matched",
    )
    return graph, pad


def test_presses_arrive_once_in_order_however_often_the_pad_repeats(operated):
    graph, pad = operated
    for buttons in ([], [HANDOFF], [HANDOFF], [HANDOFF], [], [SUCCESS], [SUCCESS], [], [HANDOFF], []):
        pad.hold(*buttons)
    graph.until(lambda: len(pad.events) >= 3, "three events")
    pad.hold(SUCCESS)
    graph.until(lambda: len(pad.events) >= 4, "the press after them")
    E = OperatorEvent
    assert pad.events == [E.EVENT_HANDOFF, E.EVENT_SUCCESS, E.EVENT_HANDOFF, E.EVENT_SUCCESS]


def test_motion_flows_while_the_enable_button_is_held_and_ends_with_disabled(operated):
    graph, pad = operated
    pad.hold()
    pad.hold(ENABLE, forward=1.0)
    graph.until(lambda: sum(c.enabled for c in pad.commands) >= 3, "commands at control rate")
    assert pad.commands[-1].device == "xbox"
    assert pad.commands[-1].action[0] == pytest.approx(0.05 / 50)
    pad.hold()
    graph.until(lambda: not pad.commands[-1].enabled, "a last command that is not enabled")
    assert not any(pad.commands[-1].action)
    assert pad.events == [OperatorEvent.EVENT_INTERVENE_START, OperatorEvent.EVENT_INTERVENE_STOP]


def test_a_pad_that_goes_silent_in_control_disables_and_is_reported_but_does_not_give_back(operated):
    graph, pad = operated
    pad.hold()
    pad.hold(ENABLE, forward=1.0)
    graph.until(lambda: any(c.enabled for c in pad.commands), "motion")
    graph.until(lambda: not pad.commands[-1].enabled, "the command is disabled")
    pad.levels.clear()
    graph.until(lambda: DiagnosticStatus.ERROR in pad.levels, "diagnostics say so")
    assert OperatorEvent.EVENT_INTERVENE_STOP not in pad.events


def test_a_pad_that_goes_silent_while_nobody_has_control_is_reported_with_its_emergency_stop(operated):
    graph, pad = operated
    pad.hold()
    graph.until(lambda: "the emergency stop neither" in pad.words, "diagnostics say so")
    assert pad.events == []

    def back() -> bool:
        pad.hold()
        return pad.words == "watching"

    graph.until(back, "the pad is heard again")


def test_the_wrong_pad_is_reported(operated):
    graph, pad = operated
    pad.joy.publish(Joy(axes=[0.0], buttons=[1, 1]))
    graph.until(lambda: DiagnosticStatus.ERROR in pad.levels, "diagnostics say so")
    assert pad.events == []


def test_a_gamepad_that_is_not_there_is_reported_and_sends_nothing(make_graph):
    graph = make_graph({"gamepad": {"device": "/dev/input/no-such-pad"}})
    pad, node = graph.add(Pad()), graph.add(GamepadNode())
    graph.until(lambda: DiagnosticStatus.ERROR in pad.levels, "diagnostics say so")
    assert "No such file" in node._connection.error


FILES = {"robot": ROBOT, "task": TASK, "run_directory": "run", "mapping": JOY / "xbox.yaml"}
NODES = {
    "status": (),
    "feedback": (),
    "episode_manager": ("robot", "task", "run_directory"),
    "recorder": ("robot", "task", "run_directory"),
    "joy_operator": ("robot", "mapping"),
    "gamepad": (),
    "auto_handoff": ("task",),
    "operator_page": ("robot", "run_directory"),
}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.usefixtures("ros_domain")
def test_an_unknown_parameter_ends_the_node_with_its_name(name, tmp_path):
    arguments = ["--ros-args", "-p", "recrod:=true"]
    for parameter in NODES[name]:
        arguments += ["-p", f"{parameter}:={FILES[parameter]}"]
    done = subprocess.run(
        [sys.executable, "-c", f"from rlt_teleop.{name}_node import main; main()", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "'recrod'" in done.stderr
    assert "Traceback" not in done.stderr
