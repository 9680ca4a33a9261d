"""Drivers' own launch files: what a robot file may say, on which machine they are included, and what is missing."""

import ast
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
import rclpy
import yaml
from ament_index_python.packages import get_package_share_directory
from rclpy.context import Context
from rclpy.node import Node

from rlt_bringup import drivers
from rlt_bringup.graph import GraphOptions, config_file, describe, resolve
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
        ([{**ARMS, "namespace": "/left"}], "it lies in the robot's: leave the / out"),
        ([{**ARMS, "starts": "lights"}], "starts"),
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


CAMERA = {"package": "realsense2_camera", "file": "rs_launch.py", "starts": "cameras"}
LEADER = {"package": "rlt_bringup", "file": "replay.launch.py", "starts": "leaders"}


@pytest.mark.parametrize(
    ("options", "started"),
    [
        ({}, ["arms", "cameras"]),
        ({"drivers": False}, ["cameras"]),
        ({"cameras": False}, ["arms"]),
        ({"drivers": False, "cameras": False}, []),
        ({"joy": "aloha_leaders"}, ["arms", "cameras", "leaders"]),
        ({"joy": "aloha_leaders", "drivers": False}, ["cameras"]),
        ({"host": "gpu"}, []),
        ({"learner": "alone", "robots": "a"}, []),
    ],
)
def test_arms_cameras_and_leaders_are_switched_apart(tmp_path, options, started):
    robot = robot_file(tmp_path, [ARMS, CAMERA, LEADER])
    resolved = resolve(GraphOptions(robot=str(robot), run=str(tmp_path), **options))
    assert [entry.starts for entry in resolved.drivers] == started


@pytest.mark.parametrize(("cameras", "nodes"), [(True, 1), (False, 0)])
def test_a_video_device_is_a_camera_like_those_with_drivers(tmp_path, cameras, nodes):
    values = yaml.safe_load(config_file("robots", "sim").read_text())["cameras"]
    robot = robot_file(tmp_path, [], cameras=[{**camera, "device": "/dev/video0"} for camera in values])
    graph = describe(resolve(GraphOptions(robot=str(robot), run=str(tmp_path), cameras=cameras)))
    assert [node.name for node in graph].count("v4l2_camera") == nodes


def test_files_of_installed_packages_and_namespaces_find_their_place(tmp_path):
    driver = DriverLaunch(
        "rlt_bringup", "replay.launch.py", {"bag": "$(find-pkg-share rlt_bringup)/config/fastdds.xml"}, namespace="left"
    )
    share = get_package_share_directory("rlt_bringup")
    assert drivers.arguments(driver) == {"bag": f"{share}/config/fastdds.xml"}
    assert drivers.namespace_of(driver) == "left"
    assert drivers.namespace_of(driver, "/cell_a/") == "cell_a/left"
    assert drivers.command(driver, "cell_a").endswith("# in namespace /cell_a/left")
    missing = DriverLaunch("rlt_bringup", "replay.launch.py", {"bag": "$(find-pkg-share no_such)/x"})
    with pytest.raises(ParameterError, match="arguments: package 'no_such' is not installed"):
        drivers.arguments(missing)


def test_a_missing_camera_driver_says_how_to_start_it_by_hand():
    with pytest.raises(ParameterError, match="start the driver yourself and give cameras:=false"):
        drivers.launch_file(DriverLaunch("no_such_camera", "a.launch.py", starts="cameras"))


# ---- what the shipped robot files start

SHIPPED = ("aloha", "dual_ur5e", "dual_franka", "dual_ros2_control")


def declared(path):
    """(name, default) of a launch file's ARGUMENTS: read, not run, as launch need not be installed."""
    tree = ast.parse(path.read_text())
    named = {n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id.isupper()}
    rows = [
        [e.id if isinstance(e, ast.Name) else ast.literal_eval(e) for e in row.elts] for row in named["ARGUMENTS"].elts
    ]
    return {row[0]: row[-2] for row in rows}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_starts_every_camera_it_names_on_the_topics_it_names(name):
    robot = load_robot(config_file("robots", name))
    started = [e.arguments for e in robot.launch if e.starts == "cameras"]
    places = {f"{one['camera_namespace']}/{one['camera_name']}/color/" for one in started}  # rs_launch.py's arguments
    assert {camera.topic.rpartition("image_")[0] for camera in robot.cameras} == places
    assert len({one["serial_no"] for one in started}) == len(robot.cameras), "each by a serial number of its own"
    assert all(one["serial_no"].startswith("_") for one in started), "rs_launch.py: digits alone are a number"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_launch_file_of_ours_is_given_arguments_it_has_and_all_it_needs(name):
    for entry in load_robot(config_file("robots", name)).launch:
        if entry.package == "rlt_bringup":
            known = declared(drivers.launch_file(entry))
            assert set(entry.arguments) <= set(known), entry
            assert {argument for argument, default in known.items() if default is None} <= set(entry.arguments), entry


