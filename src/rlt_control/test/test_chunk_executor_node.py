"""The executor node over real DDS: what it does with good, bad and stale messages."""

import numpy as np
import pytest
import rclpy
from executor_bench import CONFIG, HOME, Bench, stopped
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray

from rlt_common.codecs import floats, stamp_ns
from rlt_common.parameters import ParameterError
from rlt_control.chunk_executor_node import ChunkExecutorNode
from rlt_msgs.msg import (
    ChunkRequest,
    ControlState,
    EpisodeState,
    ExecutedAction,
    OperatorEvent,
    TeleopCommand,
)
from rlt_msgs.srv import Estop, ResetEstop


@pytest.fixture
def bench():
    with Bench.running() as made:
        yield made


def test_a_chunk_is_played_row_by_row_and_recorded(bench):
    bench.start()
    bench.joints()
    bench.chunk(bench.request())
    for count in range(1, 5):
        bench.until(lambda count=count: len(bench.heard(ExecutedAction)) == count, f"step {count}")
        if count < 4:
            bench.joints()
    rows = [(m.step, m.row, m.source, m.chunk_id) for m in bench.heard(ExecutedAction)]
    chunk_id = bench.request().request_id
    assert rows == [(k, k, ExecutedAction.SOURCE_RL, chunk_id) for k in range(4)]
    assert len(bench.heard(Float64MultiArray)) == 4
    np.testing.assert_allclose(bench.heard(Float64MultiArray)[-1].data, bench.heard(ExecutedAction)[-1].joint_target)


def test_joint_states_in_any_order_with_others_between(bench):
    bench.start()
    names = ["wheel", *reversed(bench.node.robot.joint_names)]
    bench.joints(names, [9.0, *reversed(HOME)])
    bench.chunk(bench.request())
    bench.until(lambda: bench.heard(ExecutedAction), "a step")
    assert np.abs(np.array(bench.heard(Float64MultiArray)[0].data) - HOME).max() < 0.05


@pytest.mark.parametrize(
    "fields",
    [
        {"actions": floats(np.full(56, np.nan))},
        {"actions": floats(np.full(56, np.inf))},
        {"actions": floats(np.zeros(55))},
        {"rows": 0, "actions": floats([]), "reference": floats([])},
        {"action_dim": 7},
        {"source": 9},
        {"epoch": 77},
        {"episode_id": 77},
    ],
)
def test_a_bad_chunk_moves_nothing_and_is_counted(bench, fields):
    bench.start()
    bench.joints()
    bench.chunk(bench.request(), **fields)
    bench.until(lambda: bench.heard(ControlState)[-1].dropped_chunks == 1, "the refusal to be shown")
    assert not bench.heard(Float64MultiArray)
    assert not bench.heard(ExecutedAction)


@pytest.mark.parametrize(
    ("names", "position"),
    [(["left_waist"], [0.0]), (None, [0.0] * 3), (None, [float("nan")] * 14)],
)
def test_bad_joint_states_are_no_state(bench, names, position):
    bench.start()
    bench.joints(names, position)
    bench.until(lambda: len(bench.heard(ControlState)) >= 5, "some time")
    assert not bench.heard(ChunkRequest)
    assert not bench.heard(Float64MultiArray)


def test_an_unanswered_request_is_repeated_with_its_id(bench):
    bench.start()
    bench.joints()
    bench.until(lambda: len(bench.heard(ChunkRequest)) >= 3, "two repeats")
    assert len({r.request_id for r in bench.heard(ChunkRequest)}) == 1


def asked_from(bench, episode_id):
    """Stamps of the states from which an episode's chunks were asked for, once one was."""

    def asked():
        return {stamp_ns(r.not_before) for r in bench.heard(ChunkRequest) if r.episode_id == episode_id}

    bench.until(asked, f"a request of episode {episode_id}")
    return asked()


