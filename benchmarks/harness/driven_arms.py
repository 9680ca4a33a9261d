"""Keeps an executor under hostile messages at work: what is hostile must meet arms that move, not an idle node.

Between the hostile messages :class:`DrivenArms` is everything around the executor: arms that follow every command,
sensors, cameras that are well, a manager that begins the next episode wherever a hostile message ended one, a person
who takes over in every third, resets emergency stops, and a policy that answers some requests. Others it leaves open,
so that a hostile chunk made from the answer gets past the checks of who asked for it, and its numbers reach the limits.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.valid_messages import ValidMessages
from rlt_common import topics
from rlt_common.codecs import floats, to_time
from rlt_control.chunk_executor_node import ChunkExecutorNode
from rlt_control.records import MOVING
from rlt_msgs.msg import ActionChunk, ChunkRequest, EpisodeState
from rlt_msgs.srv import ResetEstop

PERIOD_S = 0.02
ANSWERED = 0.6
EPISODE_PERIODS = 60
HIGHEST_FOLLOWED = 1 << 20
"""A hostile episode beyond this is not followed: the executor waits for it, as it must, until its life is over."""
MOST_ROWS = 40


class DrivenArms:
    """See the module docstring.

    Args:
        valid: makes the valid messages.
        rng: decides what is answered and how the arms move.
        says: (topic, message): gives a valid message to the node, if it takes the topic.
    """

    def __init__(self, valid: ValidMessages, rng: random.Random, says: Callable[[str, Any], None]) -> None:
        self._valid, self._rng, self._says = valid, rng, says
        self._robot = valid.robot
        self.now_s = 100.0
        self.begin_life()

    def begin_life(self) -> None:
        """A fresh node, and arms where they were at first."""
        self.q = self._valid.home.copy()
        self._state: EpisodeState | None = None
        self._request: ChunkRequest | None = None
        self._episode, self._periods = 0, 0

    def on_request(self, request: ChunkRequest) -> None:
        """The executor asked for a chunk."""
        self._request = request

    def on_command(self, target: np.ndarray) -> None:
        """The executor commanded the arms (n,)."""
        if target.shape == self.q.shape and np.isfinite(target).all():
            self.q = target

    def period(self, node: ChunkExecutorNode) -> dict[str, Any]:
        """One control period. Returns the messages that fit the moment, to make hostile ones of."""
        self.now_s += PERIOD_S
        self._periods += 1
        if node.core.estop_reason:
            self._says(topics.SERVICE_RESET_ESTOP, ResetEstop.Request())
        good = self._valid.at(self.q, to_time(round(self.now_s * 1e9)))
        for topic in (*self._robot.sensor_topics, topics.CAMERA_HEALTH):
            if topic in good:
                self._says(topic, good[topic])
        self._manage(node)
        good[topics.EPISODE_STATE] = self._state
        if self._state.human_in_control and self._rng.random() < ANSWERED:
            self._says(topics.TELEOP_COMMAND, good[topics.TELEOP_COMMAND])
        for topic in self._robot.state_topics:
            self._says(topic, good[topic])
        if not node.lockstep:
            node.timer_tick(0.0)
        if self._request is not None:
            good[topics.ACTION_CHUNK] = answer_to(self._request, self._valid, self._rng)
            if self._rng.random() < ANSWERED:
                self._says(topics.ACTION_CHUNK, good[topics.ACTION_CHUNK])
                self._request = None
        return good

    def _manage(self, node: ChunkExecutorNode) -> None:
        """The next episode, where the one before is over or is none that can move."""
        own = node.core.episode
        stopped = own is None or own.phase not in MOVING or own.episode_id == node.core._stopped_episode
        if self._state is None or stopped or node.core.step_limit_reached or self._periods > EPISODE_PERIODS:
            self._periods, self._request = 0, None
            known = own.episode_id if own is not None and own.episode_id < HIGHEST_FOLLOWED else 0
            self._episode = max(self._episode, known) + 1
            self._say_phase(EpisodeState.PHASE_RESETTING)
            self._say_phase(self._rng.choice((EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)))
        else:
            self._says(topics.EPISODE_STATE, self._state)

    def _say_phase(self, phase: int) -> None:
        moving = phase in (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)
        self._state = self._valid.episode_state(phase, self._episode)
        self._state.human_in_control = moving and self._episode % 3 == 0
        self._says(topics.EPISODE_STATE, self._state)


def answer_to(request: ChunkRequest, valid: ValidMessages, rng: random.Random) -> ActionChunk:
    """A chunk that the executor takes: small motions of all arms."""
    dim = valid.robot.action_dim
    rows = max(1, min(request.rows, MOST_ROWS))
    step = np.array([rng.uniform(-0.3, 0.3) for _ in range(dim)]) * valid.robot.step_limit
    actions = floats(np.tile(step, rows).astype(np.float32))
    chunk = ActionChunk(
        episode_id=request.episode_id,
        epoch=request.epoch,
        chunk_id=request.request_id,
        first_step=request.first_step,
        source=rng.choice((ActionChunk.SOURCE_VLA, ActionChunk.SOURCE_RL)),
        rows=rows,
        action_dim=dim,
        actions=actions,
        reference=actions,
        arm_names=[arm.name for arm in valid.robot.arms],
    )
    chunk.header.stamp = request.not_before
    return chunk
