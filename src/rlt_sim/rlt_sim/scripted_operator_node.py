"""The scripted operator: looks at the simulated cell and presses buttons of a gamepad, as a person would.

Subscribes  simulation/state (rlt_msgs/SimulationState), episode_state (rlt_msgs/EpisodeState, latched),
            control_state (rlt_msgs/ControlState, latched)
Publishes   joy (sensor_msgs/Joy: button pressed, then released), simulation/operator_ack (std_msgs/UInt64)

It presses through the same joystick node that a person's gamepad goes through; nothing else in the graph sees the
simulator's state. In lockstep it answers each state only when what it pressed has reached the executor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_msgs.msg import UInt64

from rlt_common import topics
from rlt_common.codecs import CodecError, stamp_ns
from rlt_common.health import ERROR, OK, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import ControlState, EpisodeState, SimulationState
from rlt_sim.operator import OperatorConfig, Press, decide
from rlt_teleop.joy_mapping import load_mapping

REPEAT_S = 1.0
MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the scripted operator."""

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
        self._button = {press: mapping.button(press.value) for press in Press}
        self._buttons, self._axes = mapping.buttons_needed, mapping.axes_needed
        self._episode = EpisodeState()
        self._control = ControlState()
        self._state: SimulationState | None = None
        self._stamp_ns = 0
        self._pressed: tuple[Press, int] | None = None
        self._presses = 0
        self._health = Health(self)
        self._joy = self.create_publisher(Joy, topics.JOY, topics.QOS_EVENT)
        self._ack = self.create_publisher(UInt64, topics.SIMULATION_ACK, topics.QOS_CONTROL)
        self.create_subscription(SimulationState, topics.SIMULATION_STATE, self._on_state, topics.QOS_CONTROL)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED)
        self.create_subscription(ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED)
        self.create_timer(REPEAT_S, self._repeat, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_episode(self, message: EpisodeState) -> None:
        if message.episode_id != self._episode.episode_id:
            self._state, self._pressed = None, None
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
            message.buttons[self._button[press]] = 1
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
            self._say(None)


def main() -> None:
    """Entry point of `ros2 run rlt_sim scripted_operator`."""
    run_node("scripted_operator", ScriptedOperatorNode)
