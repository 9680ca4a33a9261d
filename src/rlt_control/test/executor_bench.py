"""An executor node and everything around it, in one process and over real DDS."""

import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import WrenchStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray

from rlt_common import topics
from rlt_common.codecs import floats, to_time
from rlt_control.chunk_executor_node import ChunkExecutorNode
from rlt_msgs.msg import (
    ActionChunk,
    ChunkRequest,
    ControlState,
    EpisodeState,
    ExecutedAction,
    OperatorEvent,
    TeleopCommand,
)
from rlt_msgs.srv import Estop, ResetEstop

WRENCH = "right/wrench"
CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"
HOME = [0.0, -0.35, 0.85, 0.0, -0.5, 0.0, 0.0] * 2
LIMIT_S = 15.0


class Peer(Node):
    """Everything around the executor: robot, policy, manager and operator."""

    def __init__(self, context):
        super().__init__("peer", context=context)
        self.heard = {}
        for kind, topic, qos in (
            (Float64MultiArray, "forward_position_controller/commands", topics.QOS_CONTROL),
            (ChunkRequest, topics.CHUNK_REQUEST, topics.QOS_CONTROL),
            (ExecutedAction, topics.EXECUTED_ACTION, topics.QOS_STREAM),
            (ControlState, topics.CONTROL_STATE, topics.QOS_LATCHED),
            (DiagnosticArray, topics.DIAGNOSTICS, topics.QOS_CONTROL),
        ):
            self.heard[kind] = []
            self.create_subscription(kind, topic, self.heard[kind].append, qos)
        self.talk = {
            JointState: self.create_publisher(JointState, topics.JOINT_STATES, topics.QOS_CONTROL),
            ActionChunk: self.create_publisher(ActionChunk, topics.ACTION_CHUNK, topics.QOS_CONTROL),
            EpisodeState: self.create_publisher(EpisodeState, topics.EPISODE_STATE, topics.QOS_LATCHED),
            OperatorEvent: self.create_publisher(OperatorEvent, topics.OPERATOR_EVENT, topics.QOS_EVENT),
            TeleopCommand: self.create_publisher(TeleopCommand, topics.TELEOP_COMMAND, topics.QOS_CONTROL),
            Bool: self.create_publisher(Bool, topics.ESTOP, topics.QOS_EVENT),
        }
        self.cameras = self.create_publisher(DiagnosticStatus, topics.CAMERA_HEALTH, topics.QOS_CONTROL)
        self.wrench = self.create_publisher(WrenchStamped, WRENCH, topics.QOS_SENSOR)
        self.estop = self.create_client(Estop, topics.SERVICE_ESTOP)
        self.reset = self.create_client(ResetEstop, topics.SERVICE_RESET_ESTOP)


class Bench:
    """Executor node and peer in one executor. With `moved_clock` the node's clock is `now_s`, which the test moves."""

    def __init__(self, context, robot=CONFIG / "robots" / "sim.yaml", moved_clock=False, dry_run=False, lacks=""):
        self.now_s = 100.0
        parameters = {"robot": robot, "task": CONFIG / "tasks" / "screw.yaml"}
        overrides = [Parameter(name, value=str(value)) for name, value in parameters.items()]
        overrides += [Parameter("request_retry_s", value=0.2), Parameter("dry_run", value=dry_run)]
        overrides += [Parameter("lacks", value=lacks)]
        now_s = (lambda: self.now_s) if moved_clock else time.monotonic
        self.node = ChunkExecutorNode(now_s, context=context, parameter_overrides=overrides)
        self.peer = Peer(context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.step = 0
        unheard = () if topics.JOINT_STATES in self.node._sources.topics else (JointState,)
        talk = [publisher for kind, publisher in self.peer.talk.items() if kind not in unheard]
        talk += [] if self.node.lockstep else [self.peer.cameras]
        self.until(lambda: all(publisher.get_subscription_count() for publisher in talk), "matched endpoints")
        self.until(lambda: self.peer.estop.service_is_ready() and self.peer.reset.service_is_ready(), "services")

    def until(self, condition, what):
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"waited {LIMIT_S} s for {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def heard(self, kind):
        return self.peer.heard[kind]

    def say(self, message):
        self.peer.talk[type(message)].publish(message)

    def episode(self, phase=EpisodeState.PHASE_BASE, episode_id=1, epoch=1, **fields):
        self.say(EpisodeState(episode_id=episode_id, epoch=epoch, phase=phase, execute_steps=4, **fields))
        self.until(
            lambda: (
                self.heard(ControlState)
                and (self.heard(ControlState)[-1].episode_id, self.heard(ControlState)[-1].epoch) == (episode_id, epoch)
                and self.heard(ControlState)[-1].phase == phase
            ),
            "the executor to take the episode over",
        )

    def start(self):
        self.episode(EpisodeState.PHASE_RESETTING)
        self.episode()

    def joints(self, names=None, position=None):
        names = list(self.node.robot.joint_names) if names is None else names
        message = JointState(name=names, position=HOME if position is None else position)
        message.header.stamp = to_time(1_000_000_000 + self.step * 20_000_000)
        self.step += 1
        self.say(message)

    def chunk(self, request, **fields):
        rows = np.zeros((4, 14), np.float32)
        rows[:, 7] = 0.001
        values = {
            "episode_id": request.episode_id,
            "epoch": request.epoch,
            "chunk_id": request.request_id,
            "first_step": request.first_step,
            "source": ActionChunk.SOURCE_RL,
            "rows": 4,
            "action_dim": 14,
            "actions": floats(rows),
            "reference": floats(rows),
            "arm_names": ["left", "right"],
        }
        self.say(ActionChunk(**{**values, **fields}))

    def cameras(self, fault=""):
        """camera_ingest says how the cameras are."""
        level = DiagnosticStatus.ERROR if fault else DiagnosticStatus.OK
        self.peer.cameras.publish(DiagnosticStatus(level=level, message=fault))

    def request(self):
        self.until(lambda: self.heard(ChunkRequest), "a chunk request")
        return self.heard(ChunkRequest)[-1]

    @classmethod
    @contextmanager
    def running(cls, **options):
        """A bench in a context of its own, cleaned up at the end."""
        context = rclpy.Context()
        rclpy.init(context=context)
        made = cls(context, **options)
        try:
            yield made
        finally:
            made.executor.shutdown()
            made.node.destroy_node()
            made.peer.destroy_node()
            rclpy.shutdown(context=context)


def stopped(bench):
    return bench.heard(ControlState) and bench.heard(ControlState)[-1].estop
