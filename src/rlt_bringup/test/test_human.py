"""A human begins, hands off, intervenes, goes silent, gives back and labels: in simulation, with every real process.

The Joy messages are those of the keyboard node (test_keyboard.py of rlt_teleop has the node itself).
"""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from human_scene import KEYS, Scene, playing
from small_models import small_vla

from rlt_bringup.graph import GraphOptions, config_file, resolve
from rlt_common import topics
from rlt_common.config import load_robot, load_task
from rlt_common.episode_file import episode_metadata, read_messages
from rlt_msgs.msg import ActionChunk, EpisodeState, ExecutedAction, OperatorEvent
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.networks import Layout
from rlt_rl_node.records import EpisodeKey
from rlt_rl_node.replay import Replay
from rlt_vla_node import dataset_command

ROBOT = load_robot(config_file("robots", "sim"))
TASK = load_task(config_file("tasks", "screw"))
EPISODE = 1
FORWARD = 0.55
STEP_M = 0.5 * KEYS.linear_speed / ROBOT.control_hz
"""What that deflection means beyond a dead zone of 0.1."""
HUMAN, HOLD, VLA = ExecutedAction.SOURCE_HUMAN, ExecutedAction.SOURCE_HOLD, ExecutedAction.SOURCE_VLA


def act(scene: Scene) -> None:
    """One training episode with an intervention in the critical phase and a device that goes silent in it."""
    person = scene.person
    scene.until(lambda: person.training.stage and person.joy.get_subscription_count(), "learner and joystick node")
    scene.press("next_episode", lambda: person.state.phase == EpisodeState.PHASE_BASE, "the episode")
    scene.steps(VLA, 12)
    scene.press("handoff", lambda: person.state.phase == EpisodeState.PHASE_CRITICAL, "the hand-off")
    scene.steps(VLA, 12)

    person.forward = FORWARD
    person.held.add("enable")
    scene.steps(HUMAN, 25)
    person.silent = True
    scene.steps(HOLD, 10)
    assert person.state.human_in_control, "the arms hold, nothing is given back"
    person.silent, person.forward = False, 0.0
    person.held.discard("enable")
    scene.until(lambda: not person.state.human_in_control, "control is given back")
    scene.steps(VLA, 12)

    scene.press("success", lambda: person.state.label == EpisodeState.LABEL_SUCCESS, "the label")
    scene.until(lambda: person.state.phase == EpisodeState.PHASE_IDLE, "the recorder's and the learner's word")
    scene.until(lambda: person.training.last_episode_id == EPISODE, "the learner's count")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The run directory of the played episode."""
    run = tmp_path_factory.mktemp("human") / "run"
    torch.set_num_threads(1)
    small_vla(run / "vla", ROBOT, TASK)
    task = yaml.safe_load(config_file("tasks", "screw").read_text())
    # Patience for a slow machine: silence is what this test makes, not what the machine does.
    task["nodes"]["joy_operator"] = {"silence_s": 1.0}
    own = run / "own.yaml"
    own.write_text(yaml.safe_dump(task))
    options = GraphOptions(task=str(own), run=str(run), mode="train", operator="human", joy="keyboard")
    with playing(resolve(options)) as scene:
        act(scene)
    return run


def executed(run) -> list[ExecutedAction]:
    return [e.message for e in read_messages(run / "episodes" / f"{EPISODE:06d}.mcap", [topics.EXECUTED_ACTION])]


@pytest.mark.timeout(600)
def test_the_episode_is_recorded_with_every_driver_and_no_gap(played):
    facts = episode_metadata(played / "episodes" / f"{EPISODE:06d}.mcap")
    assert facts["label"] == "success"
    steps = executed(played)
    assert [m.step for m in steps] == list(range(len(steps)))
    assert {m.source for m in steps} == {HUMAN, HOLD, VLA}


def test_the_human_moves_the_selected_arm_forward_and_nothing_else_in_steps_within_the_limit(played):
    human = [m for m in executed(played) if m.source == HUMAN]
    actions = np.array([m.action for m in human])
    assert actions[:, 0] == pytest.approx(STEP_M, abs=1e-6)
    assert np.abs(actions[:, 1:]).max() < 1e-6
    assert all(m.reference == m.action and not any(m.clamped) for m in human)


def test_the_take_over_has_no_jump(played):
    steps = executed(played)
    targets = np.array([m.joint_target for m in steps])
    first = next(i for i, m in enumerate(steps) if m.source == HUMAN)
    assert np.abs(np.diff(targets[first - 1 : first + 2], axis=0)).max() < 0.02, "rad; the tool moves half a mm a step"


def test_a_silent_device_holds_and_does_not_give_back(played):
    steps = executed(played)
    last_human = max(i for i, m in enumerate(steps) if m.source == HUMAN)
    epoch = steps[last_human].epoch
    silent = [m for m in steps[last_human + 1 :] if m.epoch == epoch]
    assert len(silent) >= 10
    assert all(m.source == HOLD and not any(m.action) for m in silent)


def test_giving_back_raises_the_epoch_and_takes_a_fresh_chunk(played):
    steps = executed(played)
    last_human = max(i for i, m in enumerate(steps) if m.source == HUMAN)
    epoch = steps[last_human].epoch
    given_back = [m for m in steps[last_human:] if m.epoch > epoch]
    after = next(m for m in given_back if m.source != HOLD)
    assert given_back.index(after) < TASK.stride, "it holds only until the next step that an observation is taken in"
    assert (after.source, after.epoch, after.row) == (VLA, epoch + 1, 0)
    before = {m.chunk_id for m in steps[:last_human]}
    assert after.chunk_id not in before
    path = played / "episodes" / f"{EPISODE:06d}.mcap"
    chunks = {e.message.chunk_id: e.message for e in read_messages(path, [topics.ACTION_CHUNK])}
    chunk: ActionChunk = chunks[after.chunk_id]
    assert (chunk.first_step, chunk.epoch) == (after.step, after.epoch)


def test_the_events_of_the_keys_are_in_the_bag_in_order(played):
    path = played / "episodes" / f"{EPISODE:06d}.mcap"
    events = [e.message.event for e in read_messages(path, [topics.OPERATOR_EVENT])]
    E = OperatorEvent
    wanted = [E.EVENT_HANDOFF, E.EVENT_INTERVENE_START, E.EVENT_INTERVENE_STOP, E.EVENT_SUCCESS]
    assert [event for event in events if event in wanted] == wanted


def test_the_replay_has_the_human_s_action_in_place_of_the_reference(played):
    data = EpisodeStore(played / "encoded").load(EpisodeKey(EPISODE))
    assert HUMAN in data.sources
    layout = Layout(data.rl_tokens.shape[1], data.rl_states.shape[1], ROBOT.action_dim, TASK.chunk_length, (8,))
    replay = Replay(layout, TASK.stride, 0.99, torch.ones(ROBOT.action_dim), capacity=2000)
    assert replay.add(data) > 0
    batch = replay.gather(torch.arange(len(replay)))
    forward = batch.action.view(len(replay), TASK.chunk_length, -1)[..., 0]
    valid = batch.valid.view(len(replay), TASK.chunk_length, -1)[..., 0].bool()
    human = valid & torch.isclose(forward, torch.tensor(STEP_M), atol=1e-6)
    assert human.sum() >= 20
    action = batch.action.view(*human.shape, -1)
    reference = batch.reference.view(*human.shape, -1)
    assert torch.equal(action[human], reference[human])
    wholly = human.all(1)
    assert wholly.any(), "whole chunks of the human's"


def test_the_episode_becomes_a_data_set_with_its_drivers(played, tmp_path):
    files = ["--robot", str(config_file("robots", "sim")), "--task", str(played / "own.yaml")]
    dataset_command.main([*files, "--episodes", str(played / "episodes"), "--output", str(tmp_path / "set")])
    table = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    steps = sorted(executed(played), key=lambda message: message.step)
    assert table["control_source"].to_pylist() == [message.source for message in steps]
    assert {HUMAN, HOLD, VLA} == set(table["control_source"].to_pylist())
    assert table["is_intervention"].to_pylist() == [message.source == HUMAN for message in steps]
    assert table["action"].to_pylist() == [list(message.action) for message in steps]
    assert table["executed.joint_target"].to_pylist() == [list(message.joint_target) for message in steps]
    assert [place for place, reward in enumerate(table["next.reward"].to_pylist()) if reward] == [len(steps) - 1]
