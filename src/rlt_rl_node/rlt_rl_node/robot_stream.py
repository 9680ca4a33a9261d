"""One robot's topics, as the learner node hears and answers them.

Subscribes  executed_action (rlt_msgs/ExecutedAction), vla_output (rlt_msgs/VlaOutput),
            episode_state (rlt_msgs/EpisodeState, latched), control_state (rlt_msgs/ControlState, latched),
            relabel (rlt_msgs/Relabel, latched: the labels that were corrected later)
Publishes   actor (rlt_msgs/ActorParameters, latched), training_status (rlt_msgs/TrainingStatus, latched)

A robot of another robot file, task or VLA is refused alone: nothing of it is collected and no actor goes to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from rlt_common import topics
from rlt_msgs.msg import (
    ActorParameters,
    ControlState,
    EpisodeState,
    ExecutedAction,
    Relabel,
    TrainingStatus,
    VlaOutput,
)
from rlt_rl_node import messages
from rlt_rl_node.corrections import Correction
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.records import EpisodeData, Label

QUEUE = QoSProfile(depth=5000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""An executed action or an output that is lost costs the episode its transitions."""


@dataclass(frozen=True)
class Expected:
    """What a robot must be of."""

    vla_hash: str
    config_hash: str


class RobotStream:
    """What one robot says of its episodes, and what is said to it.

    Args:
        node: that listens and speaks.
        robot: the robot's namespace without the leading slash; empty: the node's own.
        expected: what it must be of. A robot of another namespace must say so before it gets an actor.
        new_assembly: makes an empty assembly.
        on_relabel: gets each corrected label.
        on_refusal: gets, in words, what was refused.
    """

    def __init__(
        self,
        node: Node,
        robot: str,
        expected: Expected,
        new_assembly: Callable[[], EpisodeAssembly],
        on_relabel: Callable[[str, Correction], None],
        on_refusal: Callable[[str], None],
    ) -> None:
        self.robot, self._expected = robot, expected
        self._new_assembly, self._on_correction, self._on_refusal = new_assembly, on_relabel, on_refusal
        self.assembly = new_assembly()
        self.received = 0
        self.refusal = ""
        """Why nothing of this robot counts now; empty: nothing was heard against it."""
        self._known = not robot
        self.message = f"waits for the episode_state of {robot}" if robot else ""
        """What its next episode waits for, in words."""
        self.labelled_s: dict[int, float] = {}
        """Since when an episode has its label, and waits for the rest."""
        self.unstored: tuple[EpisodeData, float] | None = None
        """An episode that the disk refused, and when to try again."""
        self.reported_episode = 0
        self._newest_actor: ActorParameters | None = None

        def name(topic: str) -> str:
            return f"/{robot}/{topic}" if robot else topic

        self._actor = node.create_publisher(ActorParameters, name(topics.ACTOR), topics.QOS_LATCHED)
        self._status = node.create_publisher(TrainingStatus, name(topics.TRAINING_STATUS), topics.QOS_LATCHED)
        for kind, topic, handler, qos in (
            (ExecutedAction, topics.EXECUTED_ACTION, self._on_executed, QUEUE),
            (VlaOutput, topics.VLA_OUTPUT, self._on_output, QUEUE),
            (EpisodeState, topics.EPISODE_STATE, self._on_state, topics.QOS_LATCHED_READER),
            (ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED_READER),
            (Relabel, topics.RELABEL, self._on_relabel, topics.QOS_RELABEL),
        ):
            node.create_subscription(kind, name(topic), handler, qos)

    def begin_after(self, episode_id: int) -> None:
        """The learner has done with everything up to this episode."""
        self.assembly.forget(episode_id)
        self.reported_episode = max(self.reported_episode, episode_id)
        self.labelled_s = {i: since for i, since in self.labelled_s.items() if i > episode_id}

    def publish_actor(self, message: ActorParameters) -> None:
        """The newest actor, for this robot as soon as it is known to be one that it fits."""
        self._newest_actor = message
        if self._known and not self.refusal:
            self._actor.publish(message)

    def publish_status(self, message: TrainingStatus) -> None:
        """Where training stands, as this robot is to know it."""
        self._status.publish(message)

    def _on_executed(self, message: ExecutedAction) -> None:
        self._collect(messages.collect_executed, message)

    def _on_output(self, message: VlaOutput) -> None:
        if message.vla_hash == self._expected.vla_hash:
            self._collect(messages.collect_output, message)
            return
        self.received += 1
        self._refuse(f"vla_output of VLA {message.vla_hash}, this learner's is {self._expected.vla_hash}")

    def _on_state(self, message: EpisodeState) -> None:
        self._judge(message)
        self._collect(messages.collect_state, message)
        again = message.episode_id <= self.reported_episode and message.phase == EpisodeState.PHASE_CRITICAL
        if again and message.purpose == EpisodeState.PURPOSE_TRAIN and not self.refusal:
            self._refuse(
                f"episode {message.episode_id} is not learned from: one of that number was taken in before, or passed "
                "over. Numbers go on in the run directory of before; a new one of a robot takes a new one of the "
                "learner, or another namespace"
            )

    def _on_control(self, message: ControlState) -> None:
        self._collect(messages.collect_control, message)

    def _on_relabel(self, message: Relabel) -> None:
        self.received += 1
        if self.refusal:  # its manager says them again when it was started with the right files
            return
        try:
            correction = Correction(message.sequence, message.episode_id, Label(message.label), message.after_episode)
        except ValueError as error:
            self._refuse(f"relabel: {error}")
            return
        self._on_correction(self.robot, correction)

    def _judge(self, message: EpisodeState) -> None:
        """Whether this robot practises what the learner learns."""
        ours = self._expected.config_hash
        said = message.config_hash or ("" if self.robot else ours)  # in its own namespace a launch started both
        self.refusal, before = messages.config_problem(said, ours), self.refusal
        if self.refusal:
            self.assembly = self._new_assembly()
            self.begin_after(self.reported_episode)
            self.labelled_s = {}
            self._refuse(self.refusal)
        elif before or not self._known:
            self._known, self.message = True, ""
            if self._newest_actor:
                self._actor.publish(self._newest_actor)

    def _collect(self, collect: Callable[[EpisodeAssembly, Any], None], message: Any) -> None:
        self.received += 1
        if self.refusal:  # said with every state
            return
        try:
            collect(self.assembly, message)
        except ValueError as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        self.message = f"refused: {f'{self.robot}: ' if self.robot else ''}{reason}"
        self._on_refusal(self.message)
