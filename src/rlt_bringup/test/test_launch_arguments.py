"""What the launch files take: a task of one's own, every option by its name, and nothing that is misspelt."""

from dataclasses import fields
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory

from rlt_bringup.graph import GraphOptions
from rlt_bringup.launch_arguments import REPLAY, graph_arguments, options_from, refuse_unknown
from rlt_common.parameters import ParameterError

LAUNCH = Path(get_package_share_directory("rlt_bringup")) / "launch"
TASKS = sorted(path.name.removesuffix(".launch.py") for path in LAUNCH.glob("*.launch.py") if "replay" not in path.name)
NAMES = [field.name for field in fields(GraphOptions)]
ROS2 = ["/opt/ros/jazzy/bin/ros2", "launch", "rlt_bringup", "screw.launch.py"]


def given(file, **values):
    return options_from({argument.name: argument.default for argument in graph_arguments(file)} | values)


@pytest.mark.parametrize("task", TASKS)
def test_a_launch_file_names_its_task_and_run_directory_and_nothing_else(task):
    assert [argument.name for argument in graph_arguments(task)] == NAMES
    assert given(task) == GraphOptions(task=task, run=f"runs/{task}")


def test_a_task_of_one_s_own_is_an_argument():
    options = given("screw", task="/lab/my_task.yaml", run="runs/mine", record="False", seed="4")
    assert options == GraphOptions(task="/lab/my_task.yaml", run="runs/mine", record=False, seed=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"view": "yes"}, "view:=yes: say true or false"), ({"seed": "one"}, "seed:=one: expected int")],
)
def test_a_value_of_the_wrong_kind_names_its_argument(values, message):
    with pytest.raises(ParameterError, match=message):
        given("screw", **values)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("mod:=dry_run", "screw.launch.py: unknown launch argument 'mod': did you mean 'mode'"),
        ("rviz:=true", "unknown launch argument 'rviz': There are: auto_handoff, cameras, checkpoint"),
    ],
)
def test_a_misspelt_argument_is_refused(word, message):
    with pytest.raises(ParameterError, match=message):
        refuse_unknown("screw.launch.py", NAMES, ["mode:=eval", word], [*ROS2, "mode:=eval", word])


def test_so_is_one_of_a_file_that_is_given_by_its_path_and_of_the_replay():
    with pytest.raises(ParameterError, match="'tsak': did you mean 'task'"):
        refuse_unknown(
            "screw.launch.py", NAMES, ["tsak:=x"], ["ros2", "launch", "/w/launch/screw.launch.py", "tsak:=x"]
        )
    names = [argument.name for argument in REPLAY]
    with pytest.raises(ParameterError, match="'bga': did you mean 'bag'"):
        refuse_unknown("replay.launch.py", names, ["bga:=x"], ["ros2", "launch", "rlt_bringup", "replay.launch.py"])


def test_launch_s_own_arguments_are_not_ours_to_refuse():
    refuse_unknown("screw.launch.py", NAMES, ["mode:=eval", "launch-prefix:=gdb", "sigterm_timeout:=30"], ROS2)


def test_a_launch_file_that_includes_ours_has_arguments_of_its_own():
    refuse_unknown("screw.launch.py", NAMES, ["rviz:=true"], ["ros2", "launch", "lab", "cell.launch.py", "rviz:=true"])
