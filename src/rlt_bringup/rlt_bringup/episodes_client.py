"""Runs episodes through the graph's RunEpisodes action and hands every outcome to a callback."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from rlt_bringup.security import DEMO, with_identity
from rlt_common import topics
from rlt_msgs.action import RunEpisodes
from rlt_msgs.msg import EpisodeState, TrainingStatus
from rlt_msgs.srv import SaveCheckpoint

READY_TIMEOUT_S = 120.0


class EpisodesError(RuntimeError):
    """The graph refused to run episodes, or ended early."""


@dataclass(frozen=True)
class Outcome:
    """One ended episode, as the episode manager reports it."""

    episode_id: int
    seed: int
    label: int
    critical_steps: int
    driver: int

    @property
    def success(self) -> bool:
        """Whether the operator labelled it a success."""
        return self.label == EpisodeState.LABEL_SUCCESS


class EpisodesClient:
    """A client of a running graph. `poll` is called about ten times a second, so that its errors surface at once."""

    def __init__(self, poll: Callable[[], None]) -> None:
        self._poll = poll
        self._node = Node("episodes_client")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._action = ActionClient(self._node, RunEpisodes, topics.ACTION_RUN_EPISODES)
        self._save = self._node.create_client(SaveCheckpoint, topics.SERVICE_SAVE_CHECKPOINT)
        self.training = TrainingStatus()
        self._node.create_subscription(TrainingStatus, topics.TRAINING_STATUS, self._on_training, topics.QOS_LATCHED)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()

    def wait_until_ready(self, learner: bool = True) -> None:
        """Wait for the action server and, where there is one, the learner. Raises EpisodesError after two minutes."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not (self._action.server_is_ready() and (self.training.stage or not learner)):
            if time.monotonic() > deadline:
                missing = "the episode manager" if not self._action.server_is_ready() else "the learner"
                raise EpisodesError(f"{missing} did not come up within {READY_TIMEOUT_S:.0f} s")
            self._spin()

    def run(
        self,
        count: int,
        *,
        purpose: int,
        driver: int,
        explore: bool,
        first_seed: int,
        execute_steps: int = 0,
        on_outcome: Callable[[Outcome], None] = lambda _: None,
    ) -> list[Outcome]:
        """Run `count` episodes. Raises EpisodesError when the graph refuses or ends them early."""
        outcomes: list[Outcome] = []

        def feedback(message) -> None:
            f = message.feedback
            outcome = Outcome(f.episode_id, first_seed + f.done - 1, f.label, f.critical_steps, f.driver)
            outcomes.append(outcome)
            on_outcome(outcome)

        goal = RunEpisodes.Goal(
            count=count,
            purpose=purpose,
            driver=driver,
            explore=explore,
            first_seed=first_seed,
            execute_steps=execute_steps,
        )
        handle = self._wait(self._action.send_goal_async(goal, feedback_callback=feedback))
        if not handle.accepted:
            raise EpisodesError("the episode manager refused to run episodes: is another run going on?")
        result = self._wait(handle.get_result_async()).result
        if result.message or len(result.episode_ids) != count:
            raise EpisodesError(f"{len(result.episode_ids)} of {count} episodes were run: {result.message}")
        return [
            Outcome(i, first_seed + k, label, steps, by)
            for k, (i, label, steps, by) in enumerate(
                zip(result.episode_ids, result.labels, result.critical_steps, result.drivers, strict=True)
            )
        ]

    def save_checkpoint(self, name: str) -> str:
        """Save a checkpoint of the learner. Returns its path. Raises EpisodesError."""
        answer = self._wait(self._save.call_async(SaveCheckpoint.Request(name=name)))
        if not answer.saved:
            raise EpisodesError(f"checkpoint {name!r} was not saved: {answer.message}")
        return answer.path

    def _on_training(self, message: TrainingStatus) -> None:
        self.training = message

    def _spin(self) -> None:
        self._executor.spin_once(timeout_sec=0.1)
        self._poll()

    def _wait(self, future):
        while not future.done():
            self._spin()
        return future.result()


def start_ros() -> None:
    """Initialise rclpy without its signal handlers: Ctrl-C raises KeyboardInterrupt as in any Python program."""
    rclpy.init(args=with_identity(sys.argv, DEMO), signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
