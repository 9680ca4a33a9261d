"""rlt_msgs to the plain records of this package and back, for the node and for whoever runs without nodes."""

from __future__ import annotations

from collections.abc import Sequence

from rlt_common.codecs import HIGHEST_EPISODE_ID, doubles, floats, matrix, stamp_ns, to_time, vector
from rlt_common.config import TaskConfig
from rlt_control.executor import ChunkExecutor
from rlt_control.records import Chunk, Episode, Executed, Frame, HumanCommand, Phase, Request, Source
from rlt_msgs.msg import ActionChunk, ChunkRequest, ControlState, EpisodeState, ExecutedAction, TeleopCommand


def episode(message: EpisodeState, task: TaskConfig) -> Episode:
    """The manager's state as the executor takes it. Raises ValueError for a phase or an episode that cannot be."""
    if message.episode_id > HIGHEST_EPISODE_ID:
        raise ValueError(f"there is no episode {message.episode_id}")
    rl_drives = message.phase == EpisodeState.PHASE_CRITICAL and message.driver == EpisodeState.DRIVER_RL
    return Episode(
        episode_id=message.episode_id,
        epoch=message.epoch,
        phase=Phase(message.phase),
        human_in_control=message.human_in_control,
        rows=task.chunk_length if rl_drives else message.execute_steps or task.execute_steps,
        handoff_step=message.handoff_step,
        max_base_steps=message.max_base_steps or task.max_base_steps,
        max_critical_steps=message.max_critical_steps or task.max_critical_steps,
    )


def chunk(message: ActionChunk) -> Chunk:
    """An action chunk. Raises CodecError or ValueError when it does not hold what it says."""
    return Chunk(
        episode_id=message.episode_id,
        epoch=message.epoch,
        chunk_id=message.chunk_id,
        observation_id=message.observation_id,
        observation_stamp_ns=stamp_ns(message.header.stamp),
        first_step=message.first_step,
        source=Source(message.source),
        policy_version=message.policy_version,
        actions=matrix(message.actions, message.rows, message.action_dim, "chunk actions"),
        reference=matrix(message.reference, message.rows, message.action_dim, "chunk reference"),
        arm_names=tuple(message.arm_names),
        anchored=message.anchored,
    )


def human(message: TeleopCommand, received_s: float) -> HumanCommand:
    """A human's command. Raises CodecError or ValueError for a value that is not finite or an unknown frame."""
    return HumanCommand(
        enabled=message.enabled,
        action=vector(message.action, None, "teleop_command action"),
        received_s=received_s,
        frame=Frame(message.frame),
        repositioning=message.repositioning,
    )


def request_message(request: Request, frame: str) -> ChunkRequest:
    """A chunk request, stamped with the robot state at which it was made."""
    message = ChunkRequest(
        episode_id=request.episode_id,
        epoch=request.epoch,
        request_id=request.request_id,
        not_before=to_time(request.not_before_ns),
        boundary_step=request.boundary_step,
        first_step=request.first_step,
        rows=request.rows,
        anchor=doubles(() if request.anchor is None else request.anchor),
    )
    message.header.stamp = to_time(request.stamp_ns)
    message.header.frame_id = frame
    return message


def executed_message(
    executed: Executed, frame: str, joint_names: Sequence[str], dry_run: bool = False
) -> ExecutedAction:
    """An executed control step, stamped with the robot state in which the action was taken."""
    message = ExecutedAction(
        episode_id=executed.episode_id,
        epoch=executed.epoch,
        step=executed.step,
        phase=int(executed.phase),
        source=int(executed.source),
        action=floats(executed.action),
        commanded=floats(executed.commanded),
        reference=floats(executed.reference),
        clamped=executed.clamped.tolist(),
        chunk_id=executed.chunk_id,
        row=executed.row,
        observation_id=executed.observation_id,
        policy_version=executed.policy_version,
        delay_s=executed.delay_s,
        joint_names=list(joint_names),
        joint_target=doubles(executed.joint_target),
        repositioning=executed.repositioning,
        dry_run=dry_run,
    )
    message.header.stamp = to_time(executed.stamp_ns)
    message.header.frame_id = frame
    return message


def control_state_message(core: ChunkExecutor, missed_ticks: int) -> ControlState:
    """What the executor does and why it holds, without a stamp."""
    episode = core.episode
    return ControlState(
        episode_id=episode.episode_id if episode else 0,
        epoch=episode.epoch if episode else 0,
        phase=int(episode.phase) if episode else 0,
        step=core.step,
        source=int(core.source),
        estop=bool(core.estop_reason),
        step_limit_reached=core.step_limit_reached,
        hold_reason=core.hold_reason,
        ticks=core.counters.ticks,
        missed_ticks=missed_ticks,
        held_ticks=core.counters.held,
        dropped_chunks=core.counters.dropped_chunks,
    )
