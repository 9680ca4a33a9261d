"""The simulated robot's files say what the scene is, and the collected files what the expert did."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from ament_index_python.packages import get_package_share_directory

from rlt_common.codecs import observation_from_msg
from rlt_common.config import load_robot, load_task
from rlt_common.episode_file import episode_metadata, read_messages
from rlt_common.kinematics import build_kinematics
from rlt_common.parameters import ParameterError
from rlt_common.rotations import rotation_matrix
from rlt_control.arms import motion_limits
from rlt_sim import arms
from rlt_sim.collect import demonstrate
from rlt_sim.collect_command import main, write_demonstration
from rlt_sim.task_cell import make_cell

CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"
ROBOT = load_robot(CONFIG / "robots" / "sim.yaml")
TASK = load_task(CONFIG / "tasks" / "screw.yaml")


def test_the_kinematics_file_is_the_cell_s_arms():
    assert ROBOT.kinematics_path.read_text(encoding="utf-8") == arms.arms_xml()


def test_the_robot_file_has_the_cell_s_homes_and_limits():
    for arm in ROBOT.arms:
        np.testing.assert_allclose(arm.home_position, arms.HOME_POSITIONS[arm.name], atol=1e-9)
        rotation = rotation_matrix(np.array(arm.home_rotation))
        np.testing.assert_allclose(rotation, arms.HOME_ROTATIONS[arm.name], atol=1e-6)
    assert motion_limits(ROBOT, build_kinematics(ROBOT)) == arms.make_limits()


def test_an_unknown_simulation_option_is_an_error():
    task = load_task(CONFIG / "tasks" / "screw.yaml")
    object.__setattr__(task, "simulation", {"slipp": 1.0})
    with pytest.raises(ParameterError, match="slipp"):
        make_cell(ROBOT, task)


@pytest.mark.parametrize("change", [{"crop": (0, 0, 8, 8)}, {"rotation": 90}, {"transport": "compressed"}])
def test_what_a_simulated_camera_cannot_do_is_an_error(change):
    """Demonstrations are written from the scene's images, the graph takes them through the ingest: they must agree."""
    cameras = (replace(ROBOT.cameras[0], **change), *ROBOT.cameras[1:])
    with pytest.raises(ParameterError, match="camera base: a simulated camera takes no"):
        make_cell(replace(ROBOT, cameras=cameras), TASK)


def test_a_demonstration_file_holds_what_was_done(tmp_path):
    demo = demonstrate(make_cell(ROBOT, TASK), seed=3, stride=8)
    path = tmp_path / "000001.mcap"
    write_demonstration(path, demo, 1, ROBOT, TASK)
    actions = [e.message for e in read_messages(path, ["executed_action"])]
    np.testing.assert_array_equal(np.stack([np.frombuffer(a.action, np.float32) for a in actions]), demo.actions)
    seen = [observation_from_msg(e.message) for e in read_messages(path, ["observation"])]
    assert len(seen) == len(demo.samples)
    np.testing.assert_array_equal(seen[2].images, demo.samples[2].images)
    np.testing.assert_array_equal(seen[2].blocks["ee_pose"], demo.samples[2].tool_pose)
    assert seen[2].stamp_ns == actions[0].header.stamp.sec * 10**9 + 16 * 20_000_000
    facts = episode_metadata(path)
    assert (facts["label"], facts["seed"], facts["steps"]) == ("success", "3", str(len(demo.actions)))


def test_scripted_demonstrations_are_refused_for_actions_from_the_measured_pose(tmp_path):
    values = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())
    values |= {"relative_to": "measured", "kinematics": str(ROBOT.kinematics_path)}
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(
        SystemExit, match="relative_to: measured: scripted demonstrations are relative to the commanded"
    ):
        main(["--robot", str(path), "--task", str(CONFIG / "tasks" / "screw.yaml"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