def test_in_lockstep_an_episode_begins_with_its_own_state_and_not_with_one_that_the_last_left_unanswered(bench):
    bench.start()
    bench.joints()
    bench.until(lambda: bench.heard(ChunkRequest), "a request, which is not answered")
    bench.episode(EpisodeState.PHASE_IDLE, episode_id=2, epoch=0)  # as a manager that was started again shows itself
    bench.joints()  # was still on its way
    bench.until(lambda: bench.node._state is not None, "the late state")
    bench.episode(EpisodeState.PHASE_RESETTING, episode_id=2)
    bench.episode(episode_id=2)
    bench.joints()

    assert asked_from(bench, 2) == {1_040_000_000}


@pytest.mark.parametrize("reset_seen", [True, False])
def test_in_lockstep_so_it_does_where_the_manager_was_never_away(bench, reset_seen):
    bench.start()
    bench.joints()
    bench.until(lambda: bench.heard(ChunkRequest), "a request, which is not answered")
    bench.episode(EpisodeState.PHASE_LABELLED, epoch=2)
    if reset_seen:
        bench.episode(EpisodeState.PHASE_RESETTING, episode_id=2, epoch=3)
    bench.episode(episode_id=2, epoch=3)
    bench.joints()

    assert asked_from(bench, 2) == {1_020_000_000}


def test_the_emergency_stop_by_button_is_latched_until_the_service_resets_it(bench):
    bench.start()
    bench.joints()
    bench.say(OperatorEvent(event=OperatorEvent.EVENT_ESTOP, source="test"))
    bench.until(lambda: stopped(bench), "the stop")
    bench.chunk(bench.request())
    bench.joints()
    bench.until(lambda: len(bench.heard(Float64MultiArray)) >= 2, "the hold to be repeated")
    for command in bench.heard(Float64MultiArray):
        np.testing.assert_allclose(command.data, HOME)
    assert not bench.heard(ExecutedAction)
    future = bench.peer.reset.call_async(ResetEstop.Request())
    bench.until(future.done, "the reset")
    assert future.result().reset
    bench.joints()
    bench.until(lambda: not stopped(bench), "the state after the reset")
    assert not bench.heard(ExecutedAction)


def test_the_emergency_stop_by_service_answers(bench):
    future = bench.peer.estop.call_async(Estop.Request(reason="smoke"))
    bench.until(future.done, "the answer")
    assert (future.result().stopped, future.result().message) == (True, "smoke")
    bench.until(lambda: stopped(bench), "the state")


def test_resetting_without_a_stop_is_refused(bench):
    future = bench.peer.reset.call_async(ResetEstop.Request())
    bench.until(future.done, "the answer")
    assert not future.result().reset


def test_a_human_drives_while_the_button_is_held(bench):
    bench.start()
    bench.episode(epoch=2, human_in_control=True)
    action = np.zeros(14)
    action[1] = 0.002
    bench.say(TeleopCommand(enabled=True, device="test", action=floats(action)))
    bench.joints()
    bench.until(lambda: bench.heard(ExecutedAction), "a step")
    first = bench.heard(ExecutedAction)[0]
    assert first.source in (ExecutedAction.SOURCE_HUMAN, ExecutedAction.SOURCE_HOLD)
    bench.say(TeleopCommand(enabled=True, device="test", action=floats(action)))
    bench.joints()
    bench.until(
        lambda: any(m.source == ExecutedAction.SOURCE_HUMAN for m in bench.heard(ExecutedAction)), "a human step"
    )
    human = next(m for m in bench.heard(ExecutedAction) if m.source == ExecutedAction.SOURCE_HUMAN)
    np.testing.assert_allclose(human.reference, human.action)
    np.testing.assert_allclose(human.action[1], 0.002, atol=1e-6)


def test_an_unknown_parameter_is_an_error():
    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [
        Parameter("robot", value=str(CONFIG / "robots" / "sim.yaml")),
        Parameter("task", value=str(CONFIG / "tasks" / "screw.yaml")),
        Parameter("retry", value=1.0),
    ]
    with pytest.raises(ParameterError, match="knows no parameter 'retry'"):
        ChunkExecutorNode(context=context, parameter_overrides=overrides)
    rclpy.shutdown(context=context)
