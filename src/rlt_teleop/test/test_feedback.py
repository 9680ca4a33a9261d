"""Cues and the plugs that tell them: pure, and as nodes over real DDS."""

import io
import sys
from dataclasses import replace

import pytest
import teleop_episodes as eps
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import JoyFeedback

from rlt_common import topics
from rlt_common.health import ERROR, OK
from rlt_common.parameters import ParameterError
from rlt_msgs.msg import ControlState, EpisodeState, RecorderStatus
from rlt_teleop.episode_machine import Confirmation, Driver, Label, Phase
from rlt_teleop.feedback_cues import Cue, Cues, Urgency
from rlt_teleop.feedback_node import FeedbackNode
from rlt_teleop.feedback_outputs import BELL, Speech, Terminal


def told(cues: Cues, *episodes) -> list[Cue]:
    return [cue for episode in episodes for cue in cues.on_episode(episode.to_msg())]


def test_an_episode_in_words():
    found = told(
        Cues(),
        eps.running(3, Phase.IDLE),
        eps.running(4, Phase.RESETTING),
        eps.running(4, Phase.BASE),
        eps.running(4, Phase.CRITICAL),
        eps.running(4, Phase.CRITICAL, human_in_control=True),
        eps.running(4, Phase.CRITICAL),
        eps.ended(4, Label.SUCCESS),
        eps.running(4, Phase.IDLE, label=Label.SUCCESS, episodes=4, successes=3),
    )
    assert [cue.text for cue in found] == [
        "episode 4: reset the scene",
        "episode 4: the VLA drives",
        "critical phase: RL drives",
        "you drive",
        "RL drives",
        "success",
        "3 of 4: ready for the next episode",
    ]
    assert found[0].urgency == found[-1].urgency == Urgency.ASK


def test_what_stands_already_and_what_is_said_again_is_no_news():
    state = eps.running(4, Phase.CRITICAL)
    assert told(Cues(), state, state, state) == []


def test_a_demonstration_is_driven_by_you():
    found = told(Cues(), eps.running(4), eps.running(4, Phase.CRITICAL, driver=Driver.HUMAN, human_in_control=True))
    assert found[-1].text == "critical phase: you drive"


def test_a_hold_that_lasts_is_told_once_for_its_reason():
    cues = Cues()

    def say(reason):
        return [c.text for c in cues.on_control(ControlState(phase=EpisodeState.PHASE_BASE, hold_reason=reason))]

    assert say("") == say("camera base is frozen") == []
    assert say("camera base is frozen") == ["the arms hold: camera base is frozen"]
    assert say("camera base is frozen") == say("") == []
    assert say("camera base is frozen") == []
    assert say("camera base is frozen") == ["the arms hold: camera base is frozen"]


def test_emergency_stop_and_recorder_are_alarms():
    cues = Cues()
    cues.on_control(ControlState())
    (stop,) = cues.on_control(ControlState(estop=True, hold_reason="operator (xbox)"))
    (disk,) = cues.on_recorder(RecorderStatus(error="disk full"))
    assert stop.urgency == disk.urgency == Urgency.ALARM
    assert cues.on_recorder(RecorderStatus(error="disk full")) == []
    (released,) = cues.on_control(ControlState())
    assert "released" in released.text


def test_a_lost_episode_is_an_alarm_and_no_invitation():
    lost = eps.running(
        4, Phase.IDLE, label=Label.DISCARD, confirmation=Confirmation.LOST, episodes=3, reason="episode 4 is lost"
    )
    found = told(Cues(), eps.ended(4, Label.SUCCESS), lost, lost)
    assert found == [Cue("episode 4 is lost", Urgency.ALARM)]
    stopped = eps.running(5, Phase.ESTOP, label=Label.DISCARD)
    (cue,) = told(Cues(), stopped, replace(stopped, confirmation=Confirmation.LOST))
    assert (cue.text, cue.urgency) == ("episode 5 is lost: it was not recorded", Urgency.ALARM)


def test_why_an_episode_is_a_discard_is_told():
    ended = replace(eps.ended(4, Label.DISCARD), reason="the chunk executor is gone")
    (cue,) = told(Cues(), eps.running(4, Phase.CRITICAL), ended)
    assert cue.text == "discarded: the chunk executor is gone"


def test_an_executor_that_falls_silent_is_an_alarm_once_and_so_is_its_return():
    cues = Cues()
    assert cues.on_time(100.0) == [], "it was never there"
    cues.on_control(ControlState(), 100.0)
    assert cues.on_time(102.0) == []
    (gone,) = cues.on_time(103.5)
    assert gone.urgency == Urgency.ALARM
    assert "nothing commands the arms" in gone.text
    assert cues.on_time(104.5) == []
    (back,) = cues.on_control(ControlState(), 105.0)
    assert "is back" in back.text
    assert cues.on_time(106.0) == []


