"""Messages to the executor's records and back."""

import numpy as np
import pytest

from rlt_common.codecs import CodecError, floats, to_time, vector
from rlt_common.config import TaskConfig
from rlt_control import messages
from rlt_control.records import Executed, Frame, Phase, Request, Source
from rlt_msgs.msg import ActionChunk, EpisodeState, TeleopCommand

TASK = TaskConfig(
    name="t", instruction="t", vla_state=("ee_pose",), rl_state=("ee_pose",), max_base_steps=70, max_critical_steps=90
)


def state(**fields):
    return EpisodeState(episode_id=3, epoch=5, handoff_step=12, **fields)


def test_rl_plays_c_rows_and_the_vla_what_the_episode_says():
    critical = EpisodeState.PHASE_CRITICAL
    rl = messages.episode(state(phase=critical, driver=EpisodeState.DRIVER_RL, execute_steps=20), TASK)
    vla = messages.episode(state(phase=critical, driver=EpisodeState.DRIVER_VLA, execute_steps=20), TASK)
    base = messages.episode(state(phase=EpisodeState.PHASE_BASE, driver=EpisodeState.DRIVER_RL), TASK)
    assert (rl.rows, vla.rows, base.rows) == (TASK.chunk_length, 20, TASK.execute_steps)
    assert (rl.episode_id, rl.epoch, rl.phase, rl.handoff_step) == (3, 5, Phase.CRITICAL, 12)


def test_step_limits_come_from_the_task_where_the_episode_names_none():
    assert messages.episode(state(), TASK).max_base_steps == 70
    own = messages.episode(state(max_base_steps=7, max_critical_steps=9), TASK)
    assert (own.max_base_steps, own.max_critical_steps) == (7, 9)


def test_an_unknown_phase_is_an_error():
    with pytest.raises(ValueError, match="77"):
        messages.episode(state(phase=77), TASK)


def chunk_message(**fields):
    values = {"episode_id": 3, "source": ActionChunk.SOURCE_RL, "rows": 2, "action_dim": 3, "arm_names": ["left"]}
    rows = np.arange(6.0)
    return ActionChunk(**{**values, "actions": floats(rows), "reference": floats(-rows), **fields})


def test_a_chunk_has_its_rows():
    chunk = messages.chunk(chunk_message())
    assert chunk.source is Source.RL
    assert chunk.arm_names == ("left",)
    assert chunk.actions.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert np.array_equal(chunk.reference, -chunk.actions)


@pytest.mark.parametrize("fields", [{"rows": 3}, {"source": 9}, {"actions": floats([np.nan] * 6)}])
def test_a_chunk_that_does_not_hold_what_it_says_is_an_error(fields):
    with pytest.raises((CodecError, ValueError)):
        messages.chunk(chunk_message(**fields))


def test_a_human_s_command_names_its_frame_and_whether_it_repositions():
    message = TeleopCommand(enabled=True, action=floats([0.5]), frame=TeleopCommand.FRAME_TOOL, repositioning=True)
    command = messages.human(message, 3.0)
    assert (command.enabled, command.frame, command.repositioning) == (True, Frame.TOOL, True)
    assert (command.action.tolist(), command.received_s) == ([0.5], 3.0)
    plain = messages.human(TeleopCommand(enabled=True, action=floats([0.5])), 3.0)
    assert (plain.frame, plain.repositioning) == (Frame.WORLD, False)


@pytest.mark.parametrize("fields", [{"frame": 2}, {"action": floats([np.nan])}])
def test_a_human_s_command_that_makes_no_sense_is_an_error(fields):
    with pytest.raises((CodecError, ValueError)):
        messages.human(TeleopCommand(**{"enabled": True, "action": floats([0.5]), **fields}), 0.0)


def test_a_request_carries_its_stamp():
    message = messages.request_message(Request(3, 5, 99, 1_500_000_000, 1_480_000_001, 10, 12, 20), "world")
    assert (message.header.stamp, message.header.frame_id) == (to_time(1_500_000_000), "world")
    assert message.not_before == to_time(1_480_000_001)
    assert (message.request_id, message.boundary_step, message.first_step, message.rows) == (99, 10, 12, 20)


def test_an_executed_step_is_said_as_it_was():
    action = np.array([0.1, 0.2])
    executed = Executed(
        stamp_ns=20_000_000,
        episode_id=3,
        epoch=5,
        step=7,
        phase=Phase.CRITICAL,
        source=Source.VLA,
        action=action,
        commanded=2 * action,
        reference=3 * action,
        clamped=np.array([False, True]),
        chunk_id=99,
        row=4,
        observation_id=8,
        policy_version=0,
        delay_s=0.5,
        joint_target=np.array([1.0 / 3.0]),
        repositioning=True,
    )
    message = messages.executed_message(executed, "world", ("joint",))
    assert message.header.stamp == to_time(20_000_000)
    assert np.array_equal(vector(message.action, 2, "action"), action.astype(np.float32))
    assert (list(message.clamped), message.row, message.source) == ([False, True], 4, int(Source.VLA))
    assert message.repositioning
    assert (list(message.joint_names), list(message.joint_target)) == (["joint"], [1.0 / 3.0])
