"""A robot's executor over real DDS, tick by tick: stops, holds, watchdogs. The test moves clock and ticks."""

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from executor_bench import CONFIG, HOME, WRENCH, Bench, stopped
from geometry_msgs.msg import WrenchStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, Float64MultiArray

from rlt_common import topics
from rlt_common.codecs import floats, to_time
from rlt_msgs.msg import ChunkRequest, ControlState, EpisodeState, ExecutedAction, OperatorEvent, TeleopCommand
from rlt_msgs.srv import Estop, ResetEstop

HOLD, RL, HUMAN = ExecutedAction.SOURCE_HOLD, ExecutedAction.SOURCE_RL, ExecutedAction.SOURCE_HUMAN


class Robot(Bench):
    """A bench on a robot's timer, with a force sensor on the right arm and an arm that follows every command."""

    def __init__(self, context, robot):
        super().__init__(context, robot=robot, moved_clock=True)
        self.q = list(HOME)
        self.newtons = 0.0
        self.sensor_speaks = self.manager_speaks = self.joints_speak = self.cameras_speak = True
        self.camera_fault = ""
        self.state = None
        self.until(lambda: self.peer.wrench.get_subscription_count(), "the wrench's reader")

    def handled(self, name, before):
        return self.node.watchdog.age_s(name, self.now_s) != before

    def period(self):
        """One control period: everybody speaks, the node hears it, ticks, and the driver hears the node."""
        self.now_s += 0.02
        node, ages = self.node, {}
        for name, speaks in (
            ("joint_states", self.joints_speak),
            ("episode_state", self.manager_speaks and self.state is not None),
            ("cameras", self.cameras_speak and not self.camera_fault),
            ("wrench.right", self.sensor_speaks and self.newtons <= 30.0),
        ):
            if speaks:
                ages[name] = node.watchdog.age_s(name, self.now_s)
        if self.joints_speak:
            self.joints(position=self.q)
        if "episode_state" in ages:
            self.say(self.state)
        if self.sensor_speaks:
            message = WrenchStamped()
            message.header.stamp = to_time(round(self.now_s * 1e9))
            message.wrench.force.z = self.newtons
            self.peer.wrench.publish(message)
        if self.cameras_speak:
            self.cameras(self.camera_fault)
        for name, before in ages.items():
            self.until(lambda name=name, before=before: self.handled(name, before), f"{name} to be heard")
        if self.sensor_speaks and self.newtons > 30.0:
            self.until(lambda: "force" in node.watchdog.fault("wrench.right", self.now_s), "the force to be heard")
        if self.cameras_speak and self.camera_fault:
            self.until(lambda: self.camera_fault in node.watchdog.fault("cameras", self.now_s), "the cameras' fault")
        return self.tick()

    def tick(self):
        """One tick of the node; returns the command that the driver heard, None when there was none."""
        sent = len(self.heard(Float64MultiArray))
        before = self.node._last_target
        self.node._last_target = None
        self.node.timer_tick(0.0)
        if self.node._last_target is None:
            self.node._last_target = before
            return None
        self.until(lambda: len(self.heard(Float64MultiArray)) > sent, "the command at the driver")
        self.q = list(self.heard(Float64MultiArray)[-1].data)
        return self.q

    def go(self, epoch=1, **fields):
        """An episode under way, with a long chunk in play."""
        self.state = EpisodeState(episode_id=1, epoch=epoch, phase=EpisodeState.PHASE_RESETTING, execute_steps=4)
        self.period()
        self.state = EpisodeState(episode_id=1, epoch=epoch, phase=EpisodeState.PHASE_BASE, execute_steps=4, **fields)
        while not self.heard(ChunkRequest):
            self.period()
            self.executor.spin_once(timeout_sec=0.05)
        rows = np.zeros((200, 14), np.float32)
        rows[:, 7] = 0.001
        self.chunk(self.request(), rows=200, actions=floats(rows), reference=floats(rows))
        self.until(lambda: self.node.watchdog.age_s("action_chunk", self.now_s) is not None, "the chunk")
        self.period()
        assert self.sources(1) == [RL]

    def sources(self, last):
        self.until(lambda: len(self.heard(ExecutedAction)) == self.node.core.step, "the executed actions")
        return [message.source for message in self.heard(ExecutedAction)[-last:]]

    def diagnosis(self):
        """The executor's message and values in /diagnostics, asked for now."""
        count = len(self.heard(DiagnosticArray))
        self.node._heartbeat()
        self.node._health.publish()
        self.until(lambda: len(self.heard(DiagnosticArray)) > count, "diagnostics")
        status = self.heard(DiagnosticArray)[-1].status[0]
        return status.message, {value.key: value.value for value in status.values}


