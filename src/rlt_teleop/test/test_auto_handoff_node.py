"""The automatic hand-off over real DDS, with the real episode manager; executor and cell are stand-ins."""

import pytest
import teleop_episodes as eps
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from teleop_doubles import TASK, FakeCell, FakeExecutor, Operator, call, in_phase, robot_file

from rlt_common import topics
from rlt_msgs.msg import EpisodeState, OperatorEvent, VlaOutput
from rlt_msgs.srv import Handoff, LabelEpisode, StartEpisode
from rlt_teleop.auto_handoff_node import AutoHandoffNode
from rlt_teleop.episode_manager_node import EpisodeManagerNode

BASE, CRITICAL, IDLE = EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL, EpisodeState.PHASE_IDLE
DEPLOY, VLA = EpisodeState.PURPOSE_DEPLOY, EpisodeState.DRIVER_VLA


class Vla(Node):
    """Says how likely the critical phase has begun."""

    def __init__(self) -> None:
        super().__init__("fake_vla")
        self.out = self.create_publisher(VlaOutput, topics.VLA_OUTPUT, topics.QOS_STREAM)
        self.levels: dict[bytes, str] = {}
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.QOS_EVENT)

    def say(self, state, step, probability, *, epoch=None, threshold=0.5, boundary=True) -> None:
        message = eps.vla_output(step, state.episode_id)
        message.epoch = state.epoch if epoch is None else epoch
        message.is_boundary = boundary
        message.handoff_probability, message.handoff_threshold = probability, threshold
        self.out.publish(message)

    def _on_diagnostics(self, message) -> None:
        status = message.status[0]
        if status.name == f"{self.get_namespace().lstrip('/')}/auto_handoff":
            self.levels[status.level] = status.message


class Deployed:
    """Manager, automatic hand-off and stand-ins, with an episode in BASE."""

    def __init__(self, make_graph, folder) -> None:
        files = {"robot": str(robot_file(folder)), "task": str(TASK)}
        manager = {**files, "run_directory": str(folder / "run"), "record": False}
        self.graph = make_graph({"episode_manager": manager, "auto_handoff": {"task": str(TASK)}})
        self.executor = self.graph.add(FakeExecutor())
        self.graph.add(FakeCell())
        self.operator = self.graph.add(Operator())
        self.vla = self.graph.add(Vla())
        self.manager = self.graph.add(EpisodeManagerNode())
        self.auto = self.graph.add(AutoHandoffNode())
        self.graph.until(
            lambda: (
                self.vla.out.get_subscription_count() == 1
                and self.operator.events.get_subscription_count() == 1
                and self.executor.executed.get_subscription_count() == 1
                and self.manager._executor_alive()
                and self.auto._client.service_is_ready()
            ),
            "every endpoint is matched",
        )

    def start(self):
        answer = call(self.graph, self.operator, StartEpisode, purpose=DEPLOY, driver=VLA)
        assert answer.accepted, answer.message
        self.graph.until(lambda: self.manager.count.next_step == 6, "six steps of BASE")
        self.settled()
        return self.operator.state

    def settled(self) -> None:
        """Wait until operator and automatic hand-off know the manager's newest state."""
        newest = self.manager.machine.episode
        wanted = (newest.episode_id, newest.epoch)
        self.graph.until(
            lambda: (
                self.auto._core._epoch == wanted
                and (self.operator.state.episode_id, self.operator.state.epoch) == wanted
            ),
            "everybody knows the state",
        )

    def heard(self, probability) -> None:
        self.graph.until(lambda: self.auto._core.probability == pytest.approx(probability), f"{probability} was heard")


@pytest.fixture
def deployed(make_graph, tmp_path):
    return Deployed(make_graph, tmp_path)


def test_the_head_hands_off_once_and_the_episode_says_who_did(deployed):
    state = deployed.start()
    deployed.vla.say(state, 0, 0.25)
    deployed.heard(0.25)
    assert deployed.operator.state.phase == BASE
    deployed.vla.say(state, 10, 0.75)
    deployed.vla.say(state, 20, 0.875)
    deployed.graph.until(in_phase(deployed.operator, CRITICAL), "the hand-off")
    assert deployed.operator.state.reason == "hand-off by auto_handoff"
    assert deployed.operator.state.handoff_step == 6
    deployed.settled()
    after = deployed.operator.state
    deployed.vla.say(after, 30, 0.9375)
    deployed.heard(0.9375)
    assert (deployed.auto._calls, deployed.auto._accepted) == (1, 1)
    assert deployed.operator.state.epoch == after.epoch