def test_each_aloha_arm_has_its_own_port_and_a_mode_that_takes_what_is_sent():
    robot = load_robot(config_file("robots", "aloha"))
    sdks = [entry for entry in robot.launch if entry.file == "xsarm_control.launch.py"]
    modes = {e.arguments["robot_name"]: load_yaml(drivers.arguments(e)["mode_configs"]) for e in sdks}
    assert {name: mode["port"] for name, mode in modes.items()} == {
        name: f"/dev/ttyDXL_{name}" for name in ("follower_left", "follower_right", "leader_left", "leader_right")
    }
    for entry in sdks:
        mode = modes[entry.arguments["robot_name"]]
        arm, gripper = mode["groups"]["arm"], mode["singles"]["gripper"]
        if entry.starts == "leaders":
            assert not arm["torque_enable"]
            assert not gripper["torque_enable"]
            continue
        assert arm["operating_mode"] == "position"
        assert (arm["profile_velocity"], arm["profile_acceleration"]) == (0, 0)
        # In these the SDK takes the motor's rad, which gripper_units give; in pwm and linear_position it does not.
        assert gripper["operating_mode"] in ("position", "current_based_position")


def load_yaml(path):
    return yaml.safe_load(Path(path).read_text())


def controllers(name):
    """Controller -> its joints, as a controllers' file of ours has them; and all that it names."""
    values = load_yaml(Path(get_package_share_directory("rlt_bringup")) / "config" / "drivers" / name)
    managed = {n for n in values["/**/controller_manager"]["ros__parameters"] if n != "update_rate"}
    return managed, {
        key.removeprefix("/**/"): entry["ros__parameters"]["joints"]
        for key, entry in values.items()
        if "joints" in entry["ros__parameters"]
    }


def test_both_ur_arms_have_controllers_ports_and_joints_of_their_own():
    robot = load_robot(config_file("robots", "dual_ur5e"))
    managed, joints = controllers("dual_ur_controllers.yaml")
    _, gripper = controllers("robotiq_2f85_controllers.yaml")
    for driver in robot.drivers:
        *place, controller, _ = driver.topic.split("/")
        moved = {**joints, **{f"{side}_gripper/{name}": j for name, j in gripper.items() for side in ("left", "right")}}
        assert list(driver.names or driver.joints) == moved["/".join([*place, controller])], driver.topic
    for topic in robot.sensor_topics:
        assert topic.split("/")[0] in managed
    known = declared(drivers.launch_file(DriverLaunch("rlt_bringup", "dual_ur.launch.py")))
    ports = [default for name, default in known.items() if name.endswith("_port")]
    assert len(ports) == len(set(ports)) == 8
    share = Path(get_package_share_directory("rlt_bringup")) / "config" / "drivers"
    arguments = xml.parse(share / "dual_ur.urdf.xacro").getroot().iter("{http://www.ros.org/wiki/xacro}arg")
    taken = {argument.get("name"): argument.get("default") for argument in arguments}
    assert set(taken) == set(known) - {"controller_spawner_timeout"}
    assert {name: taken[name] for name in known if name.endswith("_port")} == {
        name: default for name, default in known.items() if name.endswith("_port")
    }


@pytest.mark.parametrize("namespace", ["/", "/cell_a", "/cell_a/left_gripper"])
@pytest.mark.parametrize("name", ["dual_ur_controllers.yaml", "robotiq_2f85_controllers.yaml"])
def test_controllers_find_their_parameters_in_every_namespace(name, namespace):
    path = Path(get_package_share_directory("rlt_bringup")) / "config" / "drivers" / name
    managed, joints = controllers(name)
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(path)], context=context)
    try:

        def parameters(node_name):
            node = Node(
                node_name,
                namespace=namespace,
                context=context,
                automatically_declare_parameters_from_overrides=True,
                start_parameter_services=False,
            )
            found = {key: value.value for key, value in node.get_parameters_by_prefix("").items()}
            node.destroy_node()
            return found

        assert {f"{controller}.type" for controller in managed} <= set(parameters("controller_manager"))
        for controller, order in joints.items():
            assert list(parameters(controller)["joints"]) == order
    finally:
        rclpy.shutdown(context=context)


def test_what_is_started_in_a_namespace_is_where_the_file_looks_for_it():
    robot = load_robot(config_file("robots", "dual_ur5e"))
    places = {entry.namespace for entry in robot.launch if entry.starts == "arms"} - {""}
    topics = [*robot.command_topics, *robot.state_topics, *robot.sensor_topics]
    assert places == {"left_gripper", "right_gripper"}
    assert all({f"{p}/joint_states", f"{p}/gripper_position_controller/commands"} <= set(topics) for p in places)


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