@pytest.fixture
def robot_file(tmp_path):
    values = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())
    values["tick"] = "timer"
    values["kinematics"] = str(CONFIG / "robots" / "sim_arms.xml")
    values["arms"][1].update(wrench_topic=WRENCH, max_force=30.0, max_torque=3.0)
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def robot(robot_file):
    with Robot.running(robot=robot_file) as made:
        yield made


def by_topic(robot):
    robot.say(Bool(data=True))


def by_button(robot):
    robot.say(OperatorEvent(event=OperatorEvent.EVENT_ESTOP, source="pad"))


def by_service(robot):
    robot.peer.estop.call_async(Estop.Request(reason="service"))


@pytest.mark.parametrize("stop", [by_topic, by_button, by_service])
def test_an_emergency_stop_is_at_the_driver_before_the_second_tick_and_never_lets_go_by_itself(robot, stop):
    robot.go()
    at = robot.node._state.q  # where the arms were measured last
    sent = len(robot.heard(Float64MultiArray))
    stop(robot)
    robot.until(lambda: robot.node.core.estop_reason, "the executor to hear of it")
    robot.until(lambda: len(robot.heard(Float64MultiArray)) > sent, "the hold, without any tick")
    np.testing.assert_allclose(robot.heard(Float64MultiArray)[sent].data, at, atol=1e-3)
    for _ in range(3):
        np.testing.assert_allclose(robot.period(), at, atol=1e-3)
    robot.say(Bool(data=False))
    robot.say(EpisodeState(episode_id=1, epoch=9, phase=EpisodeState.PHASE_BASE, execute_steps=4))
    for _ in range(5):
        np.testing.assert_allclose(robot.period(), at, atol=1e-3)
    assert robot.node.core.estop_reason
    assert robot.sources(1) == [RL], "nothing was executed since"


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
def test_the_stop_s_topic_is_heard_from_any_publisher_and_again_after_a_reset(robot, reliability):
    robot.go()
    button = robot.peer.create_publisher(Bool, topics.ESTOP, QoSProfile(depth=1, reliability=reliability))
    robot.until(lambda: button.get_subscription_count(), "the reader")

    def pressed():
        button.publish(Bool(data=True))
        robot.executor.spin_once(timeout_sec=0.05)
        return robot.node.core.estop_reason

    for _ in range(2):
        robot.until(pressed, "the stop")
        assert robot.node.core.estop_reason == "estop topic"
        robot.node._on_reset_estop(None, ResetEstop.Response())


def test_false_on_the_stop_s_topic_does_nothing(robot):
    robot.go()
    robot.say(Bool(data=False))
    robot.say(Bool(data=True))
    robot.until(lambda: robot.node.core.estop_reason, "the true one behind it")
    assert robot.node.core.estop_reason == "estop topic"


def test_a_hold_is_at_the_driver_in_the_next_tick(robot):
    robot.go()
    robot.newtons = 80.0
    at = list(robot.q)
    np.testing.assert_allclose(robot.period(), at, atol=1e-3)
    assert robot.sources(1) == [HOLD]
    text, values = robot.diagnosis()
    assert text == "wrench.right: force 80.0 N, limit 30 N"
    assert "force 80.0 N" in values["input wrench.right"]
    robot.newtons = 1.0
    for _ in range(3):
        robot.period()
    assert robot.heard(ControlState)[-1].hold_reason == "no chunk row for this step"


def test_cameras_at_fault_hold_in_the_next_tick_inside_a_chunk_and_motion_goes_on_when_they_are_well(robot):
    robot.go()
    robot.camera_fault = "camera base: 100 ms old, time-out 80 ms"
    robot.period()
    assert robot.sources(1) == [HOLD]
    text, values = robot.diagnosis()
    assert text == "cameras: camera base: 100 ms old, time-out 80 ms"
    assert "camera base: 100 ms old" in values["input cameras"]
    robot.camera_fault = ""
    requests = len(robot.heard(ChunkRequest))
    while len(robot.heard(ChunkRequest)) == requests:
        robot.period()
        robot.executor.spin_once(timeout_sec=0.05)
    robot.chunk(robot.request())
    robot.until(lambda: robot.node.core._play._next or robot.node.core._play.chunk, "the new chunk")
    robot.period()
    assert robot.sources(1) == [RL]


