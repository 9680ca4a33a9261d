"""The learner node: episodes in, actors out.

Subscribes  executed_action (rlt_msgs/ExecutedAction), vla_output (rlt_msgs/VlaOutput),
            episode_state (rlt_msgs/EpisodeState, latched), control_state (rlt_msgs/ControlState, latched),
            relabel (rlt_msgs/Relabel, latched: the labels that were corrected later)
Publishes   actor (rlt_msgs/ActorParameters, latched), training_status (rlt_msgs/TrainingStatus, latched and 1 Hz),
            /diagnostics
Services    save_checkpoint (rlt_msgs/SaveCheckpoint)

It takes in an episode once its label and all that belongs to it are there; what stays away is looked for in the
journal. Updates run in short slices between callbacks. In lockstep (robot `tick: joint_states`) an episode counts as
taken in only when its whole update debt is paid, and a new actor is published then; on a robot the debt is paid while
episodes run.
"""

from __future__ import annotations

import array
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import rclpy
import torch
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

from rlt_common import topics
from rlt_common.atomic import sha256_hex
from rlt_common.codecs import CodecError
from rlt_common.config import load_robot, load_task
from rlt_common.episode_file import EpisodeFileError
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import (
    ActorParameters,
    ControlState,
    EpisodeState,
    ExecutedAction,
    Relabel,
    TrainingStatus,
    VlaOutput,
)
from rlt_msgs.srv import SaveCheckpoint
from rlt_rl_node import actor_codec, checkpoint, demonstrations, messages
from rlt_rl_node.actor_codec import PolicyWeights
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.budget import BudgetConfig
from rlt_rl_node.checkpoint import CheckpointError
from rlt_rl_node.corrections import Correction
from rlt_rl_node.demonstrations import DemonstrationsError, DemonstrationSource
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.frozen_models import FrozenModelsError, read_frozen_models
from rlt_rl_node.learner import LearnerConfig, task_shape
from rlt_rl_node.records import EpisodeData, Label, RecordError
from rlt_rl_node.run_session import RunSession

QUEUE = QoSProfile(depth=5000)  # an executed action that is lost costs the episode its transitions
IDLE_S = 0.05
STORE_RETRY_S = 1.0


