"""check_robot on a robot that is in order, and on robots that are not. The simulator stands for the drivers."""

import dataclasses
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from ament_index_python.packages import get_package_share_directory
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray

from rlt_bringup import check_robot
from rlt_bringup.robot_check import Endpoints, RobotCheck
from rlt_common import topics
from rlt_common.codecs import to_time
from rlt_common.config import load_robot
from rlt_common.kinematics import build_kinematics
from rlt_sim.sim_robot_node import SimRobotNode

CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"
HOME = [0.0, -0.35, 0.85, 0.0, -0.5, 0.0, 0.0] * 2
COMMANDS = "forward_position_controller/commands"
TYPE = "std_msgs/msg/Float64MultiArray"
IN_ORDER = {f"{COMMANDS}": Endpoints(subscribers=["/driver"], subscriber_types=[TYPE])}
MS = 1_000_000
NAMES = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())["joint_names"]


def robot_file(tmp_path, **changes):
    values = {**yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text()), "tick": "timer", **changes}
    values["kinematics"] = str(CONFIG / "robots" / "sim_arms.xml")
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def checked(tmp_path):
    """A check of the simulated arms, with a force sensor on the right one."""
    path = robot_file(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["arms"][1].update(wrench_topic="wrench", max_force=30.0, max_torque=3.0)
    for arm, (at, _) in zip(values["arms"], build_kinematics(load_robot(path)).forward(np.array(HOME)), strict=True):
        arm["workspace_min"], arm["workspace_max"] = (at - 0.1).tolist(), (at + 0.1).tolist()
    path.write_text(yaml.safe_dump(values))
    return RobotCheck(load_robot(path))


def speak(check, count=50, period_ns=20 * MS, age_ns=2 * MS, newtons=1.0, **fields):
    """So many joint states and wrenches, as a driver would send them."""
    names = list(check._robot.joint_names)
    values = {"name": names, "position": HOME, "velocity": [0.0] * 14, "effort": [0.0] * 14, **fields}
    for k in range(count):
        now = 1_000_000_000 + k * period_ns
        state, wrench = JointState(**values), WrenchStamped()
        state.header.stamp = wrench.header.stamp = to_time(now - age_ns)
        wrench.wrench.force.z = newtons
        check.on_state("joint_states", state, now)
        check.on_wrench("right", wrench, now)
    return check.problems(IN_ORDER, {COMMANDS: TYPE}, "/chunk_executor")


def test_arms_in_order_have_no_problem(checked):
    assert speak(checked) == []
    np.testing.assert_allclose(checked.q, HOME)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"period_ns": 40 * MS}, "joint_states: 25.0 Hz, and the arms are controlled at 50 Hz"),
        ({"age_ns": -300 * MS}, "stamps are 0.300 s ahead of this machine's clock"),
        ({"age_ns": 400 * MS}, "messages are 0.40 s old when they come"),
        ({"name": ["a"] * 14}, "joint_states: messages came, and they name none of its joints, only: a, a"),
        ({"name": ["a", *NAMES[1:]]}, "joint_states has no joint 'left_waist'"),
        (
            {"velocity": [0.0] * 13 + [float("nan")]},
            "velocity of right_gripper is not finite: the proprioception needs",
        ),
        ({"newtons": float("nan")}, "wrench holds a value that is not finite (50 of 50 messages were refused)"),
        ({"velocity": []}, "joint_states: no velocity: the proprioception needs"),
        ({"position": [9.0, *HOME[1:]]}, "joint left_waist is at 9.0000, outside"),
        ({"position": [1.5, *HOME[1:]]}, "arm left: the tool is at"),
        ({"newtons": 16.0}, "arm right: 16.0 N with the arm at rest, and it holds above 30 N"),
        ({"count": 0}, "joint_states: nothing came: start the arm's driver"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(checked, fields, says):
    assert says in "\n".join(speak(checked, **fields))


def test_what_the_robot_file_says_is_not_measured_is_no_problem(checked):
    states = (dataclasses.replace(checked._robot.states[0], missing=("velocity", "effort")),)
    check = RobotCheck(dataclasses.replace(checked._robot, states=states))
    assert speak(check, velocity=[], effort=[]) == []


def test_drivers_that_do_not_obey_and_poses_that_are_not_the_model_s_are_said(checked):
    robot = checked._robot
    drivers = tuple(dataclasses.replace(driver, ready_topic="running") for driver in robot.drivers)
    arms = (robot.arms[0], dataclasses.replace(robot.arms[1], pose_topic="pose"))
    check = RobotCheck(dataclasses.replace(robot, drivers=drivers, arms=arms))
    assert "running was never heard: its driver does not obey" in "\n".join(speak(check))
    check.on_ready("running", Bool(data=False))
    assert "running is false: its driver does not obey" in "\n".join(speak(check))
    check.on_ready("running", Bool(data=True))
    pose = PoseStamped()
    pose.header.frame_id, pose.pose.orientation.w = robot.frame, 1.0
    check.on_pose("right", pose, 10 * MS)
    (found,) = (line for line in speak(check) if line.startswith("pose "))
    assert "from where the model has it" in found


def test_a_gap_and_stamps_that_go_back_are_said(checked):
    speak(checked, count=20)
    late = JointState(name=list(checked._robot.joint_names), position=HOME, velocity=HOME, effort=HOME)
    late.header.stamp = to_time(1_000_000_000)
    checked.on_state("joint_states", late, 2_000_000_000)
    found = "\n".join(checked.problems(IN_ORDER, {COMMANDS: TYPE}, "/chunk_executor"))
    assert "a gap of 620 ms: the arms would hold (100 ms)" in found
    assert "stamps that repeat or go back" in found


@pytest.mark.parametrize(
    ("endpoints", "says"),
    [
        (Endpoints(), "no driver listens: start it"),
        (Endpoints(subscribers=["/d"], subscriber_types=["trajectory_msgs/msg/JointTrajectory"]), "not std_msgs"),
        (
            Endpoints(subscribers=["/d"], subscriber_types=[TYPE], publishers=["/chunk_executor", "/old_script"]),
            "/old_script publishes there too: end it",
        ),
    ],
)
def test_command_topics_are_judged(checked, endpoints, says):
    speak(checked)
    found = checked.problems({COMMANDS: endpoints}, {COMMANDS: TYPE}, "/chunk_executor")
    assert len(found) == 1
    assert says in found[0]


def test_what_was_wrong_once_is_said_though_all_was_well_again(checked):
    speak(checked, count=20)
    early = JointState(name=NAMES, position=[float("nan")] * 14)
    early.header.stamp = to_time(1_390_000_000)
    checked.on_state("joint_states", early, 1_392_000_000)
    wrench = WrenchStamped()
    wrench.wrench.torque.x = float("inf")
    checked.on_wrench("right", wrench, 1_392_000_000)
    for k in range(20, 40):
        state = JointState(name=NAMES, position=HOME, velocity=HOME, effort=HOME)
        good = WrenchStamped()
        state.header.stamp = good.header.stamp = to_time(1_000_000_000 + k * 20 * MS - 2 * MS)
        checked.on_state("joint_states", state, 1_000_000_000 + k * 20 * MS)
        checked.on_wrench("right", good, 1_000_000_000 + k * 20 * MS)
    assert checked.problems(IN_ORDER, {COMMANDS: TYPE}, "/chunk_executor") == [
        "joint_states positions of left_waist is not finite (1 of 41 messages were refused)",
        "wrench holds a value that is not finite (1 of 41 messages were refused)",
    ]


def test_two_publishers_of_one_topic_are_heard_apart(tmp_path):
    arms, grippers = [n for n in NAMES if "gripper" not in n], [n for n in NAMES if "gripper" in n]
    states = [{"topic": "joint_states", "joints": joints} for joints in (arms, grippers)]
    states[1]["missing"] = ["velocity", "effort.left_gripper"]
    check = RobotCheck(load_robot(robot_file(tmp_path, states=states)))
    nan = float("nan")
    for k in range(50):
        now = 1_000_000_000 + k * 20 * MS
        for joints, fields in (
            (arms, {"velocity": [0.0] * 12, "effort": [0.0] * 12}),
            (grippers, {"effort": [nan, 0.0]}),
        ):
            state = JointState(name=joints, position=[HOME[NAMES.index(joint)] for joint in joints], **fields)
            state.header.stamp = to_time(now - 2 * MS)
            check.on_state("joint_states", state, now)
    assert not [line for line in check.problems({}, {}, "/chunk_executor") if "joint_states" in line]
    np.testing.assert_allclose(check.q, HOME)
    assert set(check.states) == {"joint_states:left_waist", "joint_states:left_gripper"}


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (NAMES, None),
        (sorted(NAMES), "its controller's joints are in the order left_elbow, left_forearm_roll"),
        (NAMES[:7], "the robot file sends left_waist, left_shoulder"),
    ],
)
def test_the_order_of_a_controller_that_is_told_no_names_is_compared(checked, order, says):
    speak(checked)
    found = checked.problems(IN_ORDER, {COMMANDS: TYPE}, "/chunk_executor", {COMMANDS: order})
    assert len(found) == (says is not None)
    assert says is None or says in found[0]