def test_a_pad_that_is_gone_is_an_alarm_and_other_nodes_are_the_status_view_s_business():
    cues = Cues()
    assert cues.on_health("vla", ERROR, "no weights") == []
    assert cues.on_health("cell/joy_operator", OK, "watching") == []
    (gone,) = cues.on_health("cell/joy_operator", ERROR, "joy is silent")
    assert gone == Cue("joy is silent", Urgency.ALARM)
    assert cues.on_health("cell/joy_operator", ERROR, "joy is silent still") == []
    assert [cue.urgency for cue in cues.on_health("cell/joy_operator", OK, "watching")] == [Urgency.NEWS]


def test_no_text_of_a_message_steers_the_terminal():
    stream = io.StringIO()
    Terminal(stream).emit(Cue("a \x1b[2J\nb"))
    assert stream.getvalue() == "a \ufffd[2J\ufffdb\n"


def test_numbers_that_mean_nothing_raise_nothing():
    cues = Cues()
    for values in ({"phase": 0}, {"phase": 200, "driver": 9}, {"phase": EpisodeState.PHASE_CRITICAL, "driver": 9}):
        cues.on_episode(EpisodeState(**values))
    cues.on_episode(EpisodeState(phase=EpisodeState.PHASE_LABELLED, label=77))


def test_the_bell_rings_when_the_person_is_wanted():
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.emit(Cue("RL drives"))
    terminal.emit(Cue("reset the scene", Urgency.ASK))
    assert stream.getvalue() == f"RL drives\n{BELL}reset the scene\n"


def test_an_alarm_cuts_in_and_news_wait_for_no_one(tmp_path):
    spoken = tmp_path / "spoken"
    code = f"import sys, time; open({str(spoken)!r}, 'a').write(sys.argv[1] + '\\n'); time.sleep(60)"
    speech = Speech([sys.executable, "-c", code])
    speech.emit(Cue("first"))
    while not spoken.exists() or not spoken.read_text().endswith("\n"):
        pass
    speech.emit(Cue("news; $(touch never)"))
    speech.emit(Cue("stop", Urgency.ALARM))
    while spoken.read_text().count("\n") < 2:
        pass
    speech.close()
    assert spoken.read_text() == "first\nstop\n"


class Speaker(Node):
    """A manager's words, and the pad that is to rumble."""

    def __init__(self) -> None:
        super().__init__("speaker")
        self.rumbles: list[float] = []
        self.episode = self.create_publisher(EpisodeState, topics.EPISODE_STATE, topics.QOS_LATCHED)
        self.create_subscription(JoyFeedback, topics.JOY_FEEDBACK, self._on_rumble, topics.QOS_EVENT)

    def _on_rumble(self, message: JoyFeedback) -> None:
        self.rumbles.append(message.intensity)


def test_the_node_prints_and_rumbles_and_stops_rumbling(make_graph, capsys):
    graph = make_graph({"feedback": {"outputs": ["terminal", "rumble"]}})
    node, speaker = graph.add(FeedbackNode()), graph.add(Speaker())
    graph.until(
        lambda: speaker.episode.get_subscription_count() and node.count_subscribers(topics.JOY_FEEDBACK),
        "both hear each other",
    )
    for episode in (eps.running(3, Phase.IDLE), eps.running(4, Phase.RESETTING)):
        speaker.episode.publish(episode.to_msg())
    graph.until(lambda: len(speaker.rumbles) == 2, "a rumble and its end")
    assert speaker.rumbles[0] > 0
    assert speaker.rumbles[1] == 0
    assert "episode 4: reset the scene" in capsys.readouterr().out


def test_the_node_tells_of_the_pad_of_its_own_robot_and_of_an_executor_that_is_gone(make_graph, capsys, monkeypatch):
    monkeypatch.setattr("rlt_teleop.feedback_cues.EXECUTOR_SILENT_S", 0.5)
    graph = make_graph({})
    node = graph.add(FeedbackNode())
    robot = graph.add(Node("robot"))
    control = robot.create_publisher(ControlState, topics.CONTROL_STATE, topics.QOS_LATCHED)
    diagnostics = robot.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, topics.QOS_CONTROL)
    graph.until(diagnostics.get_subscription_count, "feedback listens")
    own = node.get_namespace().strip("/")
    for name, words in ((f"other{own}/joy_operator", "of another robot"), (f"{own}/joy_operator", "joy is silent")):
        status = DiagnosticStatus(name=name, level=ERROR, message=words)
        diagnostics.publish(DiagnosticArray(status=[status]))
    control.publish(ControlState())
    said = []

    def told_of_it() -> bool:
        said.append(capsys.readouterr().out)
        return "the chunk executor is gone" in "".join(said)

    graph.until(told_of_it, "the executor's silence is told")
    assert "joy is silent" in "".join(said)
    assert "of another robot" not in "".join(said)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"outputs": ["smoke"]}, "smoke: choose from terminal, speech, rumble"),
        ({"outputs": ["speech"], "speech_command": "no-such-speaker"}, "'no-such-speaker' is not there"),
    ],
)
def test_a_wrong_output_is_an_error(make_graph, values, words):
    make_graph({"feedback": values})
    with pytest.raises(ParameterError, match=words):
        FeedbackNode()
