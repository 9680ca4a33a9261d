"""Corrected labels on their way: from the operator to the disk, the phase machine and everybody who listens."""

from __future__ import annotations

from pathlib import Path

from rclpy.node import Node

from rlt_common import relabels, topics
from rlt_msgs.msg import Relabel
from rlt_teleop.correction import Corrections
from rlt_teleop.episode_machine import EpisodeMachine, Label


class Relabelling:
    """Publishes `relabel` (rlt_msgs/Relabel, latched): every correction of the run."""

    def __init__(self, node: Node, machine: EpisodeMachine, run: Path | str) -> None:
        self._node, self._machine = node, machine
        self._corrections = Corrections(run)
        self._publisher = node.create_publisher(Relabel, topics.RELABEL, topics.QOS_RELABEL)

    def publish_made(self) -> None:
        """Those of earlier starts, for a learner that missed them. Raises EpisodeFileError."""
        made, problems = self._corrections.made()
        for problem in problems:
            self._node.get_logger().warning(problem)
        for relabel in made:
            self._publish(relabel)

    def pick_back(self) -> None:
        """The operator takes back a label: the newest ended episode first, then the one before it, and so on.

        Raises CommandRefused.
        """
        self._machine.check_pick()
        picked = self._machine.episode.relabelling
        found, label = self._corrections.newest(picked - 1 if picked else self._newest_ended())
        self._machine.pick(found, f"episode {found} ({label.name.lower()}): give it a label, or next episode keeps it")

    def give(self, episode_id: int, label: Label, source: str) -> int:
        """Correct the label of an ended episode. Raises CommandRefused.

        Returns:
            Training episodes that count more than before: -1, 0 or 1.
        """
        self._machine.check_relabel(episode_id)
        done = self._corrections.give(episode_id, label, self._newest_ended())
        change = f"episode {episode_id}: {done.before.name.lower()} -> {label.name.lower()} by {source}"
        if done.relabel is not None:
            self._publish(done.relabel)
            self._node.get_logger().info(f"relabelled: {change}")
        self._machine.relabelled(episode_id, done.before, label, change)
        return done.trained_more

    def give_up(self, episode_id: int) -> None:
        """No file came of an ended episode: a discard, also for a file that comes late. Raises EpisodeFileError."""
        self._publish(self._corrections.give_up(episode_id))

    def keep_discarded(self, episode_id: int) -> None:
        """The file of an episode that was given up came late: it counts, as what everybody was told. CommandRefused.

        The disk may have refused the correction of :meth:`give_up`.
        """
        done = self._corrections.give(episode_id, Label.DISCARD, episode_id - 1)
        if done.relabel is not None:
            self._publish(done.relabel)
        self._machine.found(episode_id)
        self._node.get_logger().warning(
            f"episode {episode_id}: its file came after it was given up; it stays a discard: undo, or label_episode, "
            f"gives it its label ({done.recorded.name.lower()}) back"
        )

    def _newest_ended(self) -> int:
        return self._corrections.newest_ended(self._machine.pending)

    def _publish(self, relabel: relabels.Relabel) -> None:
        message = Relabel(
            sequence=relabel.sequence,
            episode_id=relabel.episode_id,
            label=int(Label[relabel.label.upper()]),
            after_episode=relabel.after_episode,
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
