"""rlt_msgs to the plain records of this package. The live nodes and the journal reader share every line of it."""

from __future__ import annotations

import array
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rlt_common import topics
from rlt_common.advice import Advice
from rlt_common.atomic import sha256_hex
from rlt_common.codecs import CodecError, floats, matrix, stamp_ns, to_time, vector
from rlt_common.config import LEARNING_KEYS
from rlt_common.episode_file import read_messages
from rlt_msgs.msg import (
    ActionChunk,
    ActorParameters,
    ChunkRequest,
    ControlState,
    EpisodeState,
    ExecutedAction,
    TrainingStatus,
    VlaOutput,
)
from rlt_msgs.msg import Advice as AdviceMessage
from rlt_rl_node import actor_codec
from rlt_rl_node.actor_codec import PolicyWeights
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.learner import Learner
from rlt_rl_node.policy import Chunk, Episode, Output, Request
from rlt_rl_node.records import Encoded, Label, Source, Step

JOURNALLED = (topics.EXECUTED_ACTION, topics.VLA_OUTPUT, topics.EPISODE_STATE)
SOURCES = {
    ExecutedAction.SOURCE_HOLD: Source.HOLD,
    ExecutedAction.SOURCE_VLA: Source.VLA,
    ExecutedAction.SOURCE_RL: Source.RL,
    ExecutedAction.SOURCE_HUMAN: Source.HUMAN,
}
_MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)


def collect_executed(assembly: EpisodeAssembly, message: ExecutedAction) -> None:
    """Hand an executed action over. Raises CodecError when it does not hold what it says, and for one of a dry run."""
    if message.dry_run:
        assembly.leave_out(message.episode_id)
        raise CodecError(f"episode {message.episode_id} is a dry run: nothing was sent to the arms, so it is left out")
    if message.source not in SOURCES:
        raise CodecError(f"executed action of source {message.source}, which does not exist")
    step = Step(
        step=message.step,
        stamp_ns=stamp_ns(message.header.stamp),
        source=Source.REPOSITIONING if message.repositioning else SOURCES[message.source],
        action=vector(message.action, None, "executed action").copy(),
    )
    assembly.add_step(message.episode_id, message.phase == EpisodeState.PHASE_CRITICAL, step)


def collect_output(assembly: EpisodeAssembly, message: VlaOutput) -> None:
    """Hand an encoded observation over. Raises CodecError."""
    assembly.add_output(message.episode_id, encoded(message))


def collect_state(assembly: EpisodeAssembly, message: EpisodeState, journalled: bool = False) -> None:
    """Hand the episode manager's state over. `journalled`: out of a finished file, which confirms its label."""
    assembly.set_state(
        message.episode_id,
        message.epoch,
        message.purpose == EpisodeState.PURPOSE_TRAIN,
        Label(message.label),
        message.handoff_step,
        journalled or message.confirmation == EpisodeState.CONFIRMATION_DONE,
    )


def collect_control(assembly: EpisodeAssembly, message: ControlState) -> None:
    """Hand the executor's state over."""
    if message.phase not in _MOVING:
        assembly.control_stopped(message.episode_id, message.epoch, message.step)


def config_problem(said: str, config_hash: str) -> str:
    """Why a robot that says `said` has nothing for a learner of `config_hash`, in words; empty when it has."""
    if said == config_hash:
        return ""
    keys = "; ".join(f"{file}: {', '.join(names)}" for file, names in LEARNING_KEYS.items())
    return (
        f"its robot and task files give {said or 'nothing'}, this learner's {config_hash}: start both with files that "
        f"agree in {keys}"
    )


def collect_journal(assembly: EpisodeAssembly, path: Path, episode_id: int, config_hash: str = "") -> None:
    """Hand a whole episode file over. Raises EpisodeFileError, CodecError or ValueError; says which file.

    `config_hash`: that the file must be of, where it says; empty: any.
    """
    last_step, epoch = -1, 0
    for entry in read_messages(path, JOURNALLED):
        if entry.message.episode_id != episode_id:
            continue
        if entry.topic == topics.EXECUTED_ACTION:
            collect_executed(assembly, entry.message)
            last_step = max(last_step, entry.message.step)
        elif entry.topic == topics.VLA_OUTPUT:
            collect_output(assembly, entry.message)
        else:
            said = entry.message.config_hash  # of an earlier version: empty
            if config_hash and said and (problem := config_problem(said, config_hash)):
                raise CodecError(f"{path}: {problem}")
            collect_state(assembly, entry.message, journalled=True)
            epoch = max(epoch, entry.message.epoch)
    # The recorder closes a file only when the executor has stopped.
    assembly.control_stopped(episode_id, epoch, last_step + 1)