def test_a_force_peak_that_is_over_before_the_next_tick_holds_in_it(robot):
    robot.go()
    for newtons in (80.0, 1.0):
        robot.now_s += 0.001
        age = robot.node.watchdog.age_s("wrench.right", robot.now_s)
        message = WrenchStamped()
        message.header.stamp = to_time(round(robot.now_s * 1e9))
        message.wrench.force.z = newtons
        robot.peer.wrench.publish(message)
        if newtons > 30.0:
            robot.until(lambda: "force" in robot.node.watchdog.fault("wrench.right", robot.now_s), "the peak")
        else:
            robot.until(lambda age=age: robot.handled("wrench.right", age), "the sample after it")
    robot.tick()
    assert robot.sources(1) == [HOLD]
    assert robot.node.core.hold_reason == "wrench.right: force 80.0 N, limit 30 N"


@pytest.mark.parametrize(
    ("silent", "words", "periods"),
    [
        ("sensor_speaks", "wrench.right: ", 6),
        ("joints_speak", "joint_states: ", 6),
        ("manager_speaks", "episode_state: ", 26),
        ("cameras_speak", "cameras: ", 6),
    ],
)
def test_a_silent_input_holds_and_diagnostics_name_it(robot, silent, words, periods):
    robot.go()
    setattr(robot, silent, False)
    for _ in range(periods):
        last = robot.period()
    assert last is None if silent == "joints_speak" else robot.sources(1) == [HOLD]
    text, values = robot.diagnosis()
    assert text.startswith(words)
    assert robot.heard(DiagnosticArray)[-1].status[0].level == DiagnosticStatus.ERROR
    row = values[f"input {words.split(':')[0]}"]
    assert "time-out" in row
    assert "ms of" in row
    assert robot.node.core.hold_reason.startswith(words)


def test_a_manager_that_knows_less_than_the_executor_is_no_sign_of_life(robot):
    robot.go()
    robot.manager_speaks = False
    for _ in range(26):
        robot.period()
    robot.say(EpisodeState(phase=EpisodeState.PHASE_IDLE))  # it started anew, in a run directory without files
    robot.until(lambda: "older than ours" in robot.node.core.last_refusal, "the refusal")
    for _ in range(3):
        robot.period()
    assert robot.sources(3) == [HOLD] * 3
    assert robot.node.core.hold_reason.startswith("episode_state: ")


def test_every_input_has_its_row_in_diagnostics(robot):
    robot.go()
    _, values = robot.diagnosis()
    rows = {key.removeprefix("input "): value for key, value in values.items() if key.startswith("input ")}
    assert set(rows) == {
        "joint_states",
        "episode_state",
        "teleop_command",
        "action_chunk",
        "command_topic",
        "cameras",
        "wrench.right",
    }
    assert rows["joint_states"] == "0 ms of 100 ms"
    assert rows["teleop_command"].startswith("never heard of 100 ms")


def test_joint_states_that_are_broken_hold_at_once(robot):
    robot.go()
    robot.joints(position=[float("nan"), *HOME[1:]])
    robot.until(lambda: robot.node.watchdog.fault("joint_states", robot.now_s), "the refusal")
    assert robot.tick() is None
    assert robot.diagnosis()[0] == "joint_states: positions of left_waist is not finite"


def test_a_first_joint_state_that_is_out_of_range_does_not_stand_in_the_way_of_those_that_follow(robot):
    robot.joints(position=[1e6, *HOME[1:]])
    robot.until(lambda: "is measured at 1e+06" in robot.node.watchdog.fault("joint_states", robot.now_s), "the refusal")
    assert robot.node._state is None
    robot.go()


