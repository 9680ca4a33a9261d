"""SpaceMouse and leader arms through the joystick node, over real DDS."""

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy
from teleop_doubles import ROBOT

from rlt_common import topics
from rlt_common.config import load_robot
from rlt_msgs.msg import ExecutedAction, OperatorEvent, TeleopCommand
from rlt_teleop.joy_operator_node import JoyOperatorNode

JOY = ROBOT.parents[1] / "joy"
SIM = load_robot(ROBOT)
HOME = [0.0, -0.35, 0.85, 0.0, -0.5, 0.0, 0.01] * 2
LEADERS = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
LEADER_TOPICS = ("leader_left/joint_states", "leader_right/joint_states")
TIMEOUT_S = 2.0


class Person(Node):
    """Buttons, a SpaceMouse, two leaders, arms that stand still; and somebody who reads what comes of it.

    `speaks` is published again and again, 50 times a second, as devices do.
    """

    def __init__(self) -> None:
        super().__init__("test_person")
        self.commands: list[TeleopCommand] = []
        self.events: list[int] = []
        self.health: list[DiagnosticStatus] = []
        self.kinds = {
            "spacenav/joy": Joy,
            "joy": Joy,
            "spacenav/twist": Twist,
            "leader_left/joint_states": JointState,
            "leader_right/joint_states": JointState,
            topics.EXECUTED_ACTION: ExecutedAction,
        }
        self.talk = {topic: self.create_publisher(kind, topic, 10) for topic, kind in self.kinds.items()}
        self.speaks: dict[str, object] = {}
        self.create_subscription(
            OperatorEvent, topics.OPERATOR_EVENT, lambda m: self.events.append(m.event), topics.QOS_EVENT
        )
        self.create_subscription(TeleopCommand, topics.TELEOP_COMMAND, self.commands.append, topics.QOS_EVENT)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.QOS_EVENT)
        self.create_timer(0.02, self._speak)

    def _speak(self) -> None:
        for topic, message in self.speaks.items():
            self.talk[topic].publish(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if message.status[0].name.startswith(self.get_namespace().lstrip("/")):
            self.health.append(message.status[0])

    def said(self, words: str) -> bool:
        return any(status.level == DiagnosticStatus.ERROR and words in status.message for status in self.health)


def begin(make_graph, tmp_path, name, change, *topics_used):
    """The joystick node with a shipped mapping, patient enough for a slow machine."""
    values = yaml.safe_load((JOY / f"{name}.yaml").read_text())
    change(values)
    values["unchanged_s"] = 0
    mapping = tmp_path / f"{name}.yaml"
    mapping.write_text(yaml.safe_dump(values))
    graph = make_graph({"joy_operator": {"robot": str(ROBOT), "mapping": str(mapping), "silence_s": 10.0}})
    person = graph.add(Person())
    graph.add(JoyOperatorNode())
    graph.until(
        lambda: all(person.talk[topic].get_subscription_count() for topic in topics_used) and person.health,
        "every endpoint is matched",
    )
    return graph, person


@pytest.fixture
def mouse(make_graph, tmp_path):
    def change(values):
        values["twist"]["timeout_s"] = TIMEOUT_S

    return begin(make_graph, tmp_path, "spacemouse", change, "spacenav/joy", "spacenav/twist")


@pytest.fixture
def leaders(make_graph, tmp_path):
    def change(values):
        values["leader"].update(mode="relative", timeout_s=TIMEOUT_S)

    used = ("joy", *LEADER_TOPICS, topics.EXECUTED_ACTION)
    graph, person = begin(make_graph, tmp_path, "aloha_leaders", change, *used)
    arms = ExecutedAction(joint_names=list(SIM.joint_names), joint_target=HOME)
    person.speaks = {"joy": keys(), topics.EXECUTED_ACTION: arms, **{t: leader() for t in LEADER_TOPICS}}
    return graph, person


def keys(*held: int) -> Joy:
    return Joy(axes=[0.0] * 6, buttons=[int(i in held) for i in range(13)])


def leader(waist: float = 0.0) -> JointState:
    return JointState(name=LEADERS, position=[waist, -0.35, 0.85, 0.0, -0.5, 0.0, 0.0])


def enabled(person) -> bool:
    return bool(person.commands) and person.commands[-1].enabled


def take_over(graph, person, topic, released, held) -> None:
    person.speaks[topic] = released
    seen = len(person.health)
    graph.until(lambda: any(s.level == DiagnosticStatus.OK for s in person.health[seen:]), "the buttons are heard")
    person.speaks[topic] = held
    graph.until(lambda: enabled(person), "motion")


def test_a_spacemouse_moves_the_tool_in_its_frame_while_its_button_is_held(mouse):
    graph, person = mouse
    twist = Twist()
    twist.linear.x, twist.angular.z = 0.55, -1.0
    person.speaks["spacenav/twist"] = twist
    take_over(graph, person, "spacenav/joy", Joy(axes=[0.0] * 6), Joy(axes=[0.0] * 6, buttons=[1]))
    command = person.commands[-1]
    assert (command.device, command.frame) == ("spacemouse", TeleopCommand.FRAME_TOOL)
    np.testing.assert_allclose(command.action[:6], [0.5 * 0.05 / 50, 0, 0, 0, 0, -0.4 / 50], rtol=1e-5)
    person.speaks["spacenav/joy"] = Joy(axes=[0.0] * 6, buttons=[0])
    graph.until(lambda: not enabled(person), "the end")
    assert person.events == [OperatorEvent.EVENT_INTERVENE_START, OperatorEvent.EVENT_INTERVENE_STOP]


def test_a_spacemouse_that_stops_talking_holds_and_is_reported(mouse):
    graph, person = mouse
    person.speaks["spacenav/twist"] = Twist()
    take_over(graph, person, "spacenav/joy", Joy(axes=[0.0] * 6), Joy(axes=[0.0] * 6, buttons=[1]))
    del person.speaks["spacenav/twist"]
    graph.until(lambda: not enabled(person), "the hold, though the button is held")
    graph.until(lambda: person.said("no spacenav/twist"), "diagnostics say why")
    assert OperatorEvent.EVENT_INTERVENE_STOP not in person.events


def test_a_mad_twist_holds_and_is_reported(mouse):
    graph, person = mouse
    person.speaks["spacenav/twist"] = Twist()
    take_over(graph, person, "spacenav/joy", Joy(axes=[0.0] * 6), Joy(axes=[0.0] * 6, buttons=[1]))
    mad = Twist()
    mad.linear.y = float("nan")
    person.speaks["spacenav/twist"] = mad
    graph.until(lambda: not enabled(person), "the hold")
    graph.until(lambda: person.said("not finite"), "diagnostics say why")


def test_a_leader_moves_its_arm_by_what_it_moves(leaders):
    graph, person = leaders
    take_over(graph, person, "joy", keys(), keys(0))
    assert not any(person.commands[-1].action)
    person.speaks["leader_right/joint_states"] = leader(waist=0.02)
    graph.until(lambda: any(person.commands[-1].action[7:]), "the right arm is to move")
    assert not any(person.commands[-1].action[:7])
    assert (np.abs(person.commands[-1].action) <= SIM.step_limit.astype(np.float32)).all()


def test_one_silent_leader_holds_both_arms(leaders):
    graph, person = leaders
    take_over(graph, person, "joy", keys(), keys(0))
    del person.speaks["leader_left/joint_states"]
    graph.until(lambda: not enabled(person), "the hold, though the key is held")
    graph.until(lambda: person.said("no leader_left/joint_states"), "diagnostics say why")
    assert OperatorEvent.EVENT_INTERVENE_STOP not in person.events


def test_a_leader_without_a_joint_is_refused_with_the_name(leaders):
    graph, person = leaders
    person.speaks["leader_left/joint_states"] = JointState(name=LEADERS[1:], position=[0.0] * 6)
    graph.until(lambda: person.said("leader_left/joint_states has no joint 'waist'"), "diagnostics say which")
