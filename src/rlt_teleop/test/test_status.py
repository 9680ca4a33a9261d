"""What the status view makes of the graph's messages: pure, and as a process over real DDS."""

import subprocess
import sys

import teleop_episodes as eps
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rich.console import Console

from rlt_common import topics
from rlt_common.health import ERROR, OK
from rlt_msgs.msg import (
    Advice,
    ControlState,
    EpisodeState,
    ExecutedAction,
    RecorderStatus,
    Relabel,
    TrainingStatus,
)
from rlt_teleop.episode_machine import Confirmation, Label, Phase
from rlt_teleop.joy_mapping import JoyMapping
from rlt_teleop.operator_actions import MEANING, actions
from rlt_teleop.status_model import StatusModel
from rlt_teleop.status_view import line, panel


def shown(snapshot, width=120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(panel(snapshot))
    return console.export_text()


def watching(*episodes, control=None) -> StatusModel:
    model = StatusModel()
    for episode in episodes:
        model.on_episode(episode.to_msg())
    if control is not None:
        model.on_control(control)
    return model


def test_before_any_message_it_says_what_it_does_not_know():
    snapshot = StatusModel().snapshot(0.0)
    assert snapshot.success_rate is snapshot.recent_success_rate is snapshot.intervention_rate is None
    assert {node.level for node in snapshot.health} == {"unheard"}
    text = shown(snapshot)
    assert "no word from the episode manager" in text
    assert "no word from it" in text
    assert "unknown: no word from the executor" in text


def test_advice_of_the_learner_and_on_the_running_graph_is_shown_with_its_reasons():
    model = StatusModel()
    assert model.snapshot(0.0).advice == ()
    assert "advice" not in shown(model.snapshot(0.0))
    told = Advice(rule="policy strays", text="raise beta", why="|pi - reference| is [bold]4.0", severity=1)
    strange = Advice(rule="new", text="from a newer learner", why="x", severity=9)
    model.on_training(TrainingStatus(advice=[told, strange]))
    model.on_diagnostics("chunk_executor", OK, "moving", {"late_p99_ms": "14.0"}, 0.0)
    snapshot = model.snapshot(0.0)
    assert [advice.rule for advice in snapshot.advice] == ["ticks are late", "policy strays", "new"]
    text = shown(snapshot)
    for words in ("raise beta", "is [bold]4.0", "late_p99_ms of chunk_executor is 14", "from a newer learner"):
        assert words in text
    assert "advice: raise beta" in line(snapshot)
    model.on_training(TrainingStatus())
    model.on_diagnostics("chunk_executor", OK, "moving", {"late_p99_ms": "1.0"}, 1.0)
    assert model.snapshot(1.0).advice == ()


def test_counts_are_those_of_the_run_whenever_the_view_was_started():
    counts = {"episodes": 40, "successes": 30, "failures": 6, "timeouts": 3, "discards": 1, "interventions": 10}
    snapshot = watching(eps.running(41, Phase.BASE, **counts)).snapshot(0.0)
    assert dict(snapshot.labels) == {"success": 30, "failure": 6, "timeout": 3, "discard": 1}
    assert (snapshot.success_rate, snapshot.intervention_rate) == (0.75, 0.25)
    text = shown(snapshot)
    assert "40: 30 success, 6 failure, 3 timeout, 1 discard" in text
    assert "in 25 % of all" in text


def test_an_episode_counts_among_the_recent_ones_once_it_is_confirmed():
    model = StatusModel()
    for episode_id, label in ((1, Label.SUCCESS), (2, Label.FAILURE), (3, Label.SUCCESS)):
        model.on_episode(eps.ended(episode_id, label).to_msg())
        assert "not confirmed yet" in shown(model.snapshot(0.0))
        for phase in (Phase.LABELLED, Phase.IDLE, Phase.IDLE):
            model.on_episode(eps.ended(episode_id, label, phase, confirmation=Confirmation.DONE).to_msg())
    model.on_episode(eps.ended(4, Label.DISCARD, Phase.IDLE, confirmation=Confirmation.LOST).to_msg())
    assert "lost" in shown(model.snapshot(0.0))
    assert model.snapshot(0.0).recent_success_rate == 2 / 3
    for episode_id, label in ((3, Label.FAILURE), (99, Label.SUCCESS), (2, 77)):
        model.on_relabel(Relabel(episode_id=episode_id, label=int(label)))
    assert model.snapshot(0.0).recent_success_rate == 1 / 3


HOSTILE = "[/x] [red]a[/red] [a] \x1b[2J\x1b[31mall is well\r\nphase BASE"


def test_no_text_of_a_message_steers_the_view():
    control = ControlState(source=ExecutedAction.SOURCE_HOLD, hold_reason=HOSTILE)
    model = watching(
        eps.running(4, Phase.RESETTING, task=HOSTILE, reason=HOSTILE, waiting_for=HOSTILE), control=control
    )
    model.on_diagnostics(HOSTILE, ERROR, HOSTILE, {f"dropped_{HOSTILE}": "3", "button handoff": HOSTILE}, 0.0)
    model.on_training(TrainingStatus(stage=HOSTILE, message=HOSTILE))
    model.on_recorder(RecorderStatus(error=HOSTILE))
    snapshot = model.snapshot(0.0)
    for text in (shown(snapshot, width=600), line(snapshot)):
        assert "[/x] [red]a[/red] [a]" in text, "it is shown as it is"
        assert "\x1b" not in text
        assert "\r" not in text
    assert "\n" not in line(snapshot)
    assert not any(row.strip("│ ").startswith("phase BASE") for row in shown(snapshot, width=600).splitlines())


def test_buttons_are_named_as_joy_operator_says():
    model = watching(eps.running(4, Phase.BASE))
    assert "handoff" in shown(model.snapshot(0.0))
    values = {"arm": "left", "button handoff": "A (cross)", "button success": "Y"}
    model.on_diagnostics("joy_operator", OK, "watching", values, 0.0)
    text = shown(model.snapshot(0.0))
    assert "A (cross)" in text
    assert "handoff" not in text
    assert "failure" not in text.partition("press")[2].partition("learning")[0]  # has no button there


def test_who_drives_and_why_the_arms_hold():
    control = ControlState(source=ExecutedAction.SOURCE_HOLD, hold_reason="joint_states are 140 ms old")
    snapshot = watching(eps.running(4, Phase.CRITICAL), control=control).snapshot(0.0)
    assert snapshot.moving
    text = shown(snapshot)
    assert "nobody: the arms hold" in text
    assert "joint_states are 140 ms old" in text
    assert "drives: nobody" in line(snapshot)


def test_a_node_that_went_silent_is_shown_and_so_is_what_was_lost():
    model = StatusModel()
    model.on_diagnostics("lab/vla", OK, "waiting", {"dropped_requests": "3", "dropped_observations": "0"}, now_s=10.0)
    model.on_diagnostics("lab/recorder", ERROR, "disk full", {}, now_s=12.9)
    health = {node.name: node for node in model.snapshot(13.5).health}
    assert health["lab/vla"].level == "silent"
    assert "4 s" in health["lab/vla"].message
    assert health["lab/recorder"].level == "error"
    assert "vla" not in health  # heard, in a namespace
    assert {health[name].level for name in ("chunk_executor", "rl_learner", "joy_operator")} == {"unheard"}
    snapshot = model.snapshot(11.0)
    assert dict(snapshot.drops) == {"lab/vla: dropped requests": 3}
    assert [node.name for node in snapshot.troubles] == ["lab/recorder"]
    assert "lab/recorder error: disk full" in line(snapshot)


def test_learning_is_shown_in_figures():
    model = watching(eps.running(4, Phase.CRITICAL))
    model.on_training(
        TrainingStatus(stage="online", ready=True, busy=True, actor_version=7, q_mean=0.42, reference_distance=0.31)
    )
    text = shown(model.snapshot(0.0))
    for words in ("online, at work", "version 7", "0.31 spreads", "0.42"):
        assert words in text, words


def test_a_recorder_that_failed_is_shown():
    model = watching(eps.ended(2))
    model.on_recorder(RecorderStatus(episode_id=2, error="No space left on device"))
    snapshot = model.snapshot(0.0)
    assert "No space left on device" in shown(snapshot)
    assert "No space left on device" in line(snapshot)


def test_numbers_that_mean_nothing_are_shown_as_unknown():
    model = StatusModel()
    model.on_episode(EpisodeState(phase=99, purpose=98, label=97, driver=96, task="\u200b"))
    model.on_control(ControlState(source=95))
    snapshot = model.snapshot(0.0)
    assert snapshot.phase is None
    assert snapshot.purpose == "unknown"
    assert "unknown source 95" in shown(snapshot)


def test_what_may_be_pressed_follows_the_phase():
    names = {phase: [name for name, _ in actions(phase)] for phase in Phase}
    assert names[Phase.IDLE] == ["next_episode", "undo", "estop"]
    assert names[Phase.BASE][0] == "handoff"
    assert "handoff" not in names[Phase.CRITICAL]
    assert names[Phase.ESTOP] == []
    assert dict(actions(Phase.RESETTING))["next_episode"] == "the scene is reset: move"
    assert dict(actions(Phase.BASE, human_in_control=True))["enable"] == "let go to give back"
    assert dict(actions(Phase.IDLE, relabelling=7))["success"] == "episode 7 was a success"
    assert actions(None) == [("estop", MEANING["estop"])]


def test_an_emergency_stop_says_how_to_leave_it():
    text = shown(watching(eps.running(4, Phase.ESTOP), control=ControlState(estop=True)).snapshot(0.0))
    assert "reset_estop" in text


def test_every_press_that_is_named_is_a_button_of_a_mapping():
    buttons = {name for name, _ in JoyMapping(device="any").buttons.items()}
    assert set(MEANING) <= buttons


class Speaker(Node):
    """A graph's words."""

    def __init__(self) -> None:
        super().__init__("speaker")
        self.episode = self.create_publisher(EpisodeState, topics.EPISODE_STATE, topics.QOS_LATCHED)
        self.diagnostics = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, topics.QOS_CONTROL)


def test_as_a_process_in_a_pipe_it_prints_a_line_when_something_changed(make_graph):
    graph = make_graph({})
    speaker = graph.add(Speaker())
    arguments = ["--ros-args", "-r", f"__ns:={graph.namespace}", "-p", "refresh_hz:=20.0"]
    code = "from rlt_teleop.status_node import main; main()"
    with subprocess.Popen([sys.executable, "-u", "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert "no word from the episode manager" in process.stdout.readline()
            speaker.episode.publish(eps.running(5, Phase.BASE).to_msg())
            assert "episode 5 BASE" in process.stdout.readline()
            graph.until(lambda: speaker.diagnostics.get_subscription_count(), "the view listens to diagnostics")
            status = DiagnosticStatus(
                level=ERROR, name="vla", message="no weights", values=[KeyValue(key="a", value="b")]
            )
            speaker.diagnostics.publish(DiagnosticArray(status=[status]))
            assert "vla error: no weights" in process.stdout.readline()
        finally:
            process.terminate()
