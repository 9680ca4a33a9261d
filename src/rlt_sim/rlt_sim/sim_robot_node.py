"""The simulated robot: stands exactly where arm drivers and cameras stand, with the same topics.

Publishes   joint_states (sensor_msgs/JointState), the cameras' topics (sensor_msgs/Image rgb8), /clock (lockstep),
            simulation/state (rlt_msgs/SimulationState), simulation/mouth (geometry_msgs/PoseStamped: of the opening):
            privileged, for the scripted operator only
Subscribes  the robot's command topic (std_msgs/Float64MultiArray, absolute joint targets),
            control_state (rlt_msgs/ControlState: whether the arms may move at all),
            simulation/operator_ack (std_msgs/UInt64: stamp in ns up to which the scripted operator has acted)
Services    reset_scene (rlt_msgs/ResetScene)

`tick: joint_states` in the robot file is lockstep: as fast as the CPU allows, deterministic. `tick: timer` is real
time: physics and cameras run on the wall clock whether or not commands come, as a robot does. In lockstep a command
must say which state it answers (`command_message`).
"""

from __future__ import annotations

import array
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, UInt64

from rlt_common import topics
from rlt_common.codecs import answered_ns, doubles, floats, to_time
from rlt_common.config import load_robot, load_task
from rlt_common.health import ERROR, OK, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import ControlState, EpisodeState, SimulationState
from rlt_msgs.srv import ResetScene
from rlt_sim.lockstep import GATE_STEPS, Awaiting, LockstepGate, Pace, episode_stamp_ns
from rlt_sim.sight import pose_message
from rlt_sim.task_cell import make_cell

MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)
CLOCK_STEPS = 5
REPUBLISH_S = 1.0


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the simulated robot."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    gate_steps: int = param(
        GATE_STEPS,
        "control steps between two decisions of the scripted operator in lockstep; 0: a person presses, nothing waits",
        minimum=0,
        maximum=1000,
    )
    real_time_factor: float = param(
        0.0,
        "lockstep: simulated seconds per second at most, for a person who drives by hand; 0: as fast as it goes",
        minimum=0.0,
        maximum=100.0,
    )

    def __post_init__(self) -> None:
        validate(self)