def test_stale_strided_and_unknown_outputs_never_hand_off(deployed):
    state = deployed.start()
    deployed.vla.say(state, 0, 0.9, epoch=state.epoch - 1)
    deployed.vla.say(EpisodeState(episode_id=9, epoch=state.epoch), 2, 0.9)
    deployed.vla.say(state, 4, 0.9, boundary=False)
    deployed.vla.say(state, 6, 0.9, threshold=float("nan"))
    deployed.vla.say(state, 8, 0.125)
    deployed.heard(0.125)
    assert deployed.auto._core.stale == 2
    assert deployed.auto._calls == 0
    assert deployed.operator.state.phase == BASE


def test_under_a_human_nothing_happens_and_a_call_from_before_is_refused(deployed):
    state = deployed.start()
    deployed.operator.press(OperatorEvent.EVENT_INTERVENE_START)
    deployed.graph.until(lambda: deployed.operator.state.human_in_control, "the human has control")
    deployed.settled()
    deployed.vla.say(deployed.operator.state, 10, 0.75)
    deployed.heard(0.75)
    assert deployed.auto._calls == 0
    late = call(deployed.graph, deployed.operator, Handoff, episode_id=state.episode_id, epoch=state.epoch)
    assert not late.accepted
    assert f"decided in epoch {state.epoch}" in late.message
    deployed.operator.press(OperatorEvent.EVENT_INTERVENE_STOP)
    deployed.graph.until(lambda: not deployed.operator.state.human_in_control, "the human gave back")
    deployed.settled()
    deployed.vla.say(deployed.operator.state, 20, 0.75)
    deployed.graph.until(in_phase(deployed.operator, CRITICAL), "the hand-off after it")


def test_the_operator_s_own_hand_off_still_works_and_is_not_repeated(deployed):
    state = deployed.start()
    deployed.operator.press(OperatorEvent.EVENT_HANDOFF)
    deployed.graph.until(in_phase(deployed.operator, CRITICAL), "the operator's hand-off")
    assert deployed.operator.state.reason == "hand-off by test"
    deployed.settled()
    deployed.vla.say(state, 10, 0.9)
    deployed.vla.say(deployed.operator.state, 20, 0.75)
    deployed.heard(0.75)
    assert deployed.auto._calls == 0


def test_after_an_emergency_stop_nothing_happens(deployed):
    deployed.start()
    deployed.operator.press(OperatorEvent.EVENT_ESTOP)
    deployed.graph.until(in_phase(deployed.operator, EpisodeState.PHASE_ESTOP), "the emergency stop")
    deployed.settled()
    deployed.vla.say(deployed.operator.state, 10, 0.75)
    deployed.heard(0.75)
    assert deployed.auto._calls == 0


def test_every_episode_is_handed_off_anew(deployed):
    for _ in range(2):
        state = deployed.start()
        deployed.vla.say(state, 1000 * state.episode_id, 0.75)
        deployed.graph.until(in_phase(deployed.operator, CRITICAL), "the hand-off")
        label = EpisodeState.LABEL_SUCCESS
        assert call(deployed.graph, deployed.operator, LabelEpisode, label=label).accepted
        deployed.graph.until(in_phase(deployed.operator, IDLE), "the end")
    assert deployed.auto._accepted == 2


def test_a_vla_without_a_head_is_an_error_in_diagnostics(deployed):
    state = deployed.start()
    deployed.vla.say(state, 0, float("nan"), threshold=float("nan"))
    deployed.graph.until(lambda: DiagnosticStatus.ERROR in deployed.vla.levels, "the error")
    assert "no hand-off head" in deployed.vla.levels[DiagnosticStatus.ERROR]
    assert deployed.operator.state.phase == BASE


def test_without_the_manager_the_call_is_made_again_when_it_is_back(deployed):
    state = deployed.start()
    deployed.graph.remove(deployed.manager)
    deployed.graph.until(lambda: not deployed.auto._client.service_is_ready(), "the service is gone")
    deployed.vla.say(state, 10, 0.75)
    deployed.graph.until(lambda: DiagnosticStatus.WARN in deployed.vla.levels, "the warning")
    assert "is the episode manager running" in deployed.vla.levels[DiagnosticStatus.WARN]
    assert deployed.auto._core.watching
