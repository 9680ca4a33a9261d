"""The learner node: episodes in, actors out.

Hears and answers one robot, in its own namespace, or each of `robots`: the topics are those of `robot_stream`.
Publishes   /diagnostics
Services    save_checkpoint (rlt_msgs/SaveCheckpoint)

It takes in an episode once its label and all that belongs to it are there; what stays away is looked for in the
journal, and so is, when a later episode has its label, one of which nobody said that its label counts. Robots take
turns; one that is silent, incomplete or refused holds up no other. Updates run in short slices between callbacks. In
lockstep (robot `tick: joint_states`) an episode counts as taken in only when its whole update debt is paid, and a new
actor is published then; on a robot the debt is paid while episodes run.

Ctrl-C or SIGTERM waits for the end of the slice in hand, then a checkpoint keeps what was learned. A second Ctrl-C ends
it at once without one, as an error does: what was half done is made again from the last checkpoint.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from rlt_common import topics
from rlt_common.codecs import CodecError
from rlt_common.config import learning_hash, load_robot, load_task
from rlt_common.episode_file import EpisodeFileError
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, reject_unknown
from rlt_common.process import run_node
from rlt_common.reading import read_json
from rlt_msgs.msg import TrainingStatus
from rlt_msgs.srv import SaveCheckpoint
from rlt_rl_node import checkpoint, demonstrations, messages
from rlt_rl_node.actor_codec import PolicyWeights
from rlt_rl_node.checkpoint import CheckpointError, TrainedActor
from rlt_rl_node.corrections import Correction
from rlt_rl_node.demonstrations import DemonstrationsError, DemonstrationSource
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.frozen_models import FrozenModelsError, read_frozen_models
from rlt_rl_node.journal_reader import JournalReader
from rlt_rl_node.learner import task_shape
from rlt_rl_node.learner_parameters import LearnerParameters
from rlt_rl_node.records import EpisodeData, EpisodeKey, RecordError
from rlt_rl_node.robot_stream import Expected, RobotStream
from rlt_rl_node.run_session import RunSession, TakeIn

IDLE_S = 0.05
STORE_RETRY_S = 1.0


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
        self._config_hash = learning_hash(robot, task)
        self._new_assembly = partial(EpisodeAssembly, round(1e9 * robot.period_s), task.stride, task.prefetch_steps)
        folder = Path(self.parameters.vla_checkpoint) / demonstrations.FOLDER
        self._demonstrations = DemonstrationSource.of(
            folder, self.parameters.demonstrations, self.shape.vla_hash, robot, task
        )
        self._refused = 0
        self._note = ""  # what all robots are told
        self._open: tuple[RobotStream, EpisodeData, TakeIn, float] | None = None  # its updates are not yet done
        self._looked_up: EpisodeKey | None = None  # the last one that was completed from its journal
        self._correct_again_s = 0.0  # when to try again, where the disk refused
        self._episodes_since_save = 0
        self._pace = (0, 0.0)  # updates and seconds since the last metrics
        self._updates_per_s = 0.0
        self._frozen: TrainedActor | None = None
        self.session: RunSession | None = None
        runs = self.parameters.robot_runs(self.get_namespace())
        self._start(runs)

        expected = Expected(self.shape.vla_hash, self._config_hash)
        self.streams = [
            RobotStream(self, name, expected, self._new_assembly, self._on_correction, self._refuse) for name in runs
        ]
        if self.session:
            for stream in self.streams:
                stream.begin_after(self.session.learner.progress(stream.robot).last_episode_id)
        self._health = Health(self)
        self.create_service(SaveCheckpoint, topics.SERVICE_SAVE_CHECKPOINT, self._on_save)
        self.create_timer(1.0, self._publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME))
        if self._frozen:
            self._publish_actor(self._frozen.weights, self._frozen.updates)
        elif self.session and self.session.learner.ready and self.session.learner.version:
            self._publish_actor(self.session.learner.policy(), self.session.learner.agent.updates)
        self._publish_status()

    @property
    def received(self) -> int:
        """Messages of all robots so far."""
        return sum(stream.received for stream in self.streams)

    def work(self) -> bool:
        """One slice of what there is to do; False when there is nothing."""
        if self._correct_next():
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

    def _start(self, robots: dict[str, Path | None]) -> None:
        run = Path(self.parameters.run_directory)
        start_from = Path(self.parameters.checkpoint) if self.parameters.checkpoint else None
        if not self.parameters.freeze:
            run.mkdir(parents=True, exist_ok=True)
            say = self.get_logger().info
            learning = self.parameters.learning()
            figures = self._vla_figures()
            self.session = RunSession(run, self.shape, learning, start_from, say, self._demonstrations, robots, figures)
            log = self.get_logger()
            self._journals = JournalReader(
                self.session.robots, self._new_assembly, self._config_hash, log.warning, log.error
            )
            return
        found = checkpoint.trained_actor(run / "checkpoints", start_from, self.shape.vla_hash)
        if found is None:
            self._note = "frozen without a trained actor: only the VLA can drive"
            return
        self._frozen = found
        self._note = f"frozen at {found.path.name}"
        self.get_logger().info(f"publishes the actor of {found.path}, version {found.weights.version}")

    def _vla_figures(self) -> dict[str, object]:
        """What the adaptation measured; figures alone depend on it."""
        path = Path(self.parameters.vla_checkpoint) / "metrics.json"
        try:
            figures = read_json(path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.get_logger().warning(f"{path}: {error}: no advice on the RL token")
            return {}
        return figures if isinstance(figures, dict) else {}

    # ---- inputs

    def _on_correction(self, robot: str, correction: Correction) -> None:
        if self.session:
            self.session.robots[robot].corrections.offer(correction)

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self.get_logger().error(reason, throttle_duration_sec=1.0)

    # ---- episodes

    def _correct_next(self) -> bool:
        """Follow one corrected label if one is due."""
        if self.session is None or self._open or time.monotonic() < self._correct_again_s:
            return False
        try:
            corrected = self.session.correct(self._journals.episode)
        except OSError as error:
            self._correct_again_s = time.monotonic() + STORE_RETRY_S
            self.get_logger().error(f"a corrected label waits for the disk: {error}", throttle_duration_sec=10.0)
            return False
        if corrected:
            self._publish_status()
        return corrected

    def _take_in_next(self) -> bool:
        """Take in one episode if one is due; the robots take turns. In lockstep the one before must be paid for."""
        if self._open:
            return False
        for turn, stream in enumerate(self.streams, start=1):
            if self._take_in_of(stream):
                self.streams = self.streams[turn:] + self.streams[:turn]
                return True
        return False

    def _take_in_of(self, stream: RobotStream) -> bool:
        """Take in the robot's oldest episode if it is due."""
        if stream.unstored:
            episode, again_s = stream.unstored
            if time.monotonic() < again_s:
                return False
            self._take_in(stream, episode)
            return True
        if self.session and (key := self.session.next_on_disk(stream.robot)):
            self._take_in_from_disk(stream, key)
            return True
        if self.session and self.session.again():
            return False
        for episode_id in stream.assembly.labelled():
            if self.session and self.session.find_before(EpisodeKey(episode_id, stream.robot)):
                return True
            if self.session is None or not stream.assembly.wanted(episode_id):
                self._pass_over(stream, episode_id)
                return True
            labelled_s = stream.labelled_s.setdefault(episode_id, time.monotonic())
            missing = stream.assembly.missing(episode_id)
            if missing and time.monotonic() - labelled_s < self.parameters.assembly_timeout_s:
                stream.message = f"{EpisodeKey(episode_id, stream.robot)} waits for {missing}"
                return False
            if missing:
                self._add_journal(stream, episode_id, missing)
            self._take_in_collected(stream, episode_id)
            return True
        return False

    def _take_in_from_disk(self, stream: RobotStream, key: EpisodeKey) -> None:
        if episode := self.session.stored(key):
            stream.assembly.forget(key.episode_id)
            if episode.label.trainable:
                self._take_in(stream, episode)
            else:
                self._pass_over(stream, key.episode_id)
            return
        self._add_journal(stream, key.episode_id, "everything: it ended while the learner was away")
        assembly = stream.assembly
        if key.episode_id not in assembly.labelled() or not assembly.wanted(key.episode_id):
            self._pass_over(stream, key.episode_id)
        else:
            self._take_in_collected(stream, key.episode_id)

    def _add_journal(self, stream: RobotStream, episode_id: int, missing: str) -> None:
        self._looked_up = EpisodeKey(episode_id, stream.robot)
        try:
            self.session.robots[stream.robot].collect(episode_id, stream.assembly, self._config_hash)
        except (EpisodeFileError, CodecError, ValueError) as error:
            key = EpisodeKey(episode_id, stream.robot)
            self.get_logger().warning(f"{key} lacks {missing}; its journal: {error}")

    def _take_in_collected(self, stream: RobotStream, episode_id: int) -> None:
        if not stream.assembly.wanted(episode_id):  # so said its journal
            self._pass_over(stream, episode_id)
            return
        key = EpisodeKey(episode_id, stream.robot)
        if missing := stream.assembly.missing(episode_id):
            self.get_logger().warning(f"{key} is taken in without {missing}")
        try:
            episode = stream.assembly.take(episode_id, stream.robot)
        except RecordError as error:
            self.get_logger().error(f"{key} is left out: {error}")
            self._pass_over(stream, episode_id)
            return
        self._take_in(stream, episode)

    def _take_in(self, stream: RobotStream, episode: EpisodeData) -> None:
        try:
            transitions = self.session.take_in(episode)
        except OSError as error:
            stream.unstored = (episode, time.monotonic() + STORE_RETRY_S)
            where = error.filename or self.session.run
            stream.message = f"{episode.key} waits for the disk: {where}: {error.strerror}"
            self.get_logger().error(stream.message, throttle_duration_sec=10.0)
            return
        stream.unstored = None
        labelled_s = stream.labelled_s.get(episode.episode_id, math.nan)
        stream.labelled_s = {i: since for i, since in stream.labelled_s.items() if i > episode.episode_id}
        stream.message = ""
        how = TakeIn(transitions, from_journal=episode.key == self._looked_up, refused_messages=self._refused)
        self._open = (stream, episode, how, labelled_s)
        self.get_logger().info(
            f"{episode.key}: {episode.label.name}, {len(episode.steps)} steps, "
            f"{transitions} transitions, {self.session.learner.owed} updates owed"
        )
        if not self.lockstep:
            self._close_episode()

    def _pass_over(self, stream: RobotStream, episode_id: int) -> None:
        if self.session:
            self.session.learner.pass_over(EpisodeKey(episode_id, stream.robot))
        stream.begin_after(episode_id)
        self._publish_status()

    def _close_episode(self) -> None:
        stream, episode, how, labelled_s = self._open
        self._open = None
        count, seconds = self._pace
        self._pace = (0, 0.0)
        if seconds:
            self._updates_per_s = count / seconds
        seconds = None if math.isnan(labelled_s) else time.monotonic() - labelled_s
        self.session.write_metrics(episode, replace(how, updates_per_s=self._updates_per_s, seconds=seconds))
        self._episodes_since_save += 1
        if self._episodes_since_save >= self.parameters.checkpoint_every:
            self._save("")
        stream.reported_episode = max(stream.reported_episode, episode.episode_id)
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
        message = messages.actor_message(weights, updates)
        message.header.stamp = self.get_clock().now().to_msg()
        for stream in self.streams:
            stream.publish_actor(message)

    def _publish_status(self) -> None:
        if self._frozen:
            message = messages.frozen_status(self._frozen.weights, self._frozen.updates)
        elif self.session is None:
            message = TrainingStatus(stage="warmup")
        else:
            session = self.session
            message = messages.training_status(session.learner, session.last_loss, self._updates_per_s, session.advice)
        message.header.stamp = self.get_clock().now().to_msg()
        learning = bool(self._open or message.update_debt)
        for stream in self.streams:
            message.last_episode_id, message.message = stream.reported_episode, stream.message or self._note
            backlog = self.session.robots[stream.robot].backlog if self.session else ()
            message.busy = learning or bool(stream.unstored or stream.labelled_s or backlog)
            stream.publish_status(message)
        self._report(message)

    def _report(self, message: TrainingStatus) -> None:
        said = [stream.message for stream in self.streams if stream.message]
        waiting = any(stream.unstored for stream in self.streams) or self._correct_again_s > time.monotonic()
        replay_bytes = self.session.learner.replay.stored_bytes if self.session else 0
        self._health.set(
            ERROR if waiting else WARN if self._refused else OK,
            "; ".join(said) or self._note or message.stage,
            updates=message.updates,
            owed=message.update_debt,
            transitions=message.transitions,
            replay_mb=f"{replay_bytes / 1e6:.3f}",
            actor_version=message.actor_version,
            refused_messages=self._refused,
            **{f"last_episode.{each.robot}": each.reported_episode for each in self.streams if each.robot},
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


def _work(node: LearnerNode, executor: SingleThreadedExecutor, stopped: Callable[[], bool]) -> None:
    """Callbacks first, then one slice of work, and so on; what was learned is kept when all of it is whole.

    In lockstep the robot waits for the learner; a real one does not.
    """
    if not node.lockstep:
        os.nice(node.parameters.niceness)
    idle = False
    while not stopped():
        before = node.received
        executor.spin_once(timeout_sec=IDLE_S if idle else 0.0)
        idle = node.received == before and not node.work()
    node.save_at_exit()


def main() -> None:
    """Entry point of `ros2 run rlt_rl_node rl_learner`."""
    torch.set_num_threads(1)
    errors = (FrozenModelsError, DemonstrationsError, CheckpointError, EpisodeFileError, OSError)
    run_node("rl_learner", LearnerNode, *errors, work=_work)
