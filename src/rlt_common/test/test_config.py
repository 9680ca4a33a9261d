"""Robot and task files: what they give, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from ament_index_python.packages import get_package_share_directory

from rlt_common.config import CameraConfig, config_hash, kinematics_hash, load_robot, load_task
from rlt_common.parameters import ParameterError, from_mapping

CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"


@pytest.fixture
def files(tmp_path):
    """Writable copies of the simulated robot and the screw task, as (path, values) editors."""
    shutil.copytree(CONFIG, tmp_path / "config")

    def edit(name, **changes):
        path = tmp_path / "config" / name
        values = yaml.safe_load(path.read_text())
        values.update(changes)
        path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
        return path

    return edit


def test_the_simulated_robot_has_the_paper_s_action_and_a_limit_per_component():
    robot = load_robot(CONFIG / "robots" / "sim.yaml")
    assert robot.action_dim == 14
    assert robot.block_sizes == {"joint_position": 14, "joint_velocity": 14, "joint_effort": 14, "ee_pose": 12}
    np.testing.assert_allclose(robot.step_limit, ([0.005] * 3 + [0.05] * 3 + [0.005]) * 2)


def test_the_screw_task_has_the_paper_s_chunks():
    task = load_task(CONFIG / "tasks" / "screw.yaml")
    assert (task.horizon, task.chunk_length, task.stride) == (50, 10, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrl_hz": 50.0}, "unknown key 'contrl_hz'"),
        ({"joint_names": None}, "missing key 'joint_names'"),
        ({"control_hz": 0.0}, "least allowed"),
        ({"tick": "sometimes"}, "choose one of timer, joint_states"),
        ({"kinematics": "nowhere.xml"}, "no file"),
        ({"cameras": []}, "at least one camera"),
        ({"folder": "/tmp"}, "unknown key 'folder'"),
        ({"limits": {"step_translation": -1.0}}, "least allowed"),
        ({"limits": {"joint_velocity": 0.0}}, "least allowed"),
        ({"joint_limits": {"left_waits": [0, 1]}}, "joint_limits: unknown joint 'left_waits'"),
        ({"joint_limits": {"left_waist": [1, 0]}}, "left_waist: 1.0 is not below 0.0"),
        ({"joint_limits": {"left_waist": [0]}}, "left_waist: expected 2 finite numbers"),
        ({"joint_limits": {"left_waist": [0, float("nan")]}}, "left_waist: expected 2 finite numbers"),
        ({"joint_limits": ["left_waist"]}, "joint_limits: expected a mapping"),
        ({"joint_velocity_limits": {"left_gripper": 1.0}}, "joint_velocity_limits: unknown joint 'left_gripper'"),
        ({"joint_velocity_limits": {"left_waist": -1.0}}, "left_waist: -1.0 must be above 0 rad/s"),
        ({"joint_velocity_limits": {"left_waist": "fast"}}, "left_waist: expected 1 finite numbers"),
        ({"camera_timeout_frames": 0}, "least allowed"),
    ],
)
def test_a_bad_robot_file_is_refused_by_name(files, changes, message):
    path = files("robots/sim.yaml", **changes)
    with pytest.raises(ParameterError, match=message):
        load_robot(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wrench_topic": "wrench"}, "belong together"),
        ({"max_force": 10.0, "max_torque": 1.0}, "belong together"),
        ({"wrench_topic": "wrench", "max_force": 10.0}, "belong together"),
        ({"tool_min": [0.0, 0.0]}, "tool_min needs 3 values"),
        ({"tool_min": [0.01, 0.0, 0.0]}, "must lie between tool_min and tool_max"),
    ],
)
def test_a_bad_arm_is_refused_by_name(files, changes, message):
    arms = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())["arms"]
    arms[1].update(changes)
    with pytest.raises(ParameterError, match=f"arm right: .*{message}"):
        load_robot(files("robots/sim.yaml", arms=arms))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transport": "theora"}, "in_transport:=theora -p out_transport:=compressed"),
        ({"compressed": True}, "unknown key 'compressed'"),
        ({"rotation": 45}, "rotation 45: choose one of 0, 90, 180, 270"),
        ({"crop": [0, 0, 64]}, "give .left, top, width, height."),
        ({"crop": [0, 0, 64, 0]}, "width and height above 0"),
        ({"crop": [-1, 0, 64, 64]}, "least allowed is 0"),
        ({"delay_s": 2.0}, "most allowed is 1.0"),
        ({"v4l2": {"exposure": 80}}, "v4l2 has settings for a device, and no device is given"),
        ({"device": "/dev/video0", "v4l2": {"pixel_format": "H264"}}, "choose one of MJPG, YUYV"),
        ({"device": "/dev/video0", "v4l2": {"exposur": 80}}, "unknown key 'exposur'"),
    ],
)
def test_a_bad_camera_is_refused_by_name(files, changes, message):
    cameras = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())["cameras"]
    cameras[1].update(changes)
    with pytest.raises(ParameterError, match=message):
        load_robot(files("robots/sim.yaml", cameras=cameras))


def test_the_cameras_of_the_documentation_are_valid():
    text = (Path(__file__).resolve().parents[3] / "docs" / "cameras.md").read_text()
    values = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    base, wrist = (from_mapping(CameraConfig, camera, "docs/cameras.md") for camera in values["cameras"])
    assert (base.crop, base.rotation, base.delay_s) == ((80, 0, 480, 480), 180, 0.035)
    assert (wrist.device[:5], wrist.v4l2.exposure) == ("/dev/", 156)


def test_limits_of_single_joints_are_read(files):
    limits = {"joint_limits": {"left_waist": [-1, 1.5]}, "joint_velocity_limits": {"right_elbow": 2}}
    robot = load_robot(files("robots/sim.yaml", **limits))
    assert robot.joint_limits == {"left_waist": (-1.0, 1.5)}
    assert robot.joint_velocity_limits == {"right_elbow": 2.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_length": 9}, "multiple of stride"),
        ({"prefetch_steps": 46}, "fit into the horizon"),
        ({"rl_state": ["temperature"]}, "unknown proprioception block 'temperature'"),
        ({"beta": 0.1}, "unknown key 'beta'"),
        ({"handoff_outputs": 0}, "least allowed is 1"),
        ({"curriculum": [{"start_in": "middle"}]}, "choose one of full, critical"),
        ({"curriculum": [{"start_in": "critical", "episode": 3}]}, "unknown key 'episode'"),
        ({"curriculum": [{"start_in": "critical"}, {"start_in": "full"}]}, "every stage but the last needs a number"),
        ({"curriculum": [{"start_in": "critical", "episodes": 40}]}, "the last has none"),
    ],
)
def test_a_bad_task_file_is_refused_by_name(files, changes, message):
    path = files("tasks/screw.yaml", **changes)
    with pytest.raises(ParameterError, match=message):
        load_task(path)


def test_the_curriculum_names_where_each_training_episode_starts(files):
    stages = [{"start_in": "critical", "episodes": 2}, {"start_in": "full", "episodes": 1}, {"start_in": "critical"}]
    task = load_task(files("tasks/screw.yaml", curriculum=stages))
    starts = [task.training_start(done) for done in range(5)]
    assert starts == ["critical", "critical", "full", "critical", "critical"]


def test_without_a_curriculum_training_starts_where_everything_does(files):
    assert load_task(CONFIG / "tasks" / "screw.yaml").training_start(7) == "full"
    assert load_task(files("tasks/screw.yaml", start_in="critical")).training_start(0) == "critical"


def test_files_that_are_no_yaml_or_not_there(tmp_path):
    with pytest.raises(ParameterError, match="No such file"):
        load_task(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(ParameterError, match="not valid YAML"):
        load_task(tmp_path / "bad.yaml")


@pytest.mark.parametrize("edited", ["aloha_arms.xml", "vx300s_arm.xml"])
def test_the_hash_of_the_arms_follows_their_model_and_what_it_includes(tmp_path, edited):
    robots = CONFIG / "robots"
    for name in ("aloha.yaml", "aloha_arms.xml", "vx300s_arm.xml"):
        (tmp_path / name).write_bytes((robots / name).read_bytes())
    copy = load_robot(tmp_path / "aloha.yaml")
    shipped = kinematics_hash(load_robot(robots / "aloha.yaml"))
    assert kinematics_hash(copy) == shipped
    text = (tmp_path / edited).read_text()
    (tmp_path / edited).write_text(text.replace('pos="', 'pos="0.1', 1))
    assert (tmp_path / edited).read_text() != text
    assert kinematics_hash(copy) != shipped


def test_the_hash_follows_the_content_not_the_folder(files):
    robot = load_robot(CONFIG / "robots" / "sim.yaml")
    copy = load_robot(files("robots/sim.yaml"))
    assert config_hash(robot) == config_hash(copy)
    assert config_hash(robot) != config_hash(load_robot(files("robots/sim.yaml", control_hz=25.0)))