@dataclass(frozen=True)
class LearnerParameters:
    """Parameters of the learner node; what decides the learning itself is in `agent` and `budget`."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    run_directory: str = param(description="where episodes, encodings, checkpoints and metrics lie")
    vla_checkpoint: str = param(description="folder of the frozen VLA and RL token")
    run_seed: int = param(0, "of initial weights, batches and noise", minimum=0, maximum=2**31 - 1)
    freeze: bool = param(False, "learn nothing: publish the actor of a checkpoint (evaluation, deployment)")
    checkpoint: str = param("", "checkpoint folder to start from; empty: the newest of the run")
    checkpoint_every: int = param(10, "episodes between checkpoints", minimum=1, maximum=100_000)
    keep_checkpoints: int = param(3, "automatic checkpoints kept", minimum=1, maximum=1000)
    publish_every: int = param(100, "updates between actors on a robot", minimum=1, maximum=1_000_000)
    slice_s: float = param(0.05, "s of updates between callbacks", minimum=0.001, maximum=1.0)
    assembly_timeout_s: float = param(
        3.0, "s after a label before missing parts are looked for in the journal", minimum=0.1, maximum=600.0
    )
    replay_capacity: int = param(500_000, "transitions", minimum=1000, maximum=10_000_000)
    demonstrations: int = param(
        60,
        "demonstrations in <vla_checkpoint>/demonstrations whose critical phases the replay begins with; 0: none",
        minimum=0,
        maximum=100_000,
    )
    agent: AgentConfig = field(default_factory=AgentConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        validate(self)


class LearnerNode(Node):
    """See the module docstring. :meth:`work` is to be called between callbacks."""

    def __init__(self) -> None:
        super().__init__("rl_learner")
        self.parameters = declare(self, LearnerParameters)
        reject_unknown(self)
        robot, task = load_robot(self.parameters.robot), load_task(self.parameters.task)
        frozen = read_frozen_models(self.parameters.vla_checkpoint, robot.action_dim)
        self.lockstep = robot.tick == "joint_states"
        self.shape = task_shape(robot, task, frozen)
        self._new_assembly = partial(EpisodeAssembly, round(1e9 * robot.period_s), task.stride, task.prefetch_steps)
        self.assembly = self._new_assembly()
        folder = Path(self.parameters.vla_checkpoint) / demonstrations.FOLDER
        self._demonstrations = DemonstrationSource.of(
            folder, self.parameters.demonstrations, self.shape.vla_hash, robot, task
        )
        self.received = 0
        self._refused = 0
        self._message = ""
        self._labelled_s: dict[int, float] = {}
        self._reported_episode = 0
        self._unstored: tuple[EpisodeData, float] | None = None  # the disk refused it; when to try again
        self._open: tuple[EpisodeData, int] | None = None  # taken in, its updates not yet done (lockstep)
        self._episodes_since_save = 0
        self._pace = (0, 0.0)  # updates and seconds since the last metrics
        self._updates_per_s = 0.0
        self._frozen_actor: PolicyWeights | None = None
        self._frozen_updates = 0
        self.session: RunSession | None = None
        self._start()

        self._health = Health(self)
        self._actor = self.create_publisher(ActorParameters, topics.ACTOR, topics.QOS_LATCHED)
        self._status = self.create_publisher(TrainingStatus, topics.TRAINING_STATUS, topics.QOS_LATCHED)
        self.create_subscription(ExecutedAction, topics.EXECUTED_ACTION, self._on_executed, QUEUE)
        self.create_subscription(VlaOutput, topics.VLA_OUTPUT, self._on_output, QUEUE)
        self.create_subscription(EpisodeState, topics.EPISODE_STATE, self._on_state, topics.QOS_LATCHED_READER)
        self.create_subscription(ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED_READER)
        self.create_subscription(Relabel, topics.RELABEL, self._on_relabel, topics.QOS_RELABEL)
        self.create_service(SaveCheckpoint, topics.SERVICE_SAVE_CHECKPOINT, self._on_save)
        self.create_timer(1.0, self._publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME))
        if self._frozen_actor:
            self._publish_actor(self._frozen_actor, self._frozen_updates)
        elif self.session and self.session.learner.ready and self.session.learner.version:
            self._publish_actor(self.session.learner.policy(), self.session.learner.agent.updates)
        self._publish_status()

    def work(self) -> bool:
        """One slice of what there is to do; False when there is nothing."""
        if self.session and not self._open and self.session.correct(self._journalled):
            self._publish_status()
            return True
        worked = self._take_in_next()
        if self.session is None:
            return worked
        if self.session.learner.owed:
            self._update_slice()
            worked = True
        self._release_when_due()
        if self._open and not self.session.learner.owed:
            self._close_episode()
            worked = True
        return worked

    def save_at_exit(self) -> None:
        """Keep what was learned since the last checkpoint."""
        if self.session and self.session.learner.budget.episodes:
            self._save("")

    # ---- start

    def _start(self) -> None:
        run = Path(self.parameters.run_directory)
        start_from = Path(self.parameters.checkpoint) if self.parameters.checkpoint else None
        if not self.parameters.freeze:
            own = self.parameters
            config = LearnerConfig(
                seed=own.run_seed,
                replay_capacity=own.replay_capacity,
                demonstrations=own.demonstrations,
                agent=own.agent,
                budget=own.budget,
            )
            run.mkdir(parents=True, exist_ok=True)
            self.session = RunSession(run, self.shape, config, start_from, self.get_logger().info, self._demonstrations)
            self.assembly.forget(self.session.learner.last_episode_id)
            self._reported_episode = self.session.learner.last_episode_id
            return
        found = start_from or checkpoint.latest(run / "checkpoints")
        actor = checkpoint.load_actor(found) if found else None
        if actor is None or actor.version == 0:
            if start_from:
                raise CheckpointError(f"checkpoint {found} was written in warm-up: it holds no trained actor")
            self._message = "frozen without a trained actor: only the VLA can drive"
            return
        if actor.vla_hash != self.shape.vla_hash:
            raise CheckpointError(
                f"checkpoint {found} was trained on VLA {actor.vla_hash}, this run's is {self.shape.vla_hash}"
            )
        self._frozen_actor = actor
        self._frozen_updates = int(checkpoint.read_state(found)["counters"]["updates"])
        self._message = f"frozen at {found.name}"
        self.get_logger().info(f"publishes the actor of {found}, version {actor.version}")

    # ---- inputs

    def _on_executed(self, message: ExecutedAction) -> None:
        self._collect(messages.collect_executed, message)

    def _on_output(self, message: VlaOutput) -> None:
        if message.vla_hash != self.shape.vla_hash:
            self.received += 1
            self._refuse(f"vla_output of VLA {message.vla_hash}, this learner's is {self.shape.vla_hash}")
            return
        self._collect(messages.collect_output, message)

    def _on_state(self, message: EpisodeState) -> None:
        self._collect(messages.collect_state, message)

    def _on_control(self, message: ControlState) -> None:
        self._collect(messages.collect_control, message)

    def _on_relabel(self, message: Relabel) -> None:
        self.received += 1
        try:
            correction = Correction(message.sequence, message.episode_id, Label(message.label), message.after_episode)
        except ValueError as error:
            self._refuse(f"relabel: {error}")
            return
        if self.session:
            self.session.corrections.offer(correction)

    def _collect(self, collect, message) -> None:
        self.received += 1
        try:
            collect(self.assembly, message)
        except ValueError as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._message = f"refused: {reason}"
        self.get_logger().error(self._message, throttle_duration_sec=1.0)

    # ---- episodes

    def _take_in_next(self) -> bool:
        """Take in one episode if one is due, oldest first. In lockstep the one before must be paid for."""
        if self._open:
            return False
        if self._unstored:
            episode, again_s = self._unstored
            if time.monotonic() < again_s:
                return False
            self._take_in(episode)
            return True
        if self.session and self.session.backlog:
            self._take_in_from_disk(self.session.backlog.popleft())
            return True
        for episode_id in self.assembly.labelled():
            if self.session is None or not self.assembly.wanted(episode_id):
                self._pass_over(episode_id)
                return True
            labelled_s = self._labelled_s.setdefault(episode_id, time.monotonic())
            missing = self.assembly.missing(episode_id)
            if missing and time.monotonic() - labelled_s < self.parameters.assembly_timeout_s:
                self._message = f"episode {episode_id} waits for {missing}"
                return False
            if missing:
                self._add_journal(episode_id, missing)
            self._take_in_collected(episode_id)
            return True
        return False

    def _take_in_from_disk(self, episode_id: int) -> None:
        if episode := self.session.stored(episode_id):
            self.assembly.forget(episode_id)
            self._take_in(episode)
            return
        self._add_journal(episode_id, "everything: it ended while the learner was away")
        if episode_id not in self.assembly.labelled() or not self.assembly.wanted(episode_id):
            self._pass_over(episode_id)
        else:
            self._take_in_collected(episode_id)

    def _add_journal(self, episode_id: int, missing: str) -> None:
        path = self.session.journal(episode_id)
        try:
            if path is None:
                raise EpisodeFileError(f"no finished file of it in {self.session.run / 'episodes'}")
            messages.collect_journal(self.assembly, path, episode_id)
        except (EpisodeFileError, CodecError, ValueError) as error:
            self.get_logger().warning(f"episode {episode_id} lacks {missing}; its journal: {error}")

    def _journalled(self, episode_id: int, label: Label) -> EpisodeData | None:
        """A training episode out of its journal, as if it had ended with this label. None when there is none."""
        path, assembly = self.session.journal(episode_id), self._new_assembly()
        try:
            if path is None:
                return None
            messages.collect_journal(assembly, path, episode_id)
            assembly.relabel(episode_id, label)
            if episode_id not in assembly.labelled() or not assembly.wanted(episode_id):
                return None
            if missing := assembly.missing(episode_id):
                self.get_logger().warning(f"episode {episode_id} is taken in without {missing}")
            return assembly.take(episode_id)
        except (EpisodeFileError, CodecError, ValueError) as error:
            self.get_logger().error(f"episode {episode_id}: its journal: {error}")
            return None

    def _take_in_collected(self, episode_id: int) -> None:
        if not self.assembly.wanted(episode_id):  # so said its journal
            self._pass_over(episode_id)
            return
        if missing := self.assembly.missing(episode_id):
            self.get_logger().warning(f"episode {episode_id} is taken in without {missing}")
        try:
            episode = self.assembly.take(episode_id)
        except RecordError as error:
            self.get_logger().error(f"episode {episode_id} is left out: {error}")
            self._pass_over(episode_id)
            return
        self._take_in(episode)

    def _take_in(self, episode: EpisodeData) -> None:
        try:
            transitions = self.session.take_in(episode)
        except OSError as error:
            self._unstored = (episode, time.monotonic() + STORE_RETRY_S)
            where = error.filename or self.session.run
            self._message = f"episode {episode.episode_id} waits for the disk: {where}: {error.strerror}"
            self.get_logger().error(self._message, throttle_duration_sec=10.0)
            return
        self._unstored = None
        self._labelled_s = {i: since for i, since in self._labelled_s.items() if i > episode.episode_id}
        self._message = ""
        self._open = (episode, transitions)
        self.get_logger().info(
            f"episode {episode.episode_id}: {episode.label.name}, {len(episode.steps)} steps, "
            f"{transitions} transitions, {self.session.learner.owed} updates owed"
        )
        if not self.lockstep:
            self._close_episode()

    def _pass_over(self, episode_id: int) -> None:
        self.assembly.forget(episode_id)
        self._labelled_s = {i: since for i, since in self._labelled_s.items() if i > episode_id}
        if self.session:
            self.session.learner.pass_over(episode_id)
        self._reported_episode = max(self._reported_episode, episode_id)
        self._publish_status()

    def _close_episode(self) -> None:
        episode, transitions = self._open
        self._open = None
        count, seconds = self._pace
        self._pace = (0, 0.0)
        if seconds:
            self._updates_per_s = count / seconds
        self.session.write_metrics(episode, transitions, self._updates_per_s)
        self._episodes_since_save += 1
        if self._episodes_since_save >= self.parameters.checkpoint_every:
            self._save("")
        self._reported_episode = max(self._reported_episode, episode.episode_id)
        self._publish_status()

    # ---- updates

    def _update_slice(self) -> None:
        learner = self.session.learner
        begun = time.monotonic()
        done = 0
        while learner.owed and time.monotonic() - begun < self.parameters.slice_s:
            done += learner.run_updates(1)
        count, seconds = self._pace
        self._pace = (count + done, seconds + time.monotonic() - begun)

    def _release_when_due(self) -> None:
        """A new actor whenever the debt is paid; on a robot also every `publish_every` updates."""
        learner = self.session.learner
        new_updates = learner.agent.updates - learner.released_updates
        due = not learner.owed or (not self.lockstep and new_updates >= self.parameters.publish_every)
        if due and learner.unreleased:
            self._publish_actor(learner.release(), learner.agent.updates)
            self._publish_status()

    # ---- outputs

    def _publish_actor(self, weights: PolicyWeights, updates: int) -> None:
        data = actor_codec.pack(weights)
        message = ActorParameters(
            version=weights.version,
            updates=updates,
            sha256=sha256_hex(data),
            vla_hash=weights.vla_hash,
            data=array.array("B", data),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._actor.publish(message)

    def _publish_status(self) -> None:
        message = TrainingStatus(last_episode_id=self._reported_episode, message=self._message)
        message.header.stamp = self.get_clock().now().to_msg()
        replay_bytes = 0
        if self._frozen_actor:
            message.stage, message.ready = "online", True
            message.actor_version, message.updates = self._frozen_actor.version, self._frozen_updates
        elif self.session is None:
            message.stage = "warmup"
        else:
            learner, loss = self.session.learner, self.session.last_loss
            message.stage, message.ready = learner.stage, learner.ready and learner.version > 0
            message.busy = bool(
                self._open or self._unstored or learner.owed or self.session.backlog or self._labelled_s
            )
            message.episodes = learner.budget.episodes
            message.transitions, message.robot_steps = len(learner.replay), learner.replay.steps
            replay_bytes = learner.replay.stored_bytes
            message.updates, message.actor_version = learner.agent.updates, learner.version
            message.update_debt = float(learner.owed)
            message.updates_per_s = self._updates_per_s
            message.critic_loss, message.actor_loss = (
                loss.get("critic_loss", math.nan),
                loss.get("actor_loss", math.nan),
            )
            message.q_mean = loss.get("q_mean", math.nan)
            message.reference_distance = loss.get("reference_distance", math.nan)
        self._status.publish(message)
        self._health.set(
            ERROR if self._unstored else WARN if self._refused else OK,
            self._message or message.stage,
            updates=message.updates,
            owed=message.update_debt,
            transitions=message.transitions,
            replay_mb=f"{replay_bytes / 1e6:.3f}",
            actor_version=message.actor_version,
            refused_messages=self._refused,
        )

    def _on_save(self, request: SaveCheckpoint.Request, response: SaveCheckpoint.Response) -> SaveCheckpoint.Response:
        if self.session is None:
            response.message = "the learner is frozen: there is nothing to save"
            return response
        response.saved, response.path, response.message = self._save(request.name)
        return response

    def _save(self, name: str) -> tuple[bool, str, str]:
        try:
            path = self.session.save(name, self.parameters.keep_checkpoints)
        except CheckpointError as error:
            self.get_logger().error(str(error))
            return False, "", str(error)
        self._episodes_since_save = 0
        return True, str(path), ""


def spin(node: LearnerNode, executor: SingleThreadedExecutor) -> None:
    """Callbacks first, then one slice of work, and so on."""
    idle = False
    while rclpy.ok():
        before = node.received
        executor.spin_once(timeout_sec=IDLE_S if idle else 0.0)
        idle = node.received == before and not node.work()


def main() -> None:
    """Entry point of `ros2 run rlt_rl_node rl_learner`."""
    torch.set_num_threads(1)
    errors = (FrozenModelsError, DemonstrationsError, CheckpointError, EpisodeFileError, OSError)
    run_node("rl_learner", LearnerNode, *errors, spin=spin, at_exit=LearnerNode.save_at_exit)