class SimRobotNode(Node):
    """See the module docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("sim_robot", **node_arguments)
        self.parameters = declare(self, NodeParameters)
        reject_unknown(self)
        self.robot = load_robot(self.parameters.robot)
        self.task = load_task(self.parameters.task)
        self.cell = make_cell(self.robot, self.task)
        self.lockstep = self.robot.tick == "joint_states"
        self._period_ns = round(1e9 / self.robot.control_hz)
        self._gate = LockstepGate(self.parameters.gate_steps if self.lockstep else 0)
        self._targets: np.ndarray | None = None
        self._health = Health(self)
        self.cell.reset(0, self.task.start_in)

        self._joints = self.create_publisher(JointState, topics.JOINT_STATES, topics.QOS_CONTROL)
        camera_qos = topics.QOS_CAMERA_LOCKSTEP if self.lockstep else topics.QOS_SENSOR
        self._cameras = [self.create_publisher(Image, c.topic, camera_qos) for c in self.robot.cameras]
        self._state = self.create_publisher(SimulationState, topics.SIMULATION_STATE, topics.QOS_CONTROL)
        self._mouth = self.create_publisher(PoseStamped, topics.SIMULATION_MOUTH, topics.QOS_CONTROL)
        self.create_subscription(Float64MultiArray, self.robot.command_topics[0], self._on_command, topics.QOS_CONTROL)
        self.create_service(ResetScene, topics.SERVICE_RESET_SCENE, self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        if self.lockstep:
            self._clock_publisher = self.create_publisher(ClockMessage, "/clock", topics.QOS_CONTROL)
            self.create_subscription(ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED)
            self.create_subscription(UInt64, topics.SIMULATION_ACK, self._on_ack, topics.QOS_CONTROL)
            self._heard = True
            self.create_timer(REPUBLISH_S, self._republish, clock=steady)
            factor = self.parameters.real_time_factor
            self._pace = Pace(self.robot.period_s / factor if factor else 0.0)
            self._wait = self.create_timer(self.robot.period_s, self._publish_when_due, clock=steady, autostart=False)
        else:
            self.create_timer(self.robot.period_s, self._real_time_step, clock=steady)

    # ---- lockstep

    def _now_ns(self) -> int:
        if self.lockstep:
            return episode_stamp_ns(self._gate.episode_id, self._gate.step, self._period_ns)
        return self.get_clock().now().nanoseconds

    def _on_control(self, message: ControlState) -> None:
        moving = message.phase in MOVING and not message.estop
        if self._gate.on_control(message.episode_id, moving):
            self._publish_step()

    def _on_ack(self, message: UInt64) -> None:
        if self._gate.on_operator(message.data, self._now_ns()):
            self._publish_robot()

    def _on_command(self, message: Float64MultiArray) -> None:
        targets = np.asarray(message.data, dtype=np.float64)
        if targets.size != len(self.robot.joint_names) or not np.isfinite(targets).all():
            self._health.set(ERROR, f"refused a command of {targets.size} values, or not finite")
            return
        if not self.lockstep:
            self._targets = targets
        elif self._wait.is_canceled() and self._gate.on_command(answered_ns(message), self._now_ns()):
            self._heard = True
            self.cell.apply(targets)
            self._gate.advance()
            self._publish_in_time()

    def _publish_in_time(self) -> None:
        """Publish the step now, or when its time has come: a person drives no faster than real time."""
        wait_s = self._pace.next_step(time.monotonic())
        if wait_s > 0.0:
            self._wait.timer_period_ns = round(wait_s * 1e9)
            self._wait.reset()
        else:
            self._publish_step()

    def _publish_when_due(self) -> None:
        self._wait.cancel()
        if self._gate.awaiting is not Awaiting.EPISODE:
            self._publish_step()

    def _publish_step(self) -> None:
        if self._gate.awaiting is Awaiting.OPERATOR:
            self._publish_state()
        else:
            self._publish_robot()

    def _republish(self) -> None:
        """Once a second of silence: say again what is waited for, in case a process was restarted."""
        if self._gate.awaiting is not Awaiting.EPISODE and not self._heard:
            self._publish_step()
        self._heard = False
        self._health.set(
            OK, f"step {self._gate.step}, waiting for {self._gate.awaiting.value}", episode=self._gate.episode_id
        )

    # ---- real time

    def _real_time_step(self) -> None:
        targets = self.cell.joint_state()[0] if self._targets is None else self._targets
        self.cell.apply(targets)
        self._gate.step += 1
        self._publish_state()
        self._publish_robot()
        if self._gate.step % 50 == 0:
            self._health.set(OK, "running in real time", step=self._gate.step)

    # ---- both

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        try:
            self._gate.reset(request.episode_id)
            self.cell.reset(request.seed, request.start_in or self.task.start_in)
        except ValueError as error:
            response.message = str(error)
            return response
        self._targets = None
        if self.lockstep:
            self._wait.cancel()
        else:
            self._publish_robot()  # where the arms stand now is known before the episode may begin
        response.done = True
        return response

    def _publish_state(self) -> None:
        state = self.cell.task_state()
        message = SimulationState(
            step=self._gate.step,
            hand_off_ready=state.hand_off_ready,
            success=state.success,
            task_error=floats(state.label),
            progress=state.progress,
        )
        message.header.stamp = to_time(self._now_ns())
        self._mouth.publish(pose_message(self.cell.mouth_pose(), message.header.stamp, self.robot.frame))
        self._state.publish(message)

    def _publish_robot(self) -> None:
        stamp = to_time(self._now_ns())
        if self.lockstep and self._gate.step % CLOCK_STEPS == 0:
            self._clock_publisher.publish(ClockMessage(clock=stamp))
        position, velocity, effort = self.cell.joint_state()
        joints = JointState(
            name=list(self.robot.joint_names),
            position=doubles(position),
            velocity=doubles(velocity),
            effort=doubles(effort),
        )
        joints.header.stamp = stamp
        joints.header.frame_id = self.robot.frame
        self._joints.publish(joints)
        if self._gate.step % self.task.stride == 0:
            self._publish_images(stamp)

    def _publish_images(self, stamp: Time) -> None:
        for publisher, camera, rgb in zip(self._cameras, self.robot.cameras, self.cell.images(), strict=True):
            publisher.publish(image_message(rgb, stamp, camera.name))


def image_message(rgb: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """(H, W, 3) uint8 RGB as a camera driver publishes it."""
    height, width, _ = rgb.shape
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=array.array("B", rgb.tobytes()))
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    return message


def main() -> None:
    """Entry point of `ros2 run rlt_sim sim_robot`."""
    run_node("sim_robot", SimRobotNode)
