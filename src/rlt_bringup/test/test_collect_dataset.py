"""`mode:=collect` to training data: a person drives in simulation, the recorder's file becomes a data set, and back."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from human_scene import playing

from rlt_bringup.graph import GraphOptions, config_file, resolve
from rlt_common import topics
from rlt_common.config import load_robot, load_task
from rlt_common.episode_file import read_messages
from rlt_common.kinematics import build_kinematics
from rlt_common.vla_config import load_vla
from rlt_msgs.msg import EpisodeState, ExecutedAction
from rlt_vla_node import dataset_command
from rlt_vla_node.anchor import anchor_of_joints
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.dataset import load_demonstrations
from rlt_vla_node.lerobot_demonstrations import dataset_demonstrations

VLA_FILE = """\
backend: lerobot
source: policy
control_hz: 50.0
state: [left.joints, left.gripper, right.joints, right.gripper]
actions: [left.position, left.rotation_6d_rows, left.gripper, right.joints, right.gripper]
action_kind: absolute
cameras: {top: base}
"""
FILES = {"robot": config_file("robots", "sim"), "task": config_file("tasks", "screw")}
HUMAN = ExecutedAction.SOURCE_HUMAN


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Folder of the episode that a person drove: both phases, labelled a success."""
    run = tmp_path_factory.mktemp("collect") / "run"
    options = GraphOptions(task="screw", run=str(run), mode="collect", operator="human", joy="keyboard")
    with playing(resolve(options)) as scene:
        person = scene.person
        scene.until(person.joy.get_subscription_count, "the joystick node")
        scene.press("next_episode", lambda: person.state.phase == EpisodeState.PHASE_BASE, "the episode")
        person.forward = 0.55
        scene.drive(20)
        scene.press("handoff", lambda: person.state.phase == EpisodeState.PHASE_CRITICAL, "the hand-off")
        scene.drive(20)
        scene.press("success", lambda: person.state.label == EpisodeState.LABEL_SUCCESS, "the label")
        scene.until(lambda: person.state.phase == EpisodeState.PHASE_IDLE, "the recorder's word")
    return run / "episodes"


@pytest.mark.timeout(600)
def test_a_collected_episode_becomes_a_data_set_and_the_same_demonstrations(collected, tmp_path, capsys):
    target = tmp_path / "set"
    files = [word for name, path in FILES.items() for word in (f"--{name}", str(path))]
    dataset_command.main([*files, "--episodes", str(collected), "--output", str(target)])
    assert "1 episode files became 1 episodes" in capsys.readouterr().out
    table = pq.read_table(target / "data/chunk-000/file-000.parquet")
    messages = [e.message for e in read_messages(collected / "000001.mcap", [topics.EXECUTED_ACTION])]
    steps = sorted(messages, key=lambda message: message.step)
    assert table["is_intervention"].to_pylist() == [message.source == HUMAN for message in steps]
    assert sum(table["is_intervention"].to_pylist()) >= 40
    assert table["executed.joint_target"].to_pylist() == [list(message.joint_target) for message in steps]
    robot, task = load_robot(FILES["robot"]), load_task(FILES["task"])
    ours = load_demonstrations(collected, robot, task, 2)
    theirs = dataset_demonstrations(target, robot, task, 2)
    for name in ("images", "actions", "executed", "episode"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(ours.state(task.vla_state), theirs.state(task.vla_state))


@pytest.mark.timeout(600)
def test_the_data_set_of_a_policy_played_back_by_its_layout_is_what_was_executed(collected, tmp_path):
    """Chunk and anchor as at run time: the frame's action is where its step ended."""
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    files = [word for name, path in FILES.items() for word in (f"--{name}", str(path))]
    files += ["--vla", str(tmp_path / "vla.yaml")]
    dataset_command.main([*files, "--episodes", str(collected), "--output", str(tmp_path / "set")])
    table = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    column = {name: np.array(table[name].to_pylist()) for name in ("action", "executed.action")}
    targets = np.array(table["executed.joint_target"].to_pylist())
    measured = np.array(table["proprioception.joint_position"].to_pylist())
    robot, vla = load_robot(FILES["robot"]), load_vla(tmp_path / "vla.yaml")
    kinematics = build_kinematics(robot)
    layout = ChunkLayout(vla, robot, kinematics)
    horizon = 10
    for row in range(1, len(targets) - horizon, 7):
        anchor = anchor_of_joints(robot, kinematics, targets[row - 1], 0)
        found = layout.to_actions(column["action"][row : row + horizon], measured[row], horizon, anchor)
        np.testing.assert_allclose(found, column["executed.action"][row : row + horizon], atol=2e-6)