def test_drivers_whose_clocks_are_apart_are_said(tmp_path):
    names = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())["joint_names"]
    sides = {"left/joint_states": names[:7], "right/joint_states": names[7:]}
    path = robot_file(tmp_path, states=[{"topic": topic, "joints": joints} for topic, joints in sides.items()])
    check = RobotCheck(load_robot(path))
    for k in range(5):
        for topic, joints in reversed(sides.items()):
            state = JointState(name=joints, position=HOME[:7], velocity=HOME[:7], effort=HOME[:7])
            state.header.stamp = to_time(1_000_000_000 + k * 20 * MS - (50 * MS if "left" in topic else -450 * MS))
            check.on_state(topic, state, 1_000_000_000 + k * 20 * MS)
    found = "\n".join(check.problems({}, {}, "/chunk_executor"))
    assert "left/joint_states is stamped 0.50 s before right/joint_states: synchronise" in found


@pytest.fixture
def cell(tmp_path):
    """The simulated cell in real time, in a thread."""
    rclpy.init()
    path = robot_file(tmp_path)
    files = {"robot": str(path), "task": str(CONFIG / "tasks" / "screw.yaml")}
    node = SimRobotNode(parameter_overrides=[Parameter(name, value=value) for name, value in files.items()])
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield path
    executor.shutdown()
    thread.join()
    node.destroy_node()
    rclpy.try_shutdown()


