"""A take-over from the pad to the arm driver: joystick node, episode manager and executor of a robot, over real DDS.

The arms follow every command at once, the policy answers at once, and nothing is asserted about how long anything
takes: a slow machine holds more often and ends up in the same places.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Float64MultiArray

from rlt_common import topics
from rlt_common.codecs import floats
from rlt_common.config import load_robot
from rlt_control.chunk_executor_node import ChunkExecutorNode
from rlt_msgs.msg import ActionChunk, ChunkRequest, EpisodeState, ExecutedAction
from rlt_msgs.srv import StartEpisode
from rlt_teleop.episode_manager_node import EpisodeManagerNode
from rlt_teleop.joy_operator_node import JoyOperatorNode

CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"
HOME = [0.0, -0.35, 0.85, 0.0, -0.5, 0.0, 0.0] * 2
HOLD, VLA, HUMAN = ExecutedAction.SOURCE_HOLD, ExecutedAction.SOURCE_VLA, ExecutedAction.SOURCE_HUMAN
ENABLE, NEXT, SELECT_RIGHT, FORWARD = 5, 7, 8, 1  # xbox.yaml
LIMIT_S = 60.0


class Surroundings(Node):
    """The arms, the policy and the pad."""

    def __init__(self, robot):
        super().__init__("surroundings")
        self.robot, self.q = robot, list(HOME)
        self.executed, self.requests, self.states = [], [], []
        self.buttons, self.forward = set(), 0.0
        self.joints = self.create_publisher(JointState, topics.JOINT_STATES, topics.QOS_CONTROL)
        self.chunks = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, topics.QOS_CHUNK)
        self.cameras = self.create_publisher(DiagnosticStatus, topics.CAMERA_HEALTH, topics.QOS_CONTROL)
        self.joy = self.create_publisher(Joy, topics.JOY, topics.QOS_EVENT)
        self.starter = self.create_client(StartEpisode, topics.SERVICE_START_EPISODE)
        self.create_subscription(Float64MultiArray, robot.command_topics[0], self._on_command, topics.QOS_CONTROL)
        self.create_subscription(ExecutedAction, topics.EXECUTED_ACTION, self.executed.append, topics.QOS_STREAM)
        self.create_subscription(ChunkRequest, topics.CHUNK_REQUEST, self._on_request, topics.QOS_CONTROL)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self.states.append, topics.QOS_LATCHED_READER)

    def _on_command(self, message):
        self.q = list(message.data)

    def _on_request(self, request):
        self.requests.append(request)
        rows = np.zeros((request.rows, 14), np.float32)
        rows[:, 7] = 1e-4
        self.chunks.publish(
            ActionChunk(
                episode_id=request.episode_id,
                epoch=request.epoch,
                chunk_id=request.request_id,
                first_step=request.first_step,
                source=ActionChunk.SOURCE_VLA,
                rows=request.rows,
                action_dim=14,
                actions=floats(rows),
                reference=floats(rows),
                arm_names=[arm.name for arm in self.robot.arms],
            )
        )

    def say_joints(self):
        message = JointState(name=list(self.robot.joint_names), position=self.q)
        message.header.stamp = self.get_clock().now().to_msg()
        self.joints.publish(message)

    def say_pad(self):
        axes = [0.0] * 8
        axes[FORWARD] = self.forward
        self.joy.publish(Joy(axes=axes, buttons=[int(index in self.buttons) for index in range(11)]))


class Cell:
    """All of it in one thread; the executor ticks at its rate, or as often as this machine lets it."""

    def __init__(self, robot_file):
        self.executor = SingleThreadedExecutor()
        self.node = ChunkExecutorNode()
        self.around = Surroundings(load_robot(robot_file))
        self.nodes = [self.node, self.around, EpisodeManagerNode(), JoyOperatorNode()]
        for node in self.nodes:
            self.executor.add_node(node)
        self.pad_plugged = True
        self._due = time.monotonic()

    def turn(self):
        """One control period."""
        around = self.around
        around.say_joints()
        around.cameras.publish(DiagnosticStatus(level=DiagnosticStatus.OK))
        if self.pad_plugged:
            around.say_pad()
        self._due = max(self._due + 0.02, time.monotonic())
        while (left := self._due - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)
        for _ in range(10):
            self.executor.spin_once(timeout_sec=0)
        self.node.timer_tick(0.0)

    def until(self, condition, what):
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"waited for {what}; the executor: {self.node.core.hold_reason!r}"
            self.turn()

    def turns(self, count):
        """The sources of `count` more executed steps."""
        done = len(self.around.executed)
        self.until(lambda: len(self.around.executed) >= done + count, f"{count} steps")
        return [message.source for message in self.around.executed[done : done + count]]

    def press(self, button):
        self.around.buttons = {button}
        for _ in range(4):
            self.turn()
        self.around.buttons = set()
        for _ in range(4):
            self.turn()

    @property
    def state(self):
        return self.around.states[-1]

    def begin(self):
        """An episode that the VLA drives."""
        around = self.around
        self.until(lambda: around.starter.service_is_ready() and around.states and self.node.core.episode, "the graph")
        self.until(lambda: around.joy.get_subscription_count() == 1, "the pad's reader")
        request = StartEpisode.Request(purpose=EpisodeState.PURPOSE_EVALUATE, driver=EpisodeState.DRIVER_VLA)
        answers = []

        def accepted():
            if not answers or (answers[-1].done() and not answers[-1].result().accepted):
                answers.append(around.starter.call_async(request))
            return answers[-1].done() and answers[-1].result().accepted

        self.until(accepted, "the episode to be started")
        self.press(NEXT)
        self.until(lambda: self.state.phase == EpisodeState.PHASE_BASE, "the scene to be ready")
        self.until(lambda: around.executed and around.executed[-1].source == VLA, "the VLA to drive")
        self.press(SELECT_RIGHT)

    def take_over(self):
        self.around.buttons, self.around.forward = {ENABLE}, 1.0
        self.until(lambda: self.around.executed[-1].source == HUMAN, "the human to drive")

    def close(self):
        for node in self.nodes:
            self.executor.remove_node(node)
            node.destroy_node()
        self.executor.shutdown()
        rclpy.try_shutdown()


@pytest.fixture
def cell(tmp_path):
    values = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())
    values.update(tick="timer", reset="operator", kinematics=f"{CONFIG}/robots/sim_arms.xml")
    robot = tmp_path / "robot.yaml"
    robot.write_text(yaml.safe_dump(values))
    files = {"robot": str(robot), "task": f"{CONFIG}/tasks/screw.yaml"}
    parameters = {
        "chunk_executor": {**files, "manager_timeout_s": 5.0, "cameras_timeout_s": 2.0},
        "episode_manager": {**files, "run_directory": str(tmp_path / "run"), "record": False},
        "joy_operator": {"robot": str(robot), "mapping": f"{CONFIG}/joy/xbox.yaml", "silence_s": 0.3},
    }
    path = tmp_path / "parameters.yaml"
    path.write_text(yaml.safe_dump({f"/**/{name}": {"ros__parameters": own} for name, own in parameters.items()}))
    rclpy.init(args=["--ros-args", "-r", f"__ns:=/takeover_{os.getpid()}", "--params-file", str(path)])
    made = Cell(robot)
    yield made
    made.close()


def test_a_take_over_begins_where_the_arms_are_and_giving_back_asks_for_a_new_chunk(cell):
    cell.begin()
    epoch = cell.state.epoch
    cell.take_over()
    executed = cell.around.executed
    assert cell.state.human_in_control
    assert cell.state.epoch == epoch + 1
    first = next(i for i, message in enumerate(executed) if message.source == HUMAN)
    limit = cell.node.robot.step_limit
    for before, after in zip(executed[first - 1 :], executed[first:], strict=False):
        assert (np.abs(after.action) <= limit + 1e-6).all()
        assert np.abs(np.array(after.joint_target) - np.array(before.joint_target)).max() < 0.02, "no jump"
    assert executed[-1].action[7] == pytest.approx(0.001, abs=1e-6), "0.05 m/s at 50 Hz, forward in the world"

    asked = len(cell.around.requests)
    cell.around.buttons = set()
    cell.until(lambda: cell.around.executed[-1].source == VLA, "the VLA to drive again")
    assert cell.state.epoch == epoch + 2
    assert {request.epoch for request in cell.around.requests[asked:]} == {epoch + 2}
    given_back = next(i for i, message in enumerate(executed) if message.epoch == epoch + 2)
    assert executed[given_back].source == HOLD, "the chunk of before is gone; the new one is on its way"


def test_a_pad_that_is_unplugged_in_a_take_over_holds_until_a_person_lets_go(cell):
    cell.begin()
    cell.take_over()
    cell.pad_plugged = False
    cell.until(lambda: cell.around.executed[-1].source == HOLD, "the hold")
    cell.until(lambda: "holds no enable button" in cell.node.core.hold_reason, "the joystick node's word")
    still = list(cell.around.q)
    assert set(cell.turns(20)) == {HOLD}
    np.testing.assert_allclose(cell.around.q, still, atol=1e-3)
    cell.pad_plugged = True  # it comes back with the button still held
    assert set(cell.turns(20)) == {HOLD}
    assert cell.state.human_in_control, "control is not given back by itself"
    cell.around.buttons, cell.around.forward = set(), 0.0
    cell.until(lambda: cell.around.executed[-1].source == VLA, "the VLA to drive again")
    assert not cell.state.human_in_control


def test_without_the_enable_button_the_sticks_move_nothing(cell):
    cell.begin()
    cell.around.forward = 1.0
    sources = cell.turns(30)
    assert HUMAN not in sources
    assert not cell.state.human_in_control
