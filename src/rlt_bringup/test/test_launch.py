"""The launch files under launch itself, where ROS 2's launch is installed: it is not on PyPI."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("launch_ros", "launch_testing")),
    reason="launch_ros and launch_testing are not installed: they come with a ROS 2 installation",
)
SHOW = """
import sys
from launch import LaunchDescription
from launch.actions import ExecuteProcess


def generate_launch_description():
    names = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "OMP_NUM_THREADS")
    code = f"import os; print('found', *(os.environ.get(name) for name in {names}))"
    return LaunchDescription([ExecuteProcess(cmd=[sys.executable, "-c", code], output="screen")])
"""
DRIVE = """
from launch import LaunchDescription, LaunchService
from rlt_bringup.launch_graph import _driver
from rlt_bringup.process_environment import set_defaults
from rlt_common.driver_launch import DriverLaunch

service = LaunchService()
service.include_launch_description(
    LaunchDescription([_driver(DriverLaunch("shows", "show.launch.py"), "cell", set_defaults())])
)
service.run()
"""
COMMAND = """
import sys
from launch import LaunchDescription, LaunchService
from rlt_bringup.launch_graph import _one_command

service = LaunchService()
command = [sys.executable, "-c", f"raise SystemExit({sys.argv[1]})"]
service.include_launch_description(LaunchDescription(_one_command("replay", command)))
sys.exit(service.run())
"""


def launched(*words, name="screw"):
    """What launch says of a launch file with these arguments, as `ros2 launch` runs it."""
    code = (
        "import sys\n"
        "from launch import LaunchDescription, LaunchService\n"
        "from launch.actions import IncludeLaunchDescription\n"
        "from launch.launch_description_sources import AnyLaunchDescriptionSource\n"
        "file, words = sys.argv[1], sys.argv[2:]\n"
        "given = [tuple(word.split(':=')) for word in words]\n"
        "service = LaunchService(argv=words)\n"
        "included = IncludeLaunchDescription(AnyLaunchDescriptionSource(file), launch_arguments=given)\n"
        "service.include_launch_description(LaunchDescription([included]))\n"
        "sys.exit(service.run())\n"
    )
    file = Path(get_package_share_directory("rlt_bringup")) / "launch" / f"{name}.launch.py"
    result = subprocess.run([sys.executable, "-c", code, file, *words], capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    return result.stdout + result.stderr


def test_a_misspelt_argument_starts_nothing():
    assert "unknown launch argument 'mod': did you mean 'mode'" in launched("mod:=dry_run")


def test_a_task_of_one_s_own_is_read():
    assert "tasks: no file /nowhere/my_task.yaml" in launched("task:=/nowhere/my_task.yaml")


@pytest.mark.parametrize(("status", "launch_returns"), [(0, 0), (1, 1), (2, 1)])
def test_a_launch_of_one_command_fails_when_the_command_does(status, launch_returns):
    command = [sys.executable, "-c", COMMAND, str(status)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == launch_returns, result.stdout + result.stderr
    assert (f"replay ended with status {status}" in result.stdout + result.stderr) == bool(status)


def test_a_replay_of_what_is_no_episode_fails():
    said = launched("bag:=/nowhere/episodes/000001.mcap", name="replay")
    assert "replay: /nowhere/episodes/000001.mcap: No such file" in said
    assert "replay ended with status 2" in said


def test_a_driver_s_launch_file_stays_on_this_machine_too(tmp_path):
    """launch takes the environment of a group back to what it was before our launch file was read."""
    share = tmp_path / "share"
    (share / "shows" / "launch").mkdir(parents=True)
    (share / "shows" / "launch" / "show.launch.py").write_text(SHOW)
    (share / "ament_index" / "resource_index" / "packages").mkdir(parents=True)
    (share / "ament_index" / "resource_index" / "packages" / "shows").touch()
    environment = {k: v for k, v in os.environ.items() if k not in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "OMP_NUM_THREADS")}
    environment["AMENT_PREFIX_PATH"] = f"{tmp_path}:{environment['AMENT_PREFIX_PATH']}"
    command = [sys.executable, "-c", DRIVE]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert "found LOCALHOST 1" in result.stdout + result.stderr


@pytest.mark.timeout(600)
def test_the_screw_launch_file_brings_up_a_graph_that_records_episodes():
    command = [sys.executable, "-m", "launch_testing.launch_test", HERE / "launch_screw.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, (result.stdout + result.stderr)[-8000:]
