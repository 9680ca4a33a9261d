"""Stand-ins for executor, cell, learner and operator in the node tests. They speak the real messages over real DDS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import teleop_episodes as eps
import yaml
from rclpy.action import ActionClient
from rclpy.node import Node

from rlt_common import topics
from rlt_msgs.action import RunEpisodes
from rlt_msgs.msg import (
    ControlState,
    EpisodeState,
    ExecutedAction,
    Observation,
    OperatorEvent,
    RecorderStatus,
    TrainingStatus,
)
from rlt_msgs.srv import Estop, Handoff, LabelEpisode, ResetEstop, ResetScene, StartEpisode

MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)
ROBOT = Path(__file__).parents[2] / "rlt_bringup" / "config" / "robots" / "sim.yaml"
TASK = Path(__file__).parents[2] / "rlt_bringup" / "config" / "tasks" / "screw.yaml"


def robot_file(folder: Path, **changes) -> Path:
    """The simulated robot's file with some keys changed."""
    values = yaml.safe_load(ROBOT.read_text())
    values["kinematics"] = str(ROBOT.parent / values["kinematics"])
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}))
    return path


class FakeExecutor(Node):
    """Executes `steps_per_phase` steps in each moving phase and reports them; latches the emergency stop."""

    def __init__(self, steps_per_phase: int = 6) -> None:
        super().__init__("fake_executor")
        self.steps_per_phase = steps_per_phase
        self.state = EpisodeState()
        self.step = 0
        self.ticks = 0
        self.estop = False
        self.estop_calls = 0
        self.limit_reached = False
        self.control = self.create_publisher(ControlState, topics.CONTROL_STATE, topics.QOS_LATCHED)
        self.executed = self.create_publisher(ExecutedAction, topics.EXECUTED_ACTION, topics.QOS_EXECUTED)
        self.observed = self.create_publisher(Observation, topics.OBSERVATION, topics.QOS_OBSERVATION)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_episode, topics.QOS_LATCHED)
        self.create_service(Estop, topics.SERVICE_ESTOP, self._on_estop)
        self.create_service(ResetEstop, topics.SERVICE_RESET_ESTOP, self._on_reset)
        self.create_timer(0.2, self.show)

    def _on_episode(self, message: EpisodeState) -> None:
        fresh = message.episode_id != self.state.episode_id
        entered = fresh or message.phase != self.state.phase
        self.step = 0 if fresh else self.step
        self.state = message
        if entered:
            self.limit_reached = False
            if message.phase in MOVING and not self.estop:
                self.move(self.steps_per_phase)
        self.show()

    def move(self, steps: int) -> None:
        for _ in range(steps):
            if self.step % 2 == 0:
                self.observed.publish(eps.observation(self.step))
            message = eps.executed(self.step, self.state.episode_id)
            message.epoch, message.phase = self.state.epoch, self.state.phase
            self.executed.publish(message)
            self.step += 1
            self.ticks += 1

    def reach_limit(self) -> None:
        self.observed.publish(eps.observation(self.step))
        self.limit_reached = True
        self.show()

    def show(self) -> None:
        self.control.publish(
            ControlState(
                episode_id=self.state.episode_id,
                epoch=self.state.epoch,
                phase=self.state.phase,
                step=self.step,
                ticks=self.ticks,
                estop=self.estop,
                step_limit_reached=self.limit_reached,
                hold_reason="emergency stop: test" if self.estop else "",
            )
        )

    def _on_estop(self, _, response):
        self.estop, self.estop_calls = True, self.estop_calls + 1
        self.show()
        response.stopped = True
        return response

    def _on_reset(self, _, response):
        self.estop = False
        self.show()
        response.reset = True
        return response


class FakeCell(Node):
    """Answers reset_scene."""

    def __init__(self) -> None:
        super().__init__("fake_cell")
        self.requests: list[ResetScene.Request] = []
        self.problem = ""
        self.create_service(ResetScene, topics.SERVICE_RESET_SCENE, self._on_reset)

    def _on_reset(self, request, response):
        self.requests.append(request)
        response.done, response.message = not self.problem, self.problem
        return response


class FakeLearner(Node):
    """Says what it is told to say."""

    def __init__(self, **status) -> None:
        super().__init__("fake_learner")
        self.publisher = self.create_publisher(TrainingStatus, topics.TRAINING_STATUS, topics.QOS_LATCHED)
        self.say(**status)

    def say(self, **status) -> None:
        self.publisher.publish(TrainingStatus(**status))


class Operator(Node):
    """Sees every episode state and recorder status, calls services, presses buttons."""

    def __init__(self) -> None:
        super().__init__("test_operator")
        self.states: list[EpisodeState] = []
        self.statuses: list[RecorderStatus] = []
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self.states.append, topics.QOS_LATCHED_READER)
        self.create_subscription(
            RecorderStatus, topics.RECORDER_STATUS, self.statuses.append, topics.QOS_LATCHED_READER
        )
        self.events = self.create_publisher(OperatorEvent, topics.OPERATOR_EVENT, topics.QOS_EVENT)
        self.callers = {
            kind: self.create_client(kind, name)
            for kind, name in (
                (StartEpisode, topics.SERVICE_START_EPISODE),
                (Handoff, topics.SERVICE_HANDOFF),
                (LabelEpisode, topics.SERVICE_LABEL_EPISODE),
                (ResetEstop, topics.SERVICE_RESET_ESTOP),
                (Estop, topics.SERVICE_ESTOP),
            )
        }
        self.run_client = ActionClient(self, RunEpisodes, topics.ACTION_RUN_EPISODES)

    @property
    def state(self) -> EpisodeState:
        return self.states[-1] if self.states else EpisodeState()

    def phases(self, episode_id: int) -> list[int]:
        return [state.phase for state in self.states if state.episode_id == episode_id]

    def press(self, event: int) -> None:
        self.events.publish(OperatorEvent(event=event, source="test"))


def call(graph, operator: Operator, kind, **fields):
    """Call a service and return its response."""
    client = operator.callers[kind]
    graph.until(client.service_is_ready, f"{client.srv_name} is there")
    future = client.call_async(kind.Request(**fields))
    graph.until(future.done, f"{client.srv_name} answers")
    return future.result()


def in_phase(operator: Operator, phase: int) -> Callable[[], bool]:
    return lambda: operator.state.phase == phase
