"""Every robot file's drivers: what they are sent, in their own types, and their doubles moved by the real executor.

The doubles of shipped robots speak what the makers' drivers speak (`vendors`), not what the robot file says of it.
"""

import dataclasses
import sys

import numpy as np
import pytest
import yaml
from driver_double import DriverDouble, type_of
from executor_bench import CONFIG, Bench, stopped
from interbotix_messages import provide
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from vendors import VENDORS

from rlt_common import topics
from rlt_common.codecs import floats
from rlt_common.config import load_robot
from rlt_common.kinematics import build_kinematics
from rlt_common.parameters import ParameterError
from rlt_control.drivers import build_encoders
from rlt_control.drivers.encoder import Command
from rlt_control.records import Source
from rlt_msgs.msg import ChunkRequest, EpisodeState, ExecutedAction

ROBOTS = CONFIG / "robots"
HOMES = {  # per arm, as the robot files' home poses were taken at
    "aloha": [0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.052],
    "dual_ur5e": [0.0, -1.5708, 1.9, -1.9, -1.5708, 0.0, 0.04],
    "dual_ros2_control": [0.0, -1.5708, 1.9, -1.9, -1.5708, 0.0, 0.04],
    "dual_franka": [0.0, -0.7854, 0.0, -2.3562, 0.0, 1.5708, 0.7854, 0.04],  # its gripper is open or closed
}
OVER_DDS = ("aloha", "dual_ur5e", "dual_ros2_control", "dual_franka")


def home(name):
    return np.array(HOMES[name] * 2)


def twist_file(tmp_path):
    """The generic robot behind MoveIt Servo."""
    values = yaml.safe_load((ROBOTS / "dual_ros2_control.yaml").read_text())
    grippers = [driver for driver in values["drivers"] if driver["type"] == "joint_positions"]
    servos = [
        {"type": "tool_twist", "topic": f"{arm}/servo_node/delta_twist_cmds", "arm": arm, "frame": f"{arm}_mount"}
        for arm in ("left", "right")
    ]
    values["drivers"] = servos + grippers
    values["kinematics"] = str(ROBOTS / values["kinematics"])
    path = tmp_path / "servo.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def crisp_joint_file(tmp_path):
    """Frankas behind crisp's target_joint, in one namespace by prefix."""
    values = yaml.safe_load((ROBOTS / "dual_franka.yaml").read_text())
    for driver in values["drivers"]:
        if driver["type"] == "tool_pose":
            arm = driver["arm"]
            joints = [f"{arm}_fr3_joint{i}" for i in range(1, 8)]
            driver.clear()
            driver.update(type="joint_state", topic=f"{arm}/target_joint", joints=joints)
            driver["names"] = [joint.removeprefix(f"{arm}_") for joint in joints]
    values["kinematics"] = str(ROBOTS / values["kinematics"])
    path = tmp_path / "crisp_joint.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


FILES = {
    **{name: (name, lambda _, name=name: ROBOTS / f"{name}.yaml") for name in OVER_DDS},
    "servo": ("dual_ros2_control", twist_file),
    "crisp_joint": ("dual_franka", crisp_joint_file),
}


