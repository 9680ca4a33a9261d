"""The simulated robot in lockstep, over real DDS."""

import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from ament_index_python.packages import get_package_share_directory
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from rlt_common import topics
from rlt_common.codecs import command_message, stamp_ns
from rlt_msgs.msg import ControlState, EpisodeState
from rlt_msgs.srv import ResetScene
from rlt_sim.sim_robot_node import SimRobotNode

CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"
LIMIT_S = 30.0


class Executor(Node):
    """Says that the arms may move, and hears the joint states."""

    def __init__(self, command_topic):
        super().__init__("chunk_executor")
        self.stamps, self.q = [], None
        self.state = self.create_publisher(ControlState, topics.CONTROL_STATE, topics.QOS_LATCHED)
        self.command = self.create_publisher(Float64MultiArray, command_topic, topics.QOS_CONTROL)
        self.create_subscription(JointState, topics.JOINT_STATES, self._on_joints, topics.QOS_CONTROL)

    def _on_joints(self, message):
        self.stamps.append(stamp_ns(message.header.stamp))
        self.q = np.array(message.position)


@pytest.fixture
def lockstep():
    rclpy.init()
    files = {"robot": str(CONFIG / "robots/sim.yaml"), "task": str(CONFIG / "tasks/screw.yaml"), "gate_steps": 0}
    sim = SimRobotNode(parameter_overrides=[Parameter(name, value=value) for name, value in files.items()])
    peer = Executor(sim.robot.command_topics[0])
    executor = SingleThreadedExecutor()
    for node in (sim, peer):
        executor.add_node(node)

    def until(condition, what):
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}"
            executor.spin_once(timeout_sec=0.1)

    until(lambda: peer.command.get_subscription_count() and sim._joints.get_subscription_count(), "discovery")
    yield sim, peer, until
    for node in (sim, peer):
        node.destroy_node()
    rclpy.shutdown()


def test_only_a_command_that_answers_the_step_advances_it(lockstep):
    _, peer, until = lockstep
    peer.state.publish(ControlState(phase=EpisodeState.PHASE_BASE))
    until(lambda: peer.stamps, "step 0")
    first = peer.stamps[-1]
    # Step 0 was said again after a second of silence, and both sayings were answered: the second answer is for no step.
    for _ in range(2):
        peer.command.publish(command_message(peer.q, first))
    peer.command.publish(Float64MultiArray(data=peer.q.tolist()))
    until(lambda: peer.stamps[-1] > first, "step 1")
    second = peer.stamps[-1]
    until(lambda: len(peer.stamps) >= 4, "step 1 being said again and again")
    assert peer.stamps[-1] == second
    peer.command.publish(command_message(peer.q, second))
    until(lambda: peer.stamps[-1] > second, "step 2")


def test_in_real_time_the_reset_arms_are_told_before_the_reset_is_answered(tmp_path):
    """Otherwise an episode could begin from where they stood before."""
    values = yaml.safe_load((CONFIG / "robots/sim.yaml").read_text())
    values |= {"tick": "timer", "kinematics": str(CONFIG / "robots" / values["kinematics"])}
    robot = tmp_path / "robot.yaml"
    robot.write_text(yaml.safe_dump(values))
    rclpy.init()
    files = {"robot": str(robot), "task": str(CONFIG / "tasks/screw.yaml")}
    sim = SimRobotNode(parameter_overrides=[Parameter(name, value=value) for name, value in files.items()])
    try:
        home = sim.cell.joint_state()[0]
        sim._targets = home + 0.05
        for _ in range(20):
            sim._real_time_step()
        assert np.abs(sim.cell.joint_state()[0] - home).max() > 0.01
        said = []
        sim._joints.publish = said.append
        assert sim._on_reset(ResetScene.Request(episode_id=1, start_in="full"), ResetScene.Response()).done
        np.testing.assert_allclose(said[-1].position, sim.cell.joint_state()[0])
    finally:
        sim.destroy_node()
        rclpy.shutdown()