def test_a_joint_state_that_no_arm_can_have_reached_is_not_taken_and_an_emergency_stop_does_not_go_there(robot):
    robot.go()
    at, far = robot.node._state.q, list(robot.q)
    far[7] += 1.0
    robot.now_s += 0.001
    robot.joints(position=far)
    robot.until(lambda: robot.node.watchdog.fault("joint_states", robot.now_s), "the refusal")
    assert robot.tick() is None
    assert "joint right_waist is measured" in robot.diagnosis()[0]
    sent = len(robot.heard(Float64MultiArray))
    robot.say(Bool(data=True))
    robot.until(lambda: robot.node.core.estop_reason, "the stop")
    robot.joints(position=robot.q)
    robot.until(lambda: not robot.node.watchdog.fault("joint_states", robot.now_s), "a right one")
    robot.tick()
    np.testing.assert_allclose(robot.heard(Float64MultiArray)[sent].data, at, atol=1e-3)


def test_a_broken_chunk_holds_and_diagnostics_say_why(robot):
    robot.go()
    dropped = robot.node.core.counters.dropped_chunks
    robot.chunk(robot.request(), actions=floats(np.full(56, np.inf)))
    robot.until(lambda: robot.node.core.counters.dropped_chunks > dropped, "the refusal")
    robot.period()
    assert robot.sources(1) == [HOLD]
    assert "not finite" in robot.diagnosis()[1]["last_refusal"]


def test_a_human_s_commands_hold_when_they_stop_or_make_no_sense(robot):
    robot.go()
    robot.state = EpisodeState(
        episode_id=1, epoch=2, phase=EpisodeState.PHASE_BASE, execute_steps=4, human_in_control=True
    )
    robot.period()
    assert robot.sources(1) == [HOLD]

    def command(**fields):
        before = robot.node.watchdog.table(robot.now_s)[2]
        action = np.zeros(14)
        action[7] = 0.003
        robot.now_s += 1e-6
        robot.say(TeleopCommand(**{"enabled": True, "device": "test", "action": floats(action), **fields}))
        robot.until(lambda: robot.node.watchdog.table(robot.now_s)[2] != before, "the command")

    command(frame=TeleopCommand.FRAME_TOOL, repositioning=True)
    robot.period()
    step = robot.heard(ExecutedAction)[-1] if robot.sources(1) == [HUMAN] else None
    assert step.repositioning
    assert step.action[7] == pytest.approx(-0.003, abs=1e-5), "this tool looks back along the world's x"
    command(frame=9)
    robot.period()
    assert robot.sources(1) == [HOLD]
    assert "9 is not a valid Frame" in robot.node.core.hold_reason
    command()
    for _ in range(8):
        robot.period()
    driven = robot.sources(8)
    assert driven[:4] == [HUMAN] * 4
    assert driven[-2:] == [HOLD] * 2
    assert "teleop_command: " in robot.node.core.hold_reason


def test_another_node_on_the_command_topic_is_an_emergency_stop_that_names_it(robot):
    robot.go()
    intruder = Node("moveit_servo", context=robot.peer.context)
    topic = robot.node.robot.command_topics[0]
    intruder.create_publisher(Float64MultiArray, topic, topics.QOS_CONTROL)
    robot.until(lambda: robot.node.count_publishers(topic) == 2, "the graph to know it")
    robot.until(lambda: stopped(robot), "the stop, by the node's own look-out")
    assert "/moveit_servo publishes on /forward_position_controller/commands too" in robot.node.core.estop_reason
    at = robot.node._state.q
    np.testing.assert_allclose(robot.period(), at, atol=1e-3)

    def reset():
        future = robot.peer.reset.call_async(ResetEstop.Request())
        robot.until(future.done, "the answer")
        return future.result()

    refused = reset()
    assert not refused.reset
    assert "/moveit_servo" in refused.message
    intruder.destroy_node()
    robot.until(lambda: robot.node.count_publishers(topic) == 1, "the graph to forget it")
    assert reset().reset


def test_an_executor_that_starts_beside_another_commander_starts_stopped(robot_file):
    context = rclpy.Context()
    rclpy.init(context=context)
    intruder = Node("old_driver", context=context)
    intruder.create_publisher(Float64MultiArray, "forward_position_controller/commands", topics.QOS_CONTROL)
    bench = Robot(context, robot_file)
    bench.until(lambda: "/old_driver publishes on" in bench.node.core.estop_reason, "the stop")
    assert bench.heard(ExecutedAction) == []
    bench.executor.shutdown()
    for node in (intruder, bench.node, bench.peer):
        node.destroy_node()
    rclpy.shutdown(context=context)