class Cell(Bench):
    """The real executor node on a robot's timer, with the double of its drivers. The test moves clock and ticks."""

    def __init__(self, context, robot, q, vendor=None):
        super().__init__(context, robot=robot, moved_clock=True)
        self.double = DriverDouble(self.node.robot, q, context, vendor)
        self.executor.add_node(self.double)
        self.state = EpisodeState(episode_id=1, epoch=1, phase=EpisodeState.PHASE_RESETTING, execute_steps=4)
        self.silent = set()
        double = self.double
        readers = [*double.states.values(), *double.wrenches, *double.poses.values(), *double.ready.values()]
        self.until(lambda: all(p.get_subscription_count() for p in readers), "readers of states and wrenches")
        self.obey(True)
        topics_ = list(self.double.heard)
        self.until(lambda: all(self.double.count_publishers(topic) for topic in topics_), "command publishers")

    def period(self):
        """One control period: states in, tick, commands at the drivers. Returns how many each driver heard."""
        self.now_s += 0.02
        stamp = round(self.now_s * 1e9)
        for topic in self.double.states.keys() - self.silent:
            self.double.say(topic, stamp)
        self.hear([topic for topic in self.node.robot.state_inputs if topic not in self.silent])
        self.double.feel(stamp)
        for arm in self.node.robot.arms:
            if arm.wrench_topic:
                self.hear([f"wrench.{arm.name}"])
            if arm.pose_topic:
                name = f"pose.{arm.name}"
                self.until(lambda name=name: self.says_now(name), name)
        self.say(self.state)
        self.cameras()
        self.hear(["episode_state", "cameras"])
        before = {topic: len(messages) for topic, messages in self.double.heard.items()}
        self.node.timer_tick(0.0)
        if not self.silent:
            self.until(
                lambda: all(len(messages) > before[topic] for topic, messages in self.double.heard.items()),
                "a command at every driver",
            )

    def says_now(self, name):
        dog = self.node.watchdog
        return dog.age_s(name, self.now_s) == 0.0 or " is " in dog.fault(name, self.now_s)

    def obey(self, obeys):
        self.double.say_ready(obeys)
        for driver in self.node.robot.drivers:
            if driver.ready_topic:
                name = f"ready.{driver.topic}"
                self.until(lambda name=name: bool(self.node.watchdog.fault(name, self.now_s)) != obeys, name)

    def hear(self, names):
        dog = self.node.watchdog
        self.until(lambda: all(dog.age_s(name, self.now_s) == 0.0 for name in names), f"{names} to be heard")

    def go(self, per_step):
        """An episode under way with a long chunk in play that moves both arms by `per_step` (7,)."""
        self.period()
        self.state.phase = EpisodeState.PHASE_BASE
        for _ in range(20):
            self.period()
            self.executor.spin_once(timeout_sec=0.05)
            if self.heard(ChunkRequest):
                break
        assert self.heard(ChunkRequest), self.node.core.hold_reason
        rows = np.tile(np.array(per_step, np.float32), (200, 2))
        self.chunk(self.request(), rows=200, actions=floats(rows), reference=floats(rows))
        self.until(lambda: self.node.watchdog.age_s("action_chunk", self.now_s) is not None, "the chunk")


@pytest.fixture(scope="session")
def interbotix(tmp_path_factory):
    """interbotix_xs_msgs: the installed one, else its two messages, generated as any package's are."""
    provide(tmp_path_factory.mktemp("interbotix"))


@pytest.fixture(params=list(FILES))
def cell(request, tmp_path):
    name, make = FILES[request.param]
    if name == "aloha":
        request.getfixturevalue("interbotix")
    with Cell.running(robot=make(tmp_path), q=home(name), vendor=VENDORS.get(request.param)) as made:
        yield made
        made.double.destroy_node()


def is_still(message):
    return not any(getattr(part, axis) for part in (message.twist.linear, message.twist.angular) for axis in "xyz")


def tools(cell):
    return [position for position, _ in build_kinematics(cell.node.robot).forward(cell.double.q)]


def test_the_drivers_double_goes_where_the_chunk_says_holds_and_stops(cell):
    grippers = [cell.node.robot.joint_names.index(arm.gripper) for arm in cell.node.robot.arms]
    begun, grips = tools(cell), cell.double.q[grippers].copy()
    cell.go([0.002, 0.0, 0.001, 0.0, 0.0, 0.0, -0.0005])
    for _ in range(10):
        cell.period()
    cell.until(lambda: len(cell.heard(ExecutedAction)) == cell.node.core.step, "the executed actions")
    steps = [m for m in cell.heard(ExecutedAction) if m.source == ExecutedAction.SOURCE_RL]
    went = np.sum([m.action for m in steps], axis=0).reshape(2, 7)
    assert len(steps) >= 10
    assert not any(message.dry_run for message in steps)
    assert (went[:, 0] > 0.01).all()
    for now, before, sent in zip(tools(cell), begun, went, strict=True):
        np.testing.assert_allclose(now - before, sent[:3], atol=2e-3)
    moved = np.zeros(2) if cell.double.vendor is VENDORS["dual_franka"] else went[:, 6]  # crisp's adapter: still open
    np.testing.assert_allclose(cell.double.q[grippers] - grips, moved, atol=1e-5)

    at, last_grips = cell.node._state.q, cell.node._last_target[grippers]  # where the arms were measured last
    cell.say(Bool(data=True))
    cell.until(lambda: stopped(cell), "the stop")
    for _ in range(5):
        cell.period()
    speeds = any(encoder.speed for encoder, _ in cell.node._drivers)  # those stay where speed 0 found them, a step on
    arms = np.setdiff1d(np.arange(len(at)), grippers)
    np.testing.assert_allclose(cell.double.q[arms], at[arms], atol=1e-2 if speeds else 2e-4)
    moved = np.zeros(2) if cell.double.vendor is VENDORS["dual_franka"] else last_grips - grips
    np.testing.assert_allclose(cell.double.q[grippers] - grips, moved, atol=1e-5)  # the command that they had


