"""Drivers' own launch files: what a robot file may say, on which machine they are included, and what is missing."""

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory

from rlt_bringup import drivers
from rlt_bringup.graph import GraphOptions, config_file, resolve
from rlt_common.config import load_robot
from rlt_common.driver_launch import DriverLaunch
from rlt_common.parameters import ParameterError

ARMS = {"package": "rlt_bringup", "file": "replay.launch.py", "arguments": {"bag": "x.mcap", "rate": 50, "fake": True}}


def robot_file(folder, launch, **changes):
    source = config_file("robots", "sim")
    values = yaml.safe_load(source.read_text())
    values["kinematics"] = str(source.parent / values["kinematics"])
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({**values, "tick": "timer", "reset": "operator", "launch": launch, **changes}))
    return path


def included(tmp_path, **options):
    robot = robot_file(tmp_path, [ARMS])
    return resolve(GraphOptions(robot=str(robot), run=str(tmp_path), **options)).drivers


def test_arguments_become_the_texts_of_a_command_line(tmp_path):
    robot = load_robot(robot_file(tmp_path, [ARMS]))
    assert robot.launch == (
        DriverLaunch("rlt_bringup", "replay.launch.py", {"bag": "x.mcap", "rate": "50", "fake": "true"}),
    )


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ([{**ARMS, "arguments": {"arms": ["left", "right"]}}], "arguments: arms: expected text, a number"),
        ([{**ARMS, "arguments": "fake:=true"}], "arguments: expected a mapping"),
        ([{"package": "rlt_bringup"}], "missing key 'file'"),
        ([{**ARMS, "pkg": "x"}], "unknown key 'pkg'"),
        ([{**ARMS, "package": ""}], "give the package's name"),
        (ARMS, "launch: expected a list"),
    ],
)
def test_what_cannot_be_a_launch_file_is_refused(tmp_path, launch, message):
    with pytest.raises(ParameterError, match=message):
        load_robot(robot_file(tmp_path, launch))


@pytest.mark.parametrize(
    ("options", "count"), [({}, 1), ({"host": "robot"}, 1), ({"host": "gpu"}, 0), ({"drivers": False}, 0)]
)
def test_drivers_are_included_beside_the_robot_unless_they_run_already(tmp_path, options, count):
    assert len(included(tmp_path, **options)) == count


def test_the_simulator_and_a_driver_do_not_both_speak_for_the_arms(tmp_path):
    robot = robot_file(tmp_path, [ARMS], reset="service")
    with pytest.raises(ParameterError, match="both would speak for the arms: leave launch out"):
        resolve(GraphOptions(robot=str(robot), run=str(tmp_path)))


def test_the_launch_file_is_found_in_the_installed_package():
    path = drivers.launch_file(DriverLaunch("rlt_bringup", "replay.launch.py"))
    assert path.is_file()
    assert get_package_share_directory("rlt_bringup") in str(path)


@pytest.mark.parametrize(
    ("package", "file", "message"),
    [
        ("no_such_driver", "arms.launch.py", "'no_such_driver' is not installed.*drivers.repos.*drivers:=false"),
        ("rlt_bringup", "arms.launch.py", "has no launch file 'arms.launch.py'; there are:.*screw.launch.py"),
    ],
)
def test_a_missing_driver_is_named_before_anything_starts(package, file, message):
    with pytest.raises(ParameterError, match=message):
        drivers.launch_file(DriverLaunch(package, file))


def test_what_to_type_where_launch_is_not_installed():
    driver = DriverLaunch("ur_robot_driver", "ur_control.launch.py", {"ur_type": "ur5e", "robot_ip": "10.0.0.2; ls"})
    command = "ros2 launch ur_robot_driver ur_control.launch.py ur_type:=ur5e 'robot_ip:=10.0.0.2; ls'"
    assert drivers.command(driver) == command
    assert drivers.command(driver, "robot_a/") == command + "   # in namespace /robot_a"
