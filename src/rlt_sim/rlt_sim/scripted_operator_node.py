"""The scripted operator: looks at the simulated cell and presses buttons of a gamepad, as a person would.

Subscribes  simulation/state (rlt_msgs/SimulationState), episode_state (rlt_msgs/EpisodeState, latched),
            control_state (rlt_msgs/ControlState, latched)
Publishes   joy (sensor_msgs/Joy: button pressed, then released), simulation/operator_ack (std_msgs/UInt64)

With `operator.demonstrate` it also drives the arms, as a person with leader arms does: it holds the enable button, and
Subscribes  simulation/mouth (geometry_msgs/PoseStamped), joint_states (sensor_msgs/JointState)
Publishes   the leaders' topics of the mapping (sensor_msgs/JointState)

It presses and drives through the same joystick node that a person's devices go through; nothing else in the graph sees
the simulator's state. In lockstep it answers each state only when what it pressed has reached the executor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import UInt64

from rlt_common import topics
from rlt_common.codecs import CodecError, doubles, stamp_ns
from rlt_common.config import load_task
from rlt_common.health import ERROR, OK, Health
from rlt_common.parameters import ParameterError, declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import ControlState, EpisodeState, SimulationState
from rlt_sim.arms import JOINT_NAMES
from rlt_sim.operator import OperatorConfig, Press, decide
from rlt_sim.scripted_hands import ScriptedHands
from rlt_sim.sight import pose_of, task_state
from rlt_sim.task_cell import make_scene
from rlt_teleop.joy_mapping import JoyMapping, load_mapping

REPEAT_S = 1.0
HAND_S = 0.02
"""How often the leaders say where they stand, and the pad that its enable button is held."""
MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the scripted operator."""

    task: str = param(description="path of the task file")
    mapping: str = param(description="path of the joystick mapping whose buttons it presses")
    operator: OperatorConfig = field(default_factory=OperatorConfig)

    def __post_init__(self) -> None:
        validate(self)


class ScriptedOperatorNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("scripted_operator")
        self.parameters = declare(self, NodeParameters)
        reject_unknown(self)
        mapping = load_mapping(self.parameters.mapping)
        self._button = {press.value: mapping.button(press.value) for press in Press}
        self._leaders: dict[Publisher, tuple[str, ...]] = {}
        self._gripped = False
        self._buttons, self._axes = mapping.buttons_needed, mapping.axes_needed
        self._episode = EpisodeState()
        self._control = ControlState()
        self._state: SimulationState | None = None
        self._stamp_ns = 0
        self._pressed: tuple[Press, int] | None = None
        self._hands: ScriptedHands | None = None
        self._joints: np.ndarray | None = None
        self._mouth: PoseStamped | None = None
        self._leading: dict[str, float] = {}
        self._presses = 0
        self._health = Health(self)
        self._joy = self.create_publisher(Joy, topics.JOY, topics.QOS_EVENT)
        self._ack = self.create_publisher(UInt64, topics.SIMULATION_ACK, topics.QOS_CONTROL)
        self.create_subscription(SimulationState, topics.SIMULATION_STATE, self._on_state, topics.QOS_CONTROL)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED)
        self.create_subscription(ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(REPEAT_S, self._repeat, clock=steady)
        if self.parameters.operator.demonstrate:
            self._take_leaders(mapping)
            self.create_timer(HAND_S, self._hold, clock=steady)

    # ---- looking and pressing

    def _on_episode(self, message: EpisodeState) -> None:
        if message.episode_id != self._episode.episode_id:
            self._state, self._pressed, self._hands, self._joints = None, None, None, None
            self._leading = {}
        self._episode = message
        self._settle()

    def _on_control(self, message: ControlState) -> None:
        self._control = message
        self._settle()

    def _on_state(self, message: SimulationState) -> None:
        try:
            self._stamp_ns = stamp_ns(message.header.stamp)
        except CodecError as error:
            self._health.set(ERROR, f"{topics.SIMULATION_STATE}: {error}", presses=self._presses)
            return
        self._state = message
        self._settle()

    def _settle(self) -> None:
        """Act on the newest state once manager and executor agree; answer it when there is nothing to press."""
        episode, control, state = self._episode, self._control, self._state
        if state is None or episode.phase not in MOVING:
            return
        agreed = (episode.episode_id, episode.epoch, episode.phase)
        if agreed != (control.episode_id, control.epoch, control.phase):
            return
        press = decide(
            self.parameters.operator,
            state.step,
            episode.phase == EpisodeState.PHASE_CRITICAL,
            episode.handoff_step,
            state.hand_off_ready,
            state.success,
        )
        if press is None:
            if self._leaders and not self._move(state):
                return
            self._pressed = None
            self._state = None
            self._ack.publish(UInt64(data=self._stamp_ns))
        elif self._pressed != (press, episode.episode_id):
            self._pressed = (press, episode.episode_id)
            self._push(press)

    def _push(self, press: Press) -> None:
        self._say(press)
        self._say(None)
        self._presses += 1
        self._health.set(OK, f"pressed {press.value}", presses=self._presses)

    def _say(self, press: Press | None) -> None:
        """Publish the pad with one button down, or with none."""
        message = Joy(axes=[0.0] * self._axes, buttons=[0] * self._buttons)
        message.header.stamp = self.get_clock().now().to_msg()
        if press is not None:
            message.buttons[self._button[press.value]] = 1
        if self._gripped:
            message.buttons[self._button["enable"]] = 1
        self._joy.publish(message)

    def _repeat(self) -> None:
        """Once a second: begin the next episode, press again what had no effect, or say that nothing is pressed.

        A press has no effect when the joystick node was just restarted: what is held when it starts does not count.
        """
        if self._episode.phase == EpisodeState.PHASE_IDLE and self.parameters.operator.next_episode:
            self._push(Press.NEXT_EPISODE)
        elif self._pressed is not None and self._state is not None and self._episode.phase in MOVING:
            self._push(self._pressed[0])
        else:
            if self._control.hold_reason:
                self._gripped = False  # the arms do not follow: let go, and press again
            self._say(None)

    # ---- driving

    def _take_leaders(self, mapping: JoyMapping) -> None:
        """Raises ParameterError for a mapping without leaders, a ValueError too."""
        if mapping.motion != "leader":
            raise ParameterError(f"mapping: {self.parameters.mapping}: motion: {mapping.motion}: it has no leader arms")
        self._button["enable"] = mapping.button("enable")
        self._leaders = {
            self.create_publisher(JointState, leader.topic, topics.QOS_CONTROL): leader.joints
            for leader in mapping.leader.arms.values()
        }
        self._scene = make_scene(load_task(self.parameters.task))
        self.create_subscription(PoseStamped, topics.SIMULATION_MOUTH, self._on_mouth, topics.QOS_CONTROL)
        self.create_subscription(JointState, topics.JOINT_STATES, self._on_joints, topics.QOS_CONTROL)

    def _on_mouth(self, message: PoseStamped) -> None:
        self._mouth = message
        self._settle()

    def _on_joints(self, message: JointState) -> None:
        self._joints = np.array(message.position)

    def _move(self, state: SimulationState) -> bool:
        """Move the hands by a step; False while it is not known where the opening is now.

        Until it is known where the arms stand, which an episode's first step says, the hands stay.
        """
        if self._mouth is None or self._mouth.header.stamp != state.header.stamp:
            return False
        if self._joints is not None:
            seen, mouth = task_state(state), pose_of(self._mouth)
            if self._hands is None:
                self._hands = ScriptedHands(self._scene, self._episode.seed, seen, mouth, self._joints)
            joints = self._hands.move(seen, mouth, self._joints)
            self._leading = dict(zip(JOINT_NAMES, joints.tolist(), strict=True))
        return True

    def _hold(self) -> None:
        """Say where the leaders stand and, one time later, that the enable button is held while the arms may move."""
        stamp = self.get_clock().now().to_msg()
        for publisher, names in self._leaders.items() if self._leading else ():
            message = JointState(name=list(names), position=doubles([self._leading[name] for name in names]))
            message.header.stamp = stamp
            publisher.publish(message)
        self._say(None)
        self._gripped = bool(self._leading) and self._episode.phase in MOVING


def main() -> None:
    """Entry point of `ros2 run rlt_sim scripted_operator`."""
    run_node("scripted_operator", ScriptedOperatorNode)