def test_one_silent_state_topic_holds_both_arms_and_is_named(cell):
    cell.go([0.002, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(3):
        cell.period()
    topic = cell.node.robot.state_topics[-1]
    cell.silent = {topic}
    for _ in range(7):
        cell.period()
    assert cell.node.core.hold_reason.startswith(f"{topic}: ")
    assert "time-out 100 ms" in cell.node.core.hold_reason
    for topic in (encoder.topic for encoder, _ in cell.node._drivers if encoder.speed):
        cell.until(lambda topic=topic: is_still(cell.double.heard[topic][-1]), "a twist of zeros")
    begun = cell.double.q.copy()
    cell.period()
    np.testing.assert_array_equal(cell.double.q, begun)
    cell.silent = set()
    cell.period()
    assert not cell.node.core.hold_reason.startswith(topic)


def test_a_driver_without_one_of_its_joints_is_refused_by_name(cell):
    cell.period()
    state = cell.node.robot.states[0]
    topic, names = state.topic, list(state.names or state.joints or cell.node.robot.joint_names)
    cell.double.states[topic].publish(JointState(name=names[1:], position=[0.0] * (len(names) - 1)))
    cell.until(lambda: "has no joint" in cell.node.watchdog.fault(topic, cell.now_s), "the refusal")
    cell.node.timer_tick(0.0)
    assert cell.node.core.hold_reason.startswith(f"{topic}: has no joint {names[0]!r}")


def test_another_publisher_on_a_topic_of_states_is_not_the_arms_driver(cell):
    cell.go([0.002, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    topic = cell.node.robot.states[0].topic
    for _ in range(3):
        cell.double.states[topic].publish(JointState(name=["wheel"], position=[float("nan")]))
        cell.period()
        assert cell.node.core.source == Source.RL, cell.node.core.hold_reason
    cell.silent = {topic}
    for _ in range(7):
        cell.double.states[topic].publish(JointState(name=["wheel"], position=[0.0]))
        cell.period()
    assert cell.node.core.hold_reason.startswith(f"{topic}: "), "it does not stand for an arm that is silent"


@pytest.fixture
def driven(request, tmp_path):
    name = request.param
    with Cell.running(robot=ROBOTS / f"{name}.yaml", q=home(name), vendor=VENDORS.get(name)) as made:
        made.go([0.002, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        for _ in range(3):
            made.period()
        assert made.node.core.source == Source.RL
        yield made
        made.double.destroy_node()


@pytest.mark.parametrize("driven", ["dual_ur5e"], indirect=True)
def test_a_driver_that_does_not_obey_holds_the_arms_and_nothing_jumps_when_it_does_again(driven):
    driven.obey(False)
    driven.period()
    assert driven.node.core.hold_reason.startswith("ready.left_forward_position_controller/commands: left_io_and_stat")
    assert "says that the driver does not obey" in driven.node.core.hold_reason
    for _ in range(10):
        driven.double.q[:6] += 0.03  # somebody moves the left arm at the pendant
        driven.period()
    driven.period()
    moved = driven.double.q.copy()
    driven.obey(True)
    driven.period()
    np.testing.assert_allclose(driven.double.q, moved, atol=1e-6)


@pytest.mark.parametrize("driven", ["dual_franka"], indirect=True)
@pytest.mark.parametrize(
    ("error", "frame", "says"),
    [
        ([0.03, 0.0, 0.0], None, "pose.left: is 30.0 mm from where the model has it, tolerance 20 mm"),
        ([0.0, 0.0, 0.0], "world", "pose.left: is in frame 'world', the robot file says 'left_base'"),
    ],
)
def test_a_measured_pose_that_cannot_be_the_model_s_holds_the_arms(driven, error, frame, says):
    driven.double.pose_error, driven.double.pose_frame = np.array(error), frame
    driven.period()
    at = driven.double.q.copy()
    for _ in range(3):
        driven.period()
    np.testing.assert_allclose(driven.double.q, at, atol=1e-6)
    assert driven.node.core.hold_reason.startswith(says)
    driven.double.pose_error, driven.double.pose_frame = np.zeros(3), None
    driven.period()
    driven.until(lambda: not driven.node.watchdog.fault("pose.left", driven.now_s), "the pose")
    driven.period()
    assert "pose" not in driven.node.core.hold_reason


def test_a_second_commander_on_any_driver_s_topic_is_an_emergency_stop(cell):
    topic = cell.node.robot.command_topics[-1]
    stranger = Node("old_script", context=cell.peer.context)
    stranger.create_publisher(type_of(cell.node.robot.drivers[-1]), topic, topics.QOS_CONTROL)
    try:
        cell.until(lambda: "old_script" in str(cell.node._watch_command_topics()), "discovery")
        assert f"/old_script publishes on /{topic} too" in cell.node.core.estop_reason
    finally:
        stranger.destroy_node()


def test_a_dry_run_does_everything_and_sends_nothing(tmp_path):
    path = ROBOTS / "dual_ros2_control.yaml"
    with Bench.running(robot=path, moved_clock=True, dry_run=True) as bench:
        double = DriverDouble(bench.node.robot, home("dual_ros2_control"), bench.peer.context)
        bench.executor.add_node(double)
        bench.until(lambda: all(p.get_subscription_count() for p in double.states.values()), "state readers")
        assert not any(double.count_publishers(topic) for topic in double.heard)
        topic = bench.node.robot.command_topics[-1]
        double.create_publisher(Float64MultiArray, topic, topics.QOS_CONTROL)  # the arms may be driven by another one
        bench.until(lambda: double.count_publishers(topic), "the other one")
        assert bench.node._watch_command_topics() == []
        for phase in (EpisodeState.PHASE_RESETTING, EpisodeState.PHASE_BASE):
            bench.now_s += 0.02
            double.say("joint_states", round(bench.now_s * 1e9))
            bench.episode(phase)
        bench.until(lambda: bench.node._state is not None, "the robot's state")
        bench.cameras()
        bench.until(lambda: bench.node.watchdog.age_s("cameras", bench.now_s) is not None, "the cameras")
        bench.node.timer_tick(0.0)
        bench.chunk(bench.request(), first_step=0, rows=4, actions=floats(np.full((4, 14), 1e-3)))
        bench.until(lambda: bench.node.watchdog.age_s("action_chunk", bench.now_s) is not None, "the chunk")
        bench.node.timer_tick(0.0)
        bench.until(lambda: bench.heard(ExecutedAction), "the executed action")
        assert all(message.dry_run for message in bench.heard(ExecutedAction))
        bench.node._heartbeat()
        assert "DRY RUN" in bench.node._health._status.message
        double.destroy_node()


def test_a_dry_run_finds_that_a_driver_s_messages_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "interbotix_xs_msgs.msg", None)
    with (
        pytest.raises(ParameterError, match="interbotix_xs_msgs/msg/JointGroupCommand, which is not installed"),
        Bench.running(robot=ROBOTS / "aloha.yaml", dry_run=True),
    ):
        pass


def test_what_the_graph_goes_without_is_in_diagnostics():
    robot = ROBOTS / "dual_ros2_control.yaml"
    with Bench.running(robot=robot, moved_clock=True, dry_run=True, lacks="no VLA in here") as bench:
        bench.node._heartbeat()
        said = "DRY RUN, nothing is sent to the arms; no VLA in here; "
        assert bench.node._health._status.message.startswith(said)


def command(robot, q=None, holding=False):
    q = np.zeros(len(robot.joint_names)) if q is None else q
    return Command(target=q, measured=q, holding=holding, stamp_ns=5)


@pytest.mark.usefixtures("interbotix")
def test_aloha_speaks_the_interbotix_sdk():
    robot = load_robot(ROBOTS / "aloha.yaml")
    left, left_gripper, _, right_gripper = build_encoders(robot)
    q = home("aloha")
    q[6], q[13] = 0.0440, 0.0579
    message = left.encode(command(robot, q))
    assert (message.name, type(message).__name__) == ("arm", "JointGroupCommand")
    np.testing.assert_allclose(message.cmd, q[:6], atol=1e-6)
    closed, open_ = left_gripper.encode(command(robot, q)), right_gripper.encode(command(robot, q))
    assert (closed.name, type(closed).__name__) == ("gripper", "JointSingleCommand")
    assert closed.cmd == pytest.approx(0.6197, abs=1e-4)  # FOLLOWER_GRIPPER_JOINT_CLOSE and _OPEN of Interbotix/aloha
    assert open_.cmd == pytest.approx(1.6214, abs=1e-4)


def test_crisp_s_adapter_of_the_franka_hand_is_told_to_open_and_to_close():
    robot = load_robot(ROBOTS / "dual_franka.yaml")
    gripper = next(e for e in build_encoders(robot) if e.topic == "left/gripper/gripper_position_controller/commands")
    q = home("dual_franka")
    for finger_m, share in ((0.0, 0.0), (0.019, 0.475), (0.021, 0.525), (0.04, 1.0)):
        q[7] = finger_m
        assert list(gripper.encode(command(robot, q)).data) == pytest.approx([share])


def test_a_driver_whose_messages_are_not_installed_says_which_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "interbotix_xs_msgs.msg", None)
    with pytest.raises(ParameterError, match="interbotix_xs_msgs/msg/JointGroupCommand, which is not installed"):
        build_encoders(load_robot(ROBOTS / "aloha.yaml"))


def test_a_gripper_is_sent_in_its_driver_s_unit():
    robot = load_robot(ROBOTS / "dual_ur5e.yaml")
    gripper = next(e for e in build_encoders(robot) if e.topic == "left_gripper/gripper_position_controller/commands")
    q = home("dual_ur5e")
    for metres, knuckle in ((0.085, 0.0), (0.0, 0.7929), (0.0425, 0.39645)):
        q[6] = metres
        assert list(gripper.encode(command(robot, q)).data) == pytest.approx([knuckle])


def test_a_driver_of_speeds_is_told_zero_when_nothing_can_be_commanded(tmp_path):
    robot = load_robot(twist_file(tmp_path))
    servo = build_encoders(robot)[0]
    q = home("dual_ros2_control")
    servo.encode(command(robot, q))
    ahead = q.copy()
    ahead[0] += 0.001
    moving = servo.encode(dataclasses.replace(command(robot, ahead), measured=q))
    assert abs(moving.twist.angular.z) > 0.01
    still = servo.encode(command(robot, ahead, holding=True)).twist
    assert not any(getattr(part, axis) for part in (still.linear, still.angular) for axis in "xyz")
    assert servo.speed


def test_speeds_are_never_above_the_step_limits(tmp_path):
    robot = load_robot(twist_file(tmp_path))
    servo = build_encoders(robot)[0]
    q = home("dual_ros2_control")
    servo.encode(command(robot, q))
    twist = servo.encode(dataclasses.replace(command(robot, q + 0.3), measured=q - 0.5)).twist
    fastest = robot.limits.step_translation / robot.period_s, robot.limits.step_rotation / robot.period_s
    for part, limit in ((twist.linear, fastest[0]), (twist.angular, fastest[1])):
        assert max(abs(getattr(part, axis)) for axis in "xyz") <= limit + 1e-12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": "joint_position"}, "choose one of"),
        ({"group": "arm"}, "group belongs to"),
        ({"joints": ["left_gripper"], "scale": [0.0]}, "no scale 0"),
        ({"joints": ["left_gripper"]}, "'left_waist' is in none of them"),
        ({"joints": ["left_gripper", "nose"]}, "'nose' is not in joint_names"),
        ({"names": ["a"]}, "names has 1 values for the 0 in joints"),
        ({"type": "interbotix_group", "group": "arm", "joints": ["nose"], "names": ["a"]}, "names means nothing to it"),
        ({"arm": "left"}, "arm belongs to"),
        ({"type": "tool_pose", "arm": "middle"}, "unknown arm 'middle'"),
        ({"topic": ""}, "name the driver's command topic"),
        ({"speed": 1}, "unknown key 'speed'"),
    ],
)
def test_a_driver_that_makes_no_sense_is_refused(tmp_path, change, says):
    values = yaml.safe_load((ROBOTS / "sim.yaml").read_text())
    values["drivers"] = [{**values["drivers"][0], **change}]
    values["kinematics"] = str(ROBOTS / values["kinematics"])
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ParameterError, match=says):
        load_robot(path)


def test_a_joint_with_two_drivers_is_refused(tmp_path):
    values = yaml.safe_load((ROBOTS / "sim.yaml").read_text())
    values["drivers"].append({"type": "joint_positions", "topic": "gripper", "joints": ["left_gripper"]})
    values["kinematics"] = str(ROBOTS / values["kinematics"])
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(
        ParameterError, match="'left_gripper' is in forward_position_controller/commands and in gripper"
    ):
        load_robot(path)


def test_a_tool_driver_s_frame_must_stand_still(tmp_path):
    values = yaml.safe_load((ROBOTS / "dual_franka.yaml").read_text())
    values["drivers"][0]["frame"] = "left_fr3_flange"
    values["kinematics"] = str(ROBOTS / values["kinematics"])
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="'left_fr3_flange' of the kinematics model moves"):
        build_encoders(load_robot(path))


def test_the_simulator_s_driver_is_the_forward_command_controller_s():
    robot = load_robot(ROBOTS / "sim.yaml")
    (encoder,) = build_encoders(robot)
    assert encoder.message_type is Float64MultiArray
    q = np.arange(14.0)
    assert list(encoder.encode(command(robot, q)).data) == q.tolist()
