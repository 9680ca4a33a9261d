"""Episode manager and recorder over real DDS, with stand-ins for executor, cell and learner."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console
from rosbags.highlevel import AnyReader
from teleop_doubles import TASK, FakeCell, FakeExecutor, FakeLearner, Operator, call, in_phase, robot_file

from rlt_common import topics
from rlt_common.config import kinematics_hash, load_robot
from rlt_common.episode_file import episode_configuration, episode_metadata, read_messages
from rlt_msgs.action import RunEpisodes
from rlt_msgs.msg import ControlState, EpisodeState, OperatorEvent, RecorderStatus, Relabel
from rlt_msgs.srv import Estop, Handoff, LabelEpisode, ResetEstop, StartEpisode
from rlt_teleop.episode_manager_node import EpisodeManagerNode
from rlt_teleop.feedback_cues import Cues, Urgency
from rlt_teleop.operator_wait import OperatorWait
from rlt_teleop.recorder_node import RecorderNode
from rlt_teleop.run_directory import scan
from rlt_teleop.status_node import StatusNode

TRAIN, EVALUATE = EpisodeState.PURPOSE_TRAIN, EpisodeState.PURPOSE_EVALUATE
VLA, RL = EpisodeState.DRIVER_VLA, EpisodeState.DRIVER_RL
IDLE, RESETTING = EpisodeState.PHASE_IDLE, EpisodeState.PHASE_RESETTING
BASE, CRITICAL = EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL
LABELLED, ESTOP = EpisodeState.PHASE_LABELLED, EpisodeState.PHASE_ESTOP


class Cell:
    """The whole operator side in one graph."""

    def __init__(
        self,
        make_graph,
        folder,
        recorder=True,
        learner=None,
        recorder_timeout_s=10.0,
        task=TASK,
        clock=time.monotonic,
        recording=None,
        manager=None,
        **robot,
    ) -> None:
        self.run = folder / "run"
        files = {
            "robot": str(robot_file(folder, **robot)),
            "task": str(task),
            "run_directory": str(self.run),
        }
        own = {"record": recorder is not False, "recorder_timeout_s": recorder_timeout_s}
        self.graph = make_graph(
            {"recorder": {**files, **(recording or {})}, "episode_manager": {**files, **own, **(manager or {})}}
        )
        self.executor = self.graph.add(FakeExecutor())
        self.cell = self.graph.add(FakeCell())
        self.learner = self.graph.add(FakeLearner(**learner)) if learner is not None else None
        self.operator = self.graph.add(Operator())
        self.recorder = self.graph.add(RecorderNode()) if recorder is True else None
        self.manager = self.graph.add(EpisodeManagerNode(clock))
        self.graph.until(
            lambda: (
                self.operator.events.get_subscription_count() >= 1 + (recorder is True)
                and self.executor.executed.get_subscription_count() >= 1 + (recorder is True)
                and self.executor.control.get_subscription_count() >= 1 + (recorder is True)
                and self.executor.observed.get_subscription_count() >= (recorder is True)
                and self.manager._executor_alive()
                and (learner is None or self.manager._training is not None)
            ),
            "every endpoint is matched",
        )

    def start(self, **fields):
        answer = call(self.graph, self.operator, StartEpisode, **{"purpose": EVALUATE, "driver": VLA, **fields})
        assert answer.accepted, answer.message
        return answer.episode_id

    def until_started(self, **fields) -> int:
        """Ask until the manager has heard the executor: one that has only just come up refuses."""
        answers = []

        def accepted() -> bool:
            answers.append(
                call(self.graph, self.operator, StartEpisode, **{"purpose": EVALUATE, "driver": VLA, **fields})
            )
            return answers[-1].accepted

        self.graph.until(accepted, "the episode is started")
        return answers[-1].episode_id

    def until_phase(self, phase: int) -> None:
        self.graph.until(in_phase(self.operator, phase), f"phase {phase}")

    def until_steps(self, steps: int) -> None:
        self.graph.until(lambda: self.manager.count.next_step == steps, f"{steps} steps")

    def until_discarded(self) -> None:
        self.until_phase(LABELLED)
        assert self.operator.state.label == EpisodeState.LABEL_DISCARD
        self.until_phase(IDLE)

    def press(self, event: int) -> None:
        self.operator.press(event)

    def label(self, label: int, episode_id: int = 0):
        return call(self.graph, self.operator, LabelEpisode, episode_id=episode_id, label=label)

    def send_goal(self, **fields):
        client = self.operator.run_client
        self.graph.until(client.server_is_ready, "run_episodes is there")
        self.feedback = []
        goal = RunEpisodes.Goal(**{"purpose": EVALUATE, "driver": VLA, "start_in": "critical", **fields})
        future = client.send_goal_async(goal, feedback_callback=lambda m: self.feedback.append(m.feedback))
        self.graph.until(future.done, "the goal is answered")
        return future.result()


@pytest.fixture
def make_cell(make_graph, tmp_path):
    return lambda **options: Cell(make_graph, tmp_path, **options)


def test_an_episode_from_start_to_durable(make_cell):
    cell = make_cell()
    episode_id = cell.start(seed=23)
    cell.until_phase(BASE)
    healths = []
    heard = cell.operator.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, healths.append, topics.QOS_STREAM)
    assert (cell.cell.requests[0].seed, cell.cell.requests[0].episode_id) == (23, 1)
    cell.until_steps(6)
    cell.press(OperatorEvent.EVENT_HANDOFF)
    cell.until_steps(12)
    assert cell.operator.state.handoff_step == 6
    cell.graph.until(lambda: len(healths) > 4, "nodes say how they are")
    cell.operator.destroy_subscription(heard)
    answer = cell.label(EpisodeState.LABEL_SUCCESS)
    assert answer.accepted
    assert answer.durable, answer.message
    assert answer.episode_id == episode_id == 1
    cell.until_phase(IDLE)
    assert cell.operator.phases(1) == [RESETTING, BASE, CRITICAL, LABELLED, IDLE]
    epochs = [state.epoch for state in cell.operator.states]
    assert epochs == sorted(epochs)
    assert (cell.operator.state.episodes, cell.operator.state.successes) == (1, 1)

    path = cell.run / "episodes" / "000001.mcap"
    entries = list(read_messages(path))
    assert [e.message.step for e in entries if e.topic == topics.EXECUTED_ACTION] == list(range(12))
    observed = [e.message.observation_id for e in entries if e.topic == topics.OBSERVATION]
    assert len(set(observed)) == 6
    assert any(e.message.event == OperatorEvent.EVENT_HANDOFF for e in entries if e.topic == topics.OPERATOR_EVENT)
    facts = episode_metadata(path)
    assert (facts["label"], facts["seed"], facts["handoff_step"], facts["warning"]) == ("success", "23", "6", "")
    assert facts["kinematics_hash"] == kinematics_hash(load_robot(cell.recorder.parameters.robot))
    said = {status.name for e in entries if e.topic == "diagnostics" for status in e.message.status}
    own = cell.graph.namespace.strip("/")
    assert said == {f"{own}/recorder", f"{own}/episode_manager"}
    assert episode_configuration(path)["task"] == TASK.read_text()
    with AnyReader([path]) as reader:
        assert {c.topic for c in reader.connections} >= {"/executed_action", "/observation", "/episode_state"}
        connections = [c for c in reader.connections if c.topic == "/executed_action"]
        steps = [reader.deserialize(raw, c.msgtype).step for c, _, raw in reader.messages(connections)]
    assert steps == list(range(12))


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own takes root")
@pytest.mark.parametrize("fault", ["full", "read-only", "budget"])
def test_an_episode_that_cannot_be_written_is_told_to_the_operator(make_cell, tmp_path, fault):
    """From the disk that refuses, through recorder and manager, to the status view and the words that are spoken."""
    disk = tmp_path / "run"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "rlt", str(disk)], check=True)
    try:
        cell = make_cell(recording={"retention.keep_gib": 1e-3} if fault == "budget" else {})
        (disk / "episodes").mkdir()
        (disk / "episodes" / "000000.mcap.part").write_bytes(bytes({"full": 30, "budget": 2}.get(fault, 0) * 2**20))
        if fault == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        words = {"full": "No space left", "read-only": "Read-only file system", "budget": "retention.keep_gib"}[fault]
        shown, spoken, cues = io.StringIO(), [], Cues()
        cell.graph.add(StatusNode(Console(file=shown)))
        cell.operator.create_subscription(
            RecorderStatus, topics.RECORDER_STATUS, lambda m: spoken.extend(cues.on_recorder(m)), topics.QOS_LATCHED
        )
        cell.start()
        cell.graph.until(lambda: cell.operator.state.label == EpisodeState.LABEL_DISCARD, "it is discarded")
        assert words in cell.operator.state.reason
        cell.graph.until(lambda: words in shown.getvalue(), "it is shown")
        cell.graph.until(
            lambda: any(words in cue.text and cue.urgency == Urgency.ALARM for cue in spoken), "it is said"
        )
        assert cell.executor.step == 0, "nothing moved"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_commands_that_do_not_fit_are_refused_with_a_reason(make_cell):
    cell = make_cell(recorder=False)
    assert "start an episode first" in call(cell.graph, cell.operator, Handoff).message
    answer = cell.label(EpisodeState.LABEL_SUCCESS)
    assert not answer.accepted
    assert "IDLE" in answer.message
    assert "no driver 0" in call(cell.graph, cell.operator, StartEpisode).message
    refusal = call(cell.graph, cell.operator, StartEpisode, purpose=EVALUATE, driver=VLA, execute_steps=3)
    assert "multiple of the stride" in refusal.message
    cell.start()
    cell.until_phase(BASE)
    again = call(cell.graph, cell.operator, StartEpisode, purpose=EVALUATE, driver=VLA)
    assert not again.accepted
    assert "label or discard it first" in again.message
    other = call(cell.graph, cell.operator, Handoff, episode_id=9)
    assert "episode 9 is not running" in other.message
    assert not cell.label(EpisodeState.LABEL_TIMEOUT).accepted


def test_an_intervention_raises_the_epoch_twice(make_cell):
    cell = make_cell(recorder=False)
    cell.start(start_in="critical")
    cell.until_phase(CRITICAL)
    epoch = cell.operator.state.epoch
    cell.press(OperatorEvent.EVENT_INTERVENE_START)
    cell.graph.until(lambda: cell.operator.state.human_in_control, "the human has control")
    cell.press(OperatorEvent.EVENT_INTERVENE_STOP)
    cell.graph.until(lambda: not cell.operator.state.human_in_control, "the human gave back")
    assert cell.operator.state.epoch == epoch + 2


def test_the_executor_s_time_out_ends_the_episode(make_cell):
    cell = make_cell()
    cell.start()
    cell.until_steps(6)
    cell.executor.reach_limit()
    cell.until_phase(IDLE)
    assert cell.operator.state.label == EpisodeState.LABEL_TIMEOUT
    facts = episode_metadata(cell.run / "episodes" / "000001.mcap")
    assert (facts["label"], facts["warning"]) == ("timeout", "")


def test_the_operator_resets_where_no_service_does(make_cell):
    cell = make_cell(reset="operator")
    cell.start()
    cell.graph.until(lambda: cell.manager.recordings.opened(1), "the recorder has opened the file")
    assert cell.operator.state.phase == RESETTING
    cell.press(OperatorEvent.EVENT_NEXT_EPISODE)
    cell.until_phase(BASE)
    assert cell.cell.requests == []


def test_a_reset_that_fails_discards(make_cell):
    cell = make_cell(recorder=False)
    cell.cell.problem = "the screw is stuck"
    cell.start()
    cell.until_discarded()
    assert "the screw is stuck" in next(s for s in cell.operator.states if s.phase == LABELLED).reason
    assert not {BASE, CRITICAL} & set(cell.operator.phases(1))


def test_emergency_stop_by_the_operator_is_latched_in_the_executor_and_needs_reset_and_start(make_cell):
    cell = make_cell()
    cell.start()
    cell.until_steps(6)
    cell.press(OperatorEvent.EVENT_ESTOP)
    cell.graph.until(lambda: cell.executor.estop, "the executor has latched the stop")
    cell.until_phase(ESTOP)
    assert cell.operator.state.label == EpisodeState.LABEL_DISCARD
    refused = call(cell.graph, cell.operator, StartEpisode, purpose=EVALUATE, driver=VLA)
    assert "reset the emergency stop first" in refused.message
    assert call(cell.graph, cell.operator, ResetEstop).reset
    cell.until_phase(IDLE)
    done = EpisodeState.CONFIRMATION_DONE
    cell.graph.until(lambda: cell.operator.state.confirmation == done, "the discarded episode is on disk")
    assert cell.start() == 2
    cell.until_phase(BASE)


def test_emergency_stop_by_the_service_ends_the_run(make_cell):
    cell = make_cell()
    handle = cell.send_goal(count=3)
    cell.until_steps(6)
    call(cell.graph, cell.operator, Estop, reason="test")
    result = handle.get_result_async()
    cell.graph.until(result.done, "the run is over")
    assert result.result().status == GoalStatus.STATUS_ABORTED
    assert "emergency stop" in result.result().result.message
    assert list(result.result().result.labels) == [EpisodeState.LABEL_DISCARD]
    assert max(state.episode_id for state in cell.operator.states) == 1


def test_an_executor_that_restarts_in_the_middle_discards_the_episode(make_cell):
    cell = make_cell(recorder=False)
    cell.start()
    cell.until_steps(6)
    cell.graph.until(lambda: cell.manager._control.ticks == 6, "the manager knows the ticks")
    cell.executor.ticks = 0
    cell.executor.show()
    cell.until_discarded()


def test_a_run_of_episodes(make_cell):
    cell = make_cell()
    handle = cell.send_goal(count=3, first_seed=100)
    labels = [EpisodeState.LABEL_SUCCESS, EpisodeState.LABEL_FAILURE, EpisodeState.LABEL_SUCCESS]
    for number, event in enumerate(
        (OperatorEvent.EVENT_SUCCESS, OperatorEvent.EVENT_FAILURE, OperatorEvent.EVENT_SUCCESS), start=1
    ):
        cell.graph.until(
            lambda number=number: (
                cell.operator.state.episode_id == number
                and cell.operator.state.phase == CRITICAL
                and cell.manager.count.next_step == 6
            ),
            f"episode {number} moves",
        )
        cell.press(event)
    result = handle.get_result_async()
    cell.graph.until(result.done, "the run is over")
    assert result.result().status == GoalStatus.STATUS_SUCCEEDED
    answer = result.result().result
    assert list(answer.episode_ids) == [1, 2, 3]
    assert list(answer.labels) == labels
    assert list(answer.critical_steps) == [6, 6, 6]
    assert list(answer.drivers) == [VLA] * 3
    assert [request.seed for request in cell.cell.requests] == [100, 101, 102]
    cell.graph.until(lambda: len(cell.feedback) == 3, "feedback of every episode")
    assert [(f.done, f.successes) for f in cell.feedback] == [(1, 1), (2, 1), (3, 2)]


def test_cancelling_a_run_discards_the_running_episode(make_cell):
    cell = make_cell()
    handle = cell.send_goal(count=3)
    cell.until_steps(6)
    assert "run_episodes is running" in call(cell.graph, cell.operator, StartEpisode, driver=VLA).message
    cell.graph.until(handle.cancel_goal_async().done, "the cancel is answered")
    result = handle.get_result_async()
    cell.graph.until(result.done, "the run is over")
    assert result.result().status == GoalStatus.STATUS_CANCELED
    assert list(result.result().result.labels) == [EpisodeState.LABEL_DISCARD]
    assert episode_metadata(cell.run / "episodes" / "000001.mcap")["label"] == "discard"
    assert cell.operator.state.phase == IDLE


def test_lockstep_training_waits_for_the_learner_and_names_the_actor(make_cell):
    cell = make_cell(learner={"ready": False, "actor_version": 1})
    handle = cell.send_goal(count=2, purpose=TRAIN, driver=RL)
    cell.until_steps(6)
    assert cell.operator.state.driver == VLA, "the actor is not ready"
    assert cell.operator.state.actor_version == 1
    assert cell.label(EpisodeState.LABEL_SUCCESS).durable
    cell.learner.say(ready=True, busy=True, last_episode_id=1, actor_version=1)
    cell.graph.until(lambda: cell.manager._training.busy, "the learner is busy")
    assert cell.operator.state.phase == LABELLED
    cell.learner.say(ready=True, busy=False, last_episode_id=1, actor_version=7)
    cell.graph.until(lambda: cell.operator.state.episode_id == 2 and cell.operator.state.phase == CRITICAL, "go on")
    assert cell.operator.state.actor_version == 7
    assert cell.operator.state.driver == RL
    cell.until_steps(6)
    cell.label(EpisodeState.LABEL_DISCARD)
    result = handle.get_result_async()
    cell.graph.until(result.done, "a discarded episode is not waited for")
    assert list(result.result().result.drivers) == [VLA, RL]


@pytest.mark.parametrize("driver", ["rl", "vla"])
def test_without_an_actor_only_the_vla_can_be_evaluated(make_cell, driver):
    manager = {"purpose": "evaluate", "driver": driver}
    cell = make_cell(learner={"ready": False, "actor_version": 0}, recorder=False, manager=manager)
    cell.press(OperatorEvent.EVENT_NEXT_EPISODE)
    if driver == "rl":
        cell.graph.until(lambda: "choose the VLA (mode:=eval driver:=vla)" in cell.manager._refused, "the refusal")
        assert cell.operator.state.phase == IDLE
    else:
        cell.until_phase(BASE)
        cell.press(OperatorEvent.EVENT_HANDOFF)
        cell.until_phase(CRITICAL)
        assert cell.operator.state.driver == VLA


def test_real_time_training_does_not_wait(make_cell):
    cell = make_cell(learner={"ready": True, "busy": True, "actor_version": 5}, tick="timer", recorder=False)
    cell.start(purpose=TRAIN, driver=RL, start_in="critical")
    cell.until_phase(CRITICAL)
    assert cell.operator.state.driver == RL
    assert cell.operator.state.actor_version == 0
    cell.label(EpisodeState.LABEL_SUCCESS)
    cell.until_phase(IDLE)
    assert scan(cell.run).last_episode_id == 1, "its number is not given again, though nothing is recorded"
    assert cell.start(purpose=TRAIN, driver=RL) == 2


def test_the_curriculum_goes_on_where_the_run_directory_stands(make_cell, tmp_path):
    task = tmp_path / "task.yaml"
    stages = [{"start_in": "critical", "episodes": 2}, {"start_in": "full"}]
    task.write_text(yaml.safe_dump({**yaml.safe_load(TASK.read_text()), "curriculum": stages}))
    cell = make_cell(task=task, tick="timer")

    def run_episode(purpose, label):
        episode_id = cell.start(purpose=purpose)
        cell.until_steps(6)
        assert cell.label(label).durable
        cell.until_phase(IDLE)
        path = cell.run / "episodes" / f"{episode_id:06d}.mcap"
        start_in = episode_metadata(path)["start_in"]
        assert start_in == cell.cell.requests[-1].start_in == cell.operator.state.start_in
        assert (BASE in cell.operator.phases(episode_id)) == (start_in == "full")
        return start_in

    success, discard = EpisodeState.LABEL_SUCCESS, EpisodeState.LABEL_DISCARD
    assert run_episode(TRAIN, success) == "critical"
    assert run_episode(EVALUATE, success) == "full", "the curriculum is of training alone"
    cell.graph.remove(cell.manager)
    cell.manager = cell.graph.add(EpisodeManagerNode())
    cell.graph.until(cell.manager._executor_alive, "the restarted manager hears the executor")
    cell.graph.until(lambda: cell.executor.control.get_subscription_count() >= 2, "its subscriptions are matched")
    cell.graph.until(lambda: cell.executor.executed.get_subscription_count() >= 2, "its subscriptions are matched")
    assert run_episode(TRAIN, discard) == "critical"
    assert run_episode(TRAIN, success) == "critical", "a discarded episode does not count"
    assert run_episode(TRAIN, success) == "full"


def test_evaluating_rl_without_an_actor_is_refused(make_cell):
    cell = make_cell(learner={"ready": False, "message": "no checkpoint"}, recorder=False)
    handle = cell.send_goal(count=2, driver=RL)
    result = handle.get_result_async()
    cell.graph.until(result.done, "the run is over")
    assert result.result().status == GoalStatus.STATUS_ABORTED
    assert "no checkpoint" in result.result().result.message


def test_without_a_recorder_nothing_moves(make_cell):
    cell = make_cell(recorder=None, recorder_timeout_s=0.3)
    cell.start()
    cell.until_discarded()
    assert "no recorder opened a file" in next(s for s in cell.operator.states if s.phase == LABELLED).reason
    assert not {BASE, CRITICAL} & set(cell.operator.phases(1))


def test_a_run_without_a_recorder_ends_by_itself(make_cell):
    cell = make_cell(recorder=None, recorder_timeout_s=0.3)
    result = cell.send_goal(count=5).get_result_async()
    cell.graph.until(result.done, "the run is over")
    assert result.result().status == GoalStatus.STATUS_ABORTED
    assert "2 episodes in a row were not recorded" in result.result().result.message
    assert list(result.result().result.labels) == [EpisodeState.LABEL_DISCARD] * 2
    assert scan(cell.run).last_episode_id == 2, (
        "a learner has heard of them: after a restart no other gets their numbers"
    )


def test_a_run_goes_on_after_the_recorder_was_restarted_in_the_middle(make_cell):
    cell = make_cell()
    handle = cell.send_goal(count=2)
    cell.until_steps(6)
    cell.graph.remove(cell.recorder)
    cell.recorder = cell.graph.add(RecorderNode())
    cell.graph.until(
        lambda: (
            cell.operator.state.episode_id == 2
            and cell.operator.state.phase == CRITICAL
            and cell.manager.count.next_step == 6
        ),
        "the next episode moves",
    )
    assert cell.label(EpisodeState.LABEL_SUCCESS).durable
    result = handle.get_result_async()
    cell.graph.until(result.done, "the run is over")
    assert result.result().status == GoalStatus.STATUS_SUCCEEDED
    assert list(result.result().result.labels) == [EpisodeState.LABEL_DISCARD, EpisodeState.LABEL_SUCCESS]
    assert sorted(p.name for p in (cell.run / "episodes").iterdir()) == ["000001.mcap.part", "000002.mcap"]


def ended_episodes(cell, *labels):
    """Episodes 1, 2, ... end with these labels."""
    for label in labels:
        cell.start(purpose=TRAIN, driver=EpisodeState.DRIVER_VLA)
        cell.until_steps(6)
        assert cell.label(label).durable
        cell.until_phase(IDLE)


def corrections(cell):
    return [json.loads(line) for line in (cell.run / "labels.jsonl").read_text().splitlines()]


def test_a_relabel_of_an_earlier_episode(make_cell):
    cell = make_cell(tick="timer")
    ended_episodes(cell, EpisodeState.LABEL_SUCCESS)
    assert cell.operator.state.successes == 1
    answer = cell.label(EpisodeState.LABEL_FAILURE, episode_id=1)
    assert (answer.accepted, answer.durable) == (True, True)
    assert corrections(cell) == [{"episode_id": 1, "label": "failure", "after_episode": 1}]
    cell.graph.until(lambda: cell.operator.state.successes == 0, "the count follows")
    assert cell.operator.state.label == EpisodeState.LABEL_FAILURE
    assert cell.label(EpisodeState.LABEL_FAILURE, episode_id=1).accepted
    assert len(corrections(cell)) == 1, "the same label again is no correction"
    assert "episode 5 cannot be relabelled" in cell.label(EpisodeState.LABEL_FAILURE, episode_id=5).message
    assert "cannot be given" in cell.label(EpisodeState.LABEL_TIMEOUT, episode_id=1).message

    cell.graph.remove(cell.manager)
    cell.manager = cell.graph.add(EpisodeManagerNode())
    cell.graph.until(lambda: cell.operator.state.episode_id == 2, "a restarted manager shows the next number")
    assert cell.label(EpisodeState.LABEL_SUCCESS, episode_id=1).accepted
    assert corrections(cell)[1]["after_episode"] == 1, "episode 2 has not begun"


def test_labels_are_taken_back_with_the_pad_one_episode_after_the_other(make_cell):
    cell = make_cell(tick="timer")
    success, failure, discard = (
        EpisodeState.LABEL_SUCCESS,
        EpisodeState.LABEL_FAILURE,
        EpisodeState.LABEL_DISCARD,
    )
    ended_episodes(cell, success, failure, discard)
    relabels = []
    cell.operator.create_subscription(Relabel, topics.RELABEL, relabels.append, topics.QOS_RELABEL)
    assert cell.manager.training_episodes == 2

    def picked(episode_id):
        cell.graph.until(lambda: cell.operator.state.relabelling == episode_id, f"episode {episode_id} is picked")

    for episode_id in (3, 2):
        cell.press(OperatorEvent.EVENT_UNDO)
        picked(episode_id)
    assert "episode 2 (failure)" in cell.operator.state.reason
    cell.press(OperatorEvent.EVENT_SUCCESS)
    picked(0)
    cell.press(OperatorEvent.EVENT_UNDO)
    picked(3)
    cell.press(OperatorEvent.EVENT_FAILURE)
    cell.graph.until(lambda: len(relabels) == 2, "both corrections are out")
    assert [(r.sequence, r.episode_id, r.label, r.after_episode) for r in relabels] == [
        (1, 2, success, 3),
        (2, 3, failure, 3),
    ]
    assert (cell.operator.state.successes, cell.manager.training_episodes) == (2, 3)

    for episode_id in (3, 2, 1):
        cell.press(OperatorEvent.EVENT_UNDO)
        picked(episode_id)
    cell.press(OperatorEvent.EVENT_UNDO)
    cell.graph.until(lambda: "no finished episode" in cell.manager._refused, "there is nothing before the first")
    cell.press(OperatorEvent.EVENT_NEXT_EPISODE)
    picked(0)
    assert cell.operator.state.phase == IDLE, "the press left the label, it began nothing"
    assert len(corrections(cell)) == 2

    cell.graph.remove(cell.manager)
    cell.manager = cell.graph.add(EpisodeManagerNode())
    assert (cell.manager.machine.episode.successes, cell.manager.training_episodes) == (2, 3)
    late = []
    cell.operator.create_subscription(Relabel, topics.RELABEL, late.append, topics.QOS_RELABEL)
    cell.graph.until(lambda: len(late) == 2, "a restarted manager says the corrections again")


def test_no_label_is_taken_back_while_the_arms_move_and_motion_drops_the_pick(make_cell):
    cell = make_cell(reset="operator")
    cell.start()
    cell.press(OperatorEvent.EVENT_UNDO)
    cell.graph.until(lambda: "no finished episode" in cell.manager._refused, "there is none yet")
    cell.graph.until(lambda: cell.manager.recordings.opened(1), "the recorder is ready")
    cell.press(OperatorEvent.EVENT_NEXT_EPISODE)
    cell.until_steps(6)
    cell.press(OperatorEvent.EVENT_UNDO)
    cell.graph.until(lambda: "cannot take a label back in BASE" in cell.manager._refused, "not while it moves")
    assert cell.label(EpisodeState.LABEL_SUCCESS).durable
    cell.until_phase(IDLE)
    cell.press(OperatorEvent.EVENT_UNDO)
    cell.graph.until(lambda: cell.operator.state.relabelling == 1, "episode 1 is picked")
    cell.start()
    assert cell.operator.state.relabelling == 0 or cell.operator.state.episode_id == 1
    cell.until_phase(EpisodeState.PHASE_RESETTING)
    assert cell.operator.state.relabelling == 0
    assert not (cell.run / "labels.jsonl").exists()


def test_the_operator_is_reminded_and_an_episode_that_nobody_resets_is_discarded(make_cell):
    skipped = [0.0]
    cell = make_cell(reset="operator", clock=lambda: time.monotonic() + skipped[0])
    cell.manager._wait = OperatorWait(remind_s=300.0)
    cell.manager.parameters = replace(cell.manager.parameters, reset_wait_s=600.0)
    cell.start()
    cell.graph.until(lambda: "reset the scene of episode 1" in cell.operator.state.waiting_for, "it waits visibly")
    skipped[0] = 301.0
    cell.graph.until(lambda: cell.operator.state.reminders == 1, "a reminder")
    skipped[0] = 601.0
    cell.until_discarded()
    assert "nobody came" in next(s.reason for s in cell.operator.states if s.phase == LABELLED)
    cell.graph.until(lambda: "press next episode" in cell.operator.state.waiting_for, "it waits for the next one")


def test_a_picked_label_that_nobody_gives_is_left_as_it_is(make_cell):
    skipped = [0.0]
    cell = make_cell(tick="timer", clock=lambda: time.monotonic() + skipped[0])
    ended_episodes(cell, EpisodeState.LABEL_SUCCESS)
    cell.press(OperatorEvent.EVENT_UNDO)
    cell.graph.until(lambda: "give episode 1 its label" in cell.operator.state.waiting_for, "it waits visibly")
    skipped[0] = 61.0
    cell.graph.until(lambda: not cell.operator.state.relabelling, "the pick is dropped")
    assert "episode 1 keeps its own" in cell.operator.state.reason
    assert cell.operator.state.label == EpisodeState.LABEL_SUCCESS
    assert not (cell.run / "labels.jsonl").exists()


def test_at_the_step_limit_the_operator_s_label_is_waited_for_where_that_is_set(make_cell):
    skipped = [0.0]
    cell = make_cell(clock=lambda: time.monotonic() + skipped[0], recorder=False)
    cell.manager.parameters = replace(cell.manager.parameters, label_wait_s=20.0)
    for label in (EpisodeState.LABEL_SUCCESS, EpisodeState.LABEL_TIMEOUT):
        cell.until_started()
        cell.until_phase(BASE)
        cell.until_steps(6)
        cell.executor.reach_limit()
        cell.graph.until(lambda: "label episode" in cell.operator.state.waiting_for, "it waits for a label")
        assert cell.operator.state.phase == BASE
        if label == EpisodeState.LABEL_SUCCESS:
            cell.press(OperatorEvent.EVENT_SUCCESS)
        else:
            skipped[0] += 21.0
        cell.until_phase(IDLE)
        assert cell.operator.state.label == label


def test_an_executor_that_falls_silent_discards_the_episode_and_the_operator_is_told(make_cell):
    cell = make_cell(recorder=False)
    cell.manager.parameters = replace(cell.manager.parameters, executor_timeout_s=1.0)
    cell.start()
    cell.until_steps(6)
    cell.graph.remove(cell.executor)
    cell.until_discarded()
    assert "the chunk executor is gone" in next(s.reason for s in cell.operator.states if s.phase == LABELLED)
    cell.graph.until(lambda: "restart_executor" in cell.operator.state.waiting_for, "what to do is said")
    cell.executor = cell.graph.add(FakeExecutor())
    cell.graph.until(lambda: "press next episode" in cell.operator.state.waiting_for, "it goes on")
    assert cell.until_started() == 2


def test_who_holds_the_take_over_button_while_the_scene_is_reset_drives_from_the_first_step(make_cell):
    cell = make_cell(reset="operator", recorder=False)
    cell.start()
    cell.until_phase(RESETTING)
    cell.press(OperatorEvent.EVENT_INTERVENE_START)
    cell.graph.until(lambda: "cannot take over in RESETTING" in cell.manager._refused, "not before it begins")
    cell.press(OperatorEvent.EVENT_NEXT_EPISODE)
    cell.until_phase(BASE)
    assert cell.operator.state.human_in_control
    assert "holds the take-over button" in cell.operator.state.reason


def test_a_restarted_manager_stands_still_and_goes_on_with_new_ids(make_cell):
    cell = make_cell()
    cell.start()
    cell.until_steps(6)
    epoch = cell.operator.state.epoch
    cell.graph.remove(cell.manager)
    cell.manager = cell.graph.add(EpisodeManagerNode())
    cell.graph.until(lambda: cell.operator.state.phase == IDLE, "the restarted manager is idle")
    assert (cell.operator.state.episode_id, cell.operator.state.epoch) > (1, epoch)
    cell.graph.until(lambda: cell.operator.statuses[-1].error, "the recorder says what became of the episode")
    assert "without a label" in cell.operator.statuses[-1].error
    cell.graph.until(lambda: cell.executor.state.phase == IDLE, "the executor has heard of it")
    cell.graph.until(cell.manager._executor_alive, "the manager hears the executor")
    assert cell.start() == 2
    cell.until_steps(6)
    assert cell.label(EpisodeState.LABEL_SUCCESS).durable


def as_process(name, cell, folder):
    """A node of the operator side in a process of its own, so that it can be killed."""
    parameters = {"robot": folder / "robot.yaml", "task": TASK, "run_directory": cell.run}
    arguments = ["--ros-args", "-r", f"__ns:={cell.graph.namespace}"]
    for key, value in parameters.items():
        arguments += ["-p", f"{key}:={value}"]
    code = f"from rlt_teleop.{name}_node import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=os.environ)


def test_a_manager_killed_right_after_the_label_loses_no_episode(make_cell, tmp_path):
    cell = make_cell(tick="timer")
    cell.graph.remove(cell.manager)
    cell.graph.until(lambda: not cell.operator.callers[StartEpisode].service_is_ready(), "the first manager is gone")
    process = as_process("episode_manager", cell, tmp_path)
    try:
        cell.graph.until(
            lambda: (
                cell.executor.control.get_subscription_count() >= 2
                and cell.operator.events.get_subscription_count() >= 2
            ),
            "the manager hears us",
        )
        assert cell.until_started(purpose=TRAIN) == 1
        cell.graph.until(lambda: cell.executor.step == 6 and cell.operator.state.phase == BASE, "the arms move")
        cell.recorder.recorder._settle_s = 600.0
        cell.executor.step += 1  # a step that the recorder waits for, until the manager is back
        cell.press(OperatorEvent.EVENT_SUCCESS)
        cell.until_phase(LABELLED)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    path = cell.run / "episodes" / "000001.mcap"
    assert not path.exists()
    manager = cell.graph.add(EpisodeManagerNode())
    cell.graph.until(path.exists, "the recorder makes it durable all the same")
    assert episode_metadata(path)["label"] == "success"
    cell.graph.until(lambda: cell.operator.state.successes == 1, "the restarted manager counts it")
    assert (cell.operator.state.episode_id, cell.operator.state.episodes) == (2, 1)
    assert manager.training_episodes == scan(cell.run).training_episodes == 1


def test_a_recorder_killed_in_the_middle_leaves_a_part_and_nothing_is_confirmed(make_cell, tmp_path):
    cell = make_cell(recorder=None, recorder_timeout_s=20.0)
    process = as_process("recorder", cell, tmp_path)
    try:
        cell.graph.until(
            lambda: (
                cell.executor.executed.get_subscription_count() >= 2
                and cell.executor.control.get_subscription_count() >= 2
                and cell.operator.count_publishers(topics.RECORDER_STATUS) >= 1
            ),
            "the recorder is there",
        )
        cell.start()
        cell.until_steps(6)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    cell.manager.recordings.timeout_s = 0.5
    answer = cell.label(EpisodeState.LABEL_SUCCESS)
    assert answer.accepted
    assert not answer.durable
    assert "did not confirm" in answer.message
    assert [path.name for path in (cell.run / "episodes").iterdir()] == ["000001.mcap.part"]
    cell.until_phase(IDLE)
    assert "did not confirm" in cell.operator.state.reason
    given = [state for state in cell.operator.states if state.label == EpisodeState.LABEL_SUCCESS]
    assert given, "the label was said"
    assert {state.confirmation for state in given} == {EpisodeState.CONFIRMATION_PENDING}
    state = cell.operator.state
    assert (state.label, state.confirmation) == (EpisodeState.LABEL_DISCARD, EpisodeState.CONFIRMATION_LOST)
    assert (state.episodes, state.successes) == (0, 0)
    assert "cannot be relabelled" in cell.label(EpisodeState.LABEL_SUCCESS, episode_id=1).message
    assert scan(cell.run).counts["episodes"] == 0, "after a restart the same"


def test_a_file_that_comes_after_its_episode_was_given_up_stays_a_discard_that_can_be_corrected(make_cell):
    cell = make_cell(recorder_timeout_s=10.0, tick="timer")
    cell.start(purpose=TRAIN)
    cell.until_steps(6)
    cell.manager.recordings.timeout_s = 0.1
    cell.recorder.recorder._settle_s = 3.0
    cell.executor.step += 1  # a step that the recorder never gets: it waits for it before it finishes the file
    cell.label(EpisodeState.LABEL_SUCCESS)
    lost = EpisodeState.CONFIRMATION_LOST
    cell.graph.until(lambda: cell.operator.state.confirmation == lost, "the manager gives the episode up")
    assert (cell.operator.state.episodes, cell.manager.training_episodes) == (0, 0)
    noted = corrections(cell)
    assert noted == [{"episode_id": 1, "label": "discard", "after_episode": 0}], "also for a manager that starts anew"
    done = EpisodeState.CONFIRMATION_DONE
    cell.graph.until(lambda: cell.operator.state.confirmation == done, "its file comes late")
    assert cell.operator.state.label == EpisodeState.LABEL_DISCARD
    counts = scan(cell.run).counts
    assert (counts["episodes"], counts["discards"]) == (1, 1)
    assert corrections(cell) == noted
    assert (cell.operator.state.episodes, cell.operator.state.discards) == (1, 1)
    assert cell.label(EpisodeState.LABEL_SUCCESS, episode_id=1).accepted
    cell.graph.until(lambda: cell.operator.state.successes == 1, "the label is given back")
    assert (scan(cell.run).counts["successes"], cell.manager.training_episodes) == (1, 1)


def test_a_recorder_that_is_killed_and_restarted_after_the_label_loses_the_episode_visibly(make_cell, tmp_path):
    cell = make_cell(recorder=None, recorder_timeout_s=60.0)
    process = as_process("recorder", cell, tmp_path)
    try:
        cell.graph.until(
            lambda: (
                cell.executor.executed.get_subscription_count() >= 2
                and cell.operator.count_publishers(topics.RECORDER_STATUS) >= 1
            ),
            "the recorder is there",
        )
        handle = cell.send_goal(count=1)
        cell.until_steps(6)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    cell.press(OperatorEvent.EVENT_SUCCESS)
    cell.until_phase(LABELLED)
    cell.graph.add(RecorderNode())
    cell.until_phase(IDLE)
    assert cell.operator.state.label == EpisodeState.LABEL_DISCARD
    assert "the recorder was interrupted" in cell.operator.state.reason
    result = handle.get_result_async()
    cell.graph.until(result.done, "the run is over")
    assert list(result.result().result.labels) == [EpisodeState.LABEL_DISCARD]


def test_on_a_robot_the_state_is_repeated_as_a_sign_of_life_and_journalled_once(make_graph, tmp_path):
    cell = Cell(make_graph, tmp_path, tick="timer")
    episode_id = cell.start()
    cell.until_phase(BASE)
    cell.until_steps(6)
    repeats = len(cell.operator.states)
    cell.graph.until(lambda: len(cell.operator.states) >= repeats + 5, "five repeats")
    assert {state.epoch for state in cell.operator.states[repeats:]} == {cell.operator.state.epoch}
    cell.press(OperatorEvent.EVENT_SUCCESS)
    cell.until_phase(IDLE)
    path = cell.run / "episodes" / f"{episode_id:06d}.mcap"
    states = [entry.message for entry in read_messages(path, (topics.EPISODE_STATE,))]
    told = [(state.epoch, state.phase, state.label) for state in states]
    assert len(set(told)) == len(told)


def test_in_lockstep_the_state_is_said_once(make_graph, tmp_path):
    cell = Cell(make_graph, tmp_path)
    cell.start()
    cell.until_phase(BASE)
    cell.until_steps(6)
    told = len(cell.operator.states)
    reports = []
    cell.operator.create_subscription(ControlState, topics.CONTROL_STATE, reports.append, topics.QOS_LATCHED)
    cell.graph.until(lambda: len(reports) >= 5, "the executor's reports of most of a second")
    assert len(cell.operator.states) == told