def test_on_a_live_graph_it_hears_the_driver_and_finds_who_else_commands(cell, capsys):
    robot = load_robot(cell)
    # The machine may be slow: what depends on time is judged above.
    check_robot.check(robot, 2.0)
    told = capsys.readouterr().out
    assert "joint_states" in told
    assert "arm left: tool at" in told
    assert "no driver listens" not in told
    assert f"not checked: {COMMANDS}: the order of its controller's joints could not be read" in told
    assert "base" in told, "the cameras are looked at too"
    stranger = Node("old_script")
    try:
        stranger.create_publisher(Float64MultiArray, COMMANDS, topics.QOS_CONTROL)
        assert check_robot.check(robot, 2.0, cameras=False) >= 1
        assert f"{COMMANDS}: /old_script publishes there too" in capsys.readouterr().out
    finally:
        stranger.destroy_node()


class Controller(Node):
    """A forward_command_controller as far as the graph sees it, whose driver says once, volatile, that it obeys."""

    def __init__(self, joints):
        super().__init__("forward_position_controller", namespace="cell_a")
        self.declare_parameter("joints", joints)
        self.create_subscription(Float64MultiArray, "/cell_a/" + COMMANDS, lambda _: None, topics.QOS_CONTROL)
        ready = self.create_publisher(Bool, "running", topics.QOS_CONTROL)
        self.create_timer(0.1, lambda: ready.publish(Bool(data=True)))


def test_a_live_controller_s_order_a_volatile_driver_and_cameras_that_are_not_there_are_found(tmp_path, capsys):
    driver = {"type": "joint_positions", "topic": COMMANDS, "ready_topic": "running"}
    path = robot_file(tmp_path, drivers=[driver])
    rclpy.init()
    controller = Controller([NAMES[1], NAMES[0], *NAMES[2:]])
    executor = SingleThreadedExecutor()
    executor.add_node(controller)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        check_robot.check(load_robot(path), 2.0, namespace="cell_a")
    finally:
        executor.shutdown()
        thread.join()
        controller.destroy_node()
        rclpy.try_shutdown()
    told = capsys.readouterr().out
    assert f"{COMMANDS}: its controller's joints are in the order left_shoulder, left_waist, left_elbow" in told
    assert "running: its publisher is volatile, and the executor asks for what was said before it came" in told
    assert "running was never heard" not in told
    assert "- base: nobody publishes on /cell_a/base/image_raw" in told


def test_a_robot_file_that_cannot_work_is_an_error_before_listening(monkeypatch):
    monkeypatch.setitem(sys.modules, "interbotix_xs_msgs.msg", None)
    with pytest.raises(SystemExit) as ended:
        check_robot.main(["--robot", "aloha", "--seconds", "1"])
    assert "interbotix_xs_msgs/msg/JointGroupCommand, which is not installed" in str(ended.value)
    with pytest.raises(SystemExit, match="no 'nonsense'; there are: aloha, dual_franka"):
        check_robot.main(["--robot", "nonsense"])
