"""One chunk request, one VLA output, one episode state, one actor: one action chunk (Sec. V, "Rollout"). No ROS.

While the VLA drives, its rows pass through. While RL drives the CRITICAL phase, the actor refines the rows
first_step - boundary_step onwards. The actor of an episode is chosen at its first refined chunk and stays.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from rlt_rl_node.actor_codec import PolicyWeights
from rlt_rl_node.exploration import chunk_noise
from rlt_rl_node.records import Encoded

KEPT_ANSWERS = 8
KEPT_ACTORS = 2


class PolicyError(ValueError):
    """An input that no chunk can be made of; says what is wrong. The robot holds."""


@dataclass(frozen=True)
class Request:
    """What matters here of a ChunkRequest."""

    episode_id: int
    epoch: int
    request_id: int
    boundary_step: int
    first_step: int
    rows: int


@dataclass(frozen=True)
class Output:
    """A boundary's encoded observation, as answer to a request."""

    request_id: int
    observation_id: int
    vla_hash: str
    encoded: Encoded
    anchored: bool = False  # the reference says places: it leads on from the request's anchor


@dataclass(frozen=True)
class Episode:
    """What matters here of an EpisodeState."""

    episode_id: int
    epoch: int
    rl_drives: bool  # CRITICAL phase with driver RL
    explore: bool
    actor_version: int  # 0: the newest at the episode's first refined chunk


@dataclass(frozen=True)
class Chunk:
    """The answer to a request."""

    request: Request
    stamp_ns: int  # of the observation
    observation_id: int
    policy_version: int  # 0: the VLA's rows passed through
    actions: np.ndarray  # (n, d) float32, robot units
    reference: np.ndarray  # (n, d) float32, the VLA's rows for the same steps
    reference_distance: float  # root mean square of (mean - reference) / spread, before noise
    anchored: bool = False  # as of Output


class ChunkPolicy:
    """Matches requests with outputs and answers them, each once, however often and in whatever order they come."""

    def __init__(self, run_seed: int) -> None:
        self._run_seed = run_seed
        self._episode: Episode | None = None
        self._request: Request | None = None
        self._output: Output | None = None
        self._actors: OrderedDict[int, PolicyWeights] = OrderedDict()
        self._pinned: tuple[int, PolicyWeights] | None = None
        self._answers: OrderedDict[int, Chunk] = OrderedDict()
        self.waiting_for = "a chunk request"
        self.dropped = 0

    @property
    def newest_version(self) -> int:
        """Version of the actor that came last; 0 before the first."""
        return next(reversed(self._actors), 0)

    def on_actor(self, weights: PolicyWeights) -> None:
        """A newly published actor. It takes effect with the next episode."""
        self._actors[weights.version] = weights
        self._actors.move_to_end(weights.version)
        while len(self._actors) > KEPT_ACTORS:
            self._actors.popitem(last=False)

    def on_episode(self, episode: Episode) -> None:
        """The episode manager's state. An older episode or epoch than known is ignored."""
        if self._episode is None or _age(episode) >= _age(self._episode):
            self._episode = episode

    def on_request(self, request: Request) -> None:
        """A chunk request; a repeated one will be answered again with the same chunk."""
        if self._request is None or _age(request) >= _age(self._request):
            self._request = request
        else:
            self.dropped += 1

    def on_output(self, output: Output) -> None:
        """A boundary's VLA output."""
        self._output = output

    def answer(self) -> Chunk | None:
        """The chunk for the request in hand, when everything for it is there; `waiting_for` says what is not.

        Raises ValueError (PolicyError) when it cannot be answered; the request is dropped then.
        """
        request = self._request
        if request is None:
            self.waiting_for = "a chunk request"
            return None
        if self._episode is None or _age(self._episode) < _age(request):
            self.waiting_for = f"the state of episode {request.episode_id}, epoch {request.epoch}"
            return None
        if _age(self._episode) > _age(request):
            self._request = None
            self.dropped += 1
            return None
        if request.request_id in self._answers:
            self._request = None
            return self._answers[request.request_id]
        if self._output is None or self._output.request_id != request.request_id:
            self.waiting_for = "the VLA's output"
            return None
        if self._episode.rl_drives and (weights := self._actor(self._episode)) is None:
            self.waiting_for = f"actor version {self._episode.actor_version or 1}"
            return None
        try:
            chunk = (
                self._refine(request, self._output, self._episode, weights)
                if self._episode.rl_drives
                else _pass_through(request, self._output)
            )
        except ValueError:
            self._request = self._output = None
            self.dropped += 1
            raise
        self._request = None
        self._answers[request.request_id] = chunk
        while len(self._answers) > KEPT_ANSWERS:
            self._answers.popitem(last=False)
        return chunk

    def _actor(self, episode: Episode) -> PolicyWeights | None:
        """The actor of this episode. One that newer versions have already replaced gives way to the newest."""
        if self._pinned is None or self._pinned[0] != episode.episode_id:
            named = episode.actor_version or self.newest_version
            if self.newest_version < max(named, 1):
                return None
            self._pinned = episode.episode_id, self._actors.get(named, self._actors[self.newest_version])
        return self._pinned[1]

    def _refine(self, request: Request, output: Output, episode: Episode, weights: PolicyWeights) -> Chunk:
        if weights.vla_hash != output.vla_hash:
            raise PolicyError(
                f"the actor was trained on VLA {weights.vla_hash}, this output is of VLA {output.vla_hash}: "
                "start learner and VLA with the same VLA checkpoint"
            )
        reference = _rows(request, output, weights.actor.layout.chunk_length)
        scaled = reference / weights.spread
        mean = weights.mean(output.encoded.rl_token, output.encoded.rl_state, scaled, episode.explore)
        action = mean
        if episode.explore:
            action = mean + chunk_noise(
                self._run_seed,
                request.episode_id,
                request.boundary_step,
                mean.shape,
                weights.sigma_independent,
                weights.sigma_chunk,
            )
        actions = (action * weights.spread).astype(np.float32)
        if not np.isfinite(actions).all():
            raise PolicyError(f"actor version {weights.version} gave an action that is not finite")
        return Chunk(
            request=request,
            stamp_ns=output.encoded.stamp_ns,
            observation_id=output.observation_id,
            policy_version=weights.version,
            actions=actions,
            reference=reference,
            reference_distance=float(np.sqrt(np.mean((mean - scaled) ** 2))),
            anchored=output.anchored,
        )


def _pass_through(request: Request, output: Output) -> Chunk:
    reference = _rows(request, output, request.rows)
    stamp_ns, observation_id = output.encoded.stamp_ns, output.observation_id
    return Chunk(request, stamp_ns, observation_id, 0, reference, reference, 0.0, output.anchored)


def _rows(request: Request, output: Output, count: int) -> np.ndarray:
    """(count, d) rows of the reference, from the delay on. Raises PolicyError."""
    delay = request.first_step - request.boundary_step
    reference = output.encoded.reference
    if delay < 0 or count < 1 or delay + count > len(reference):
        raise PolicyError(f"rows {delay} .. {delay + count - 1} were asked of a reference of {len(reference)} rows")
    if not np.isfinite(reference).all():
        raise PolicyError("the VLA's reference holds a value that is not finite")
    return np.ascontiguousarray(reference[delay : delay + count])


def _age(of: Episode | Request) -> tuple[int, int]:
    return of.episode_id, of.epoch