def encoded(message: VlaOutput) -> Encoded:
    """A VlaOutput as plain arrays. Raises CodecError for a wrong length or a value that is not finite."""
    return Encoded(
        stamp_ns=stamp_ns(message.header.stamp),
        rl_token=vector(message.rl_token, None, "vla_output rl_token").copy(),
        rl_state=vector(message.rl_state, None, "vla_output rl_state").copy(),
        reference=matrix(message.reference, message.horizon, message.action_dim, "vla_output reference").copy(),
        is_boundary=message.is_boundary,
    )


def output(message: VlaOutput) -> Output:
    """A boundary's VlaOutput for the policy. Raises CodecError."""
    return Output(
        request_id=message.request_id,
        observation_id=message.observation_id,
        vla_hash=message.vla_hash,
        encoded=encoded(message),
        anchored=len(message.anchor) > 0,
    )


def request(message: ChunkRequest) -> Request:
    """A chunk request for the policy."""
    return Request(
        episode_id=message.episode_id,
        epoch=message.epoch,
        request_id=message.request_id,
        boundary_step=message.boundary_step,
        first_step=message.first_step,
        rows=message.rows,
    )


def episode(message: EpisodeState) -> Episode:
    """The episode manager's state for the policy."""
    critical = message.phase == EpisodeState.PHASE_CRITICAL
    return Episode(
        episode_id=message.episode_id,
        epoch=message.epoch,
        rl_drives=critical and message.driver == EpisodeState.DRIVER_RL,
        explore=message.explore,
        actor_version=message.actor_version,
    )


def chunk_message(chunk: Chunk, arm_names: Sequence[str]) -> ActionChunk:
    """The policy's answer as a message, for the robot with these arms."""
    rows, dim = chunk.actions.shape
    message = ActionChunk(
        episode_id=chunk.request.episode_id,
        epoch=chunk.request.epoch,
        chunk_id=chunk.request.request_id,
        observation_id=chunk.observation_id,
        boundary_step=chunk.request.boundary_step,
        first_step=chunk.request.first_step,
        source=ActionChunk.SOURCE_RL if chunk.policy_version else ActionChunk.SOURCE_VLA,
        policy_version=chunk.policy_version,
        rows=rows,
        action_dim=dim,
        actions=floats(chunk.actions),
        reference=floats(chunk.reference),
        reference_distance=chunk.reference_distance,
        anchored=chunk.anchored,
        arm_names=list(arm_names),
    )
    message.header.stamp = to_time(chunk.stamp_ns)
    return message


def actor_message(weights: PolicyWeights, updates: int) -> ActorParameters:
    """An actor for the policy nodes, with the critic updates behind it."""
    data = actor_codec.pack(weights)
    return ActorParameters(
        version=weights.version,
        updates=updates,
        sha256=sha256_hex(data),
        vla_hash=weights.vla_hash,
        data=array.array("B", data),
    )


def frozen_status(weights: PolicyWeights, updates: int) -> TrainingStatus:
    """Where training stands when nothing is learned and this actor drives."""
    return TrainingStatus(stage="online", ready=True, actor_version=weights.version, updates=updates)


def training_status(
    learner: Learner, loss: Mapping[str, float], updates_per_s: float, advice: Iterable[Advice] = ()
) -> TrainingStatus:
    """Where training stands, but for what differs from robot to robot."""
    return TrainingStatus(
        stage=learner.stage,
        ready=learner.ready and learner.version > 0,
        episodes=learner.budget.episodes,
        transitions=len(learner.replay),
        robot_steps=learner.replay.steps,
        updates=learner.agent.updates,
        actor_version=learner.version,
        update_debt=float(learner.owed),
        updates_per_s=updates_per_s,
        critic_loss=loss.get("critic_loss", math.nan),
        actor_loss=loss.get("actor_loss", math.nan),
        q_mean=loss.get("q_mean", math.nan),
        reference_distance=loss.get("reference_distance", math.nan),
        beta=learner.agent.beta,
        return_mean=learner.replay.return_mean(),
        critic_gradient_norm=loss.get("critic_gradient_norm", math.nan),
        actor_gradient_norm=loss.get("actor_gradient_norm", math.nan),
        advice=[AdviceMessage(rule=a.rule, text=a.text, why=a.why, severity=a.severity) for a in advice],
    )
