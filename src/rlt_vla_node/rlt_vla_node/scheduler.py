"""What the VLA node runs next. Pure: no ROS, no clock, no tensors; an observation may be any object.

Boundary first: a chunk request is answered from the first observation at or after its stamp. The strided observations
follow when the node is idle: those of the CRITICAL phase of a training episode that were not a boundary. Which these
are, the executed actions say: an observation belongs to the first control step that was executed at or after its
stamp. So the set, its order and its grouping depend on what was executed and not on when messages arrived.

Where the clock is set back, what was observed before is forgotten: its stamps would pass for the newest ones.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from rlt_vla_node.synchroniser import CLOCK_RESET_NS

T = TypeVar("T")

KEEP_STEPS = 256


@dataclass(frozen=True)
class Request:
    """What matters here of a ChunkRequest."""

    request_id: int
    episode_id: int
    epoch: int
    not_before_ns: int
    anchor: Any = None
    """Where the chunk is added to; the scheduler only hands it on."""


@dataclass(frozen=True)
class Boundary(Generic[T]):
    """Work: answer `request` from `observation`."""

    request: Request
    stamp_ns: int
    observation: T
    strided: Strided[T] | None = None
    """The observation's place among the strided, which it left for this."""


@dataclass(frozen=True)
class Strided(Generic[T]):
    """One observation to encode, with the episode and epoch of its control step."""

    stamp_ns: int
    episode_id: int
    epoch: int
    observation: T
    step: int = -1
    """Its control step."""
    anchor: Any = None
    """What had been commanded before the first action of its chunk; the scheduler only hands it on."""


@dataclass(frozen=True)
class Step:
    """What matters here of an ExecutedAction."""

    stamp_ns: int
    episode_id: int
    epoch: int
    step: int
    critical: bool
    commanded: Any = None
    """What was commanded in it, where chunks have to be anchored."""


@dataclass
class Counters:
    """Counts since the start, for diagnostics."""

    dropped_requests: int = 0
    dropped_observations: int = 0
    clock_resets: int = 0


@dataclass
class _Episode(Generic[T]):
    """Strided observations of one episode that wait to be encoded. `train` None: its purpose is not known yet."""

    waiting: deque[Strided[T]] = field(default_factory=deque)
    train: bool | None = None
    last_step: int = -1
    last_observed_ns: int = -1
    total_steps: int | None = None
    closed: bool = False
    commanded: dict[int, Any] = field(default_factory=dict)
    """By control step."""


class Scheduler(Generic[T]):
    """Decides the order of work.

    Args:
        group_size: strided observations in one batch.
        stride: control steps between observations.
        period_ns: control period; an observation older than this before its step belongs to no step.
        keep: observations kept for requests still to come.
        max_pending: strided observations that may wait; beyond it the oldest are dropped and counted.
        anchor_steps: None, or: a strided observation waits for, and gets, what was commanded in the control step before
            the one that is so many after its own.
    """

    def __init__(
        self,
        group_size: int,
        stride: int,
        period_ns: int,
        keep: int = 256,
        max_pending: int = 2000,
        anchor_steps: int | None = None,
    ) -> None:
        self._group_size = group_size
        self._stride = stride
        self._period_ns = period_ns
        self._keep = keep
        self._max_pending = max_pending
        self._anchor_steps = anchor_steps
        self._recent: OrderedDict[int, T] = OrderedDict()
        self._undecided: deque[int] = deque()
        self._steps: deque[Step] = deque(maxlen=KEEP_STEPS)
        self._served: OrderedDict[int, None] = OrderedDict()
        self._request: Request | None = None
        self._current = (0, 0)
        self._episodes: OrderedDict[int, _Episode[T]] = OrderedDict()
        self.counters = Counters()

    @property
    def request(self) -> Request | None:
        """The request that waits for its observation."""
        return self._request

    @property
    def pending(self) -> int:
        """Strided observations that wait."""
        return sum(len(episode.waiting) for episode in self._episodes.values())

    def on_observation(self, stamp_ns: int, observation: T) -> None:
        """A new observation. One not newer than the last is a repetition, ignored; one far older is of a new clock."""
        if self._other_clock(stamp_ns):
            self._reset_clock()
        if stamp_ns <= self._newest_ns:
            return
        self._recent[stamp_ns] = observation
        while len(self._recent) > self._keep:
            self._recent.popitem(last=False)
        self._undecided.append(stamp_ns)
        for step in self._steps:
            if step.stamp_ns >= stamp_ns:
                self._decide(step)
                break

    def on_step(self, step: Step) -> None:
        """An executed control step."""
        self._steps.append(step)
        if step.episode_id < self._current[0] and step.episode_id not in self._episodes:
            return
        episode = self._episode(step.episode_id)
        episode.last_step = max(episode.last_step, step.step)
        if self._anchor_steps is not None and episode.train is not False:
            episode.commanded[step.step] = step.commanded
        if step.critical and step.step % self._stride == 0:
            episode.last_observed_ns = step.stamp_ns
        self._decide(step)

    def on_request(self, request: Request) -> None:
        """A chunk request. One of an older episode or epoch than known is dropped and counted."""
        age = (request.episode_id, request.epoch)
        newest = max(self._current, (self._request.episode_id, self._request.epoch) if self._request else (0, 0))
        if age < newest:
            self.counters.dropped_requests += 1
            return
        if self._request is not None and self._request.request_id != request.request_id:
            self.counters.dropped_requests += 1
        self._request = request

    def on_episode(self, episode_id: int, epoch: int, *, train: bool, discarded: bool) -> None:
        """The manager's state: purpose and epoch. Requests of older epochs are dropped."""
        self._current = max(self._current, (episode_id, epoch))
        if self._request and (self._request.episode_id, self._request.epoch) < self._current:
            self._request = None
            self.counters.dropped_requests += 1
        episode = self._episode(episode_id)
        episode.train = train and not discarded
        if not episode.train:
            episode.waiting.clear()
            episode.commanded.clear()
        for other_id, other in list(self._episodes.items()):
            other.closed |= other_id < episode_id
            if other.closed and not other.train:
                del self._episodes[other_id]

    def on_control(self, episode_id: int, *, moving: bool, next_step: int) -> None:
        """The executor's state: once it no longer moves, `next_step` is the number of control steps it executed."""
        if episode_id in self._episodes:
            self._episodes[episode_id].total_steps = None if moving else next_step

    def drop(self, stamp_ns: int) -> None:
        """Forget an observation that turned out to be unusable."""
        self._recent.pop(stamp_ns, None)

    def next_boundary(self) -> Boundary[T] | None:
        """The request in hand with its observation, once that is there; it then counts as answered."""
        request = self._request
        if request is None or self._other_clock(request.not_before_ns):
            return None
        for stamp_ns, observation in self._recent.items():
            if stamp_ns >= request.not_before_ns:
                self._request = None
                self._remember(stamp_ns)
                return Boundary(request, stamp_ns, observation, self._unqueue(stamp_ns))
        return None

    def give_back_boundary(self, work: Boundary[T]) -> None:
        """Work that could not be done: its request is in hand again, unless a newer one is, its observation as before.

        So where it is never answered, the observation still counts among the strided.
        """
        self._served.pop(work.stamp_ns, None)
        if work.strided is not None:
            self._put_back([work.strided])
        if self._request is None:
            self.on_request(work.request)

    def give_back_group(self, group: Sequence[Strided[T]]) -> None:
        """Strided observations, those of a group or some of them, that could not be encoded: they come first again."""
        self._put_back(group)

    @property
    def group_ready(self) -> bool:
        """Whether next_group has work."""
        return any(self._group_of(episode) for episode in self._episodes.values())

    def next_group(self) -> tuple[Strided[T], ...]:
        """The next strided observations to encode together, oldest episode first; empty when there are none."""
        for episode_id, episode in list(self._episodes.items()):
            size = self._group_of(episode)
            if size:
                return tuple(self._anchored(episode, episode.waiting.popleft()) for _ in range(size))
            if episode.closed and (not episode.waiting or episode.train is None):
                del self._episodes[episode_id]
        return ()

    def _group_of(self, episode: _Episode[T]) -> int:
        """Size of the group to encode now: a full one, or the rest once nothing more will come."""
        size = min(self._group_size, len(episode.waiting))
        full = size == self._group_size and episode.last_step >= self._anchor_step(episode.waiting[size - 1])
        return size if episode.train and (full or self._complete(episode)) else 0

    def _anchor_step(self, item: Strided[T]) -> int:
        """The control step in which the anchor of its chunk was commanded; -1 where none is wanted."""
        return -1 if self._anchor_steps is None else item.step + self._anchor_steps - 1

    def _anchored(self, episode: _Episode[T], item: Strided[T]) -> Strided[T]:
        if self._anchor_steps is None:
            return item
        return replace(item, anchor=episode.commanded.get(self._anchor_step(item)))

    def _complete(self, episode: _Episode[T]) -> bool:
        """Nothing more will come for this episode: all steps are known and the last one's observation is here."""
        if episode.closed:
            return True
        ended = episode.total_steps is not None and episode.last_step == episode.total_steps - 1
        return ended and self._newest_ns >= episode.last_observed_ns

    def _decide(self, step: Step) -> None:
        while self._undecided and self._undecided[0] <= step.stamp_ns:
            stamp_ns = self._undecided.popleft()
            if step.stamp_ns - stamp_ns >= self._period_ns or not step.critical:
                continue
            if stamp_ns in self._served or stamp_ns not in self._recent:
                continue
            episode = self._episode(step.episode_id)
            if episode.train is not False:
                seen = self._recent[stamp_ns]
                episode.waiting.append(Strided(stamp_ns, step.episode_id, step.epoch, seen, step.step))
                self._bound()

    @property
    def _newest_ns(self) -> int:
        return next(reversed(self._recent)) if self._recent else -1

    def _other_clock(self, stamp_ns: int) -> bool:
        """Whether it is so far behind the newest observation that the clock must have been set back."""
        return stamp_ns < self._newest_ns - CLOCK_RESET_NS

    def _reset_clock(self) -> None:
        self.counters.clock_resets += 1
        self._recent.clear()
        self._undecided.clear()
        self._steps.clear()
        self._served.clear()
        for episode in self._episodes.values():
            episode.last_observed_ns = -1

    def _bound(self) -> None:
        excess = self.pending - self._max_pending
        for episode in self._episodes.values():
            while excess > 0 and episode.waiting:
                episode.waiting.popleft()
                excess -= 1
                self.counters.dropped_observations += 1

    def _unqueue(self, stamp_ns: int) -> Strided[T] | None:
        for episode in self._episodes.values():
            for item in episode.waiting:
                if item.stamp_ns == stamp_ns:
                    episode.waiting.remove(item)
                    return item
        return None

    def _put_back(self, items: Sequence[Strided[T]]) -> None:
        for item in items:
            waiting = self._episode(item.episode_id).waiting
            waiting.insert(sum(other.stamp_ns < item.stamp_ns for other in waiting), item)
        self._bound()

    def _remember(self, stamp_ns: int) -> None:
        self._served[stamp_ns] = None
        while len(self._served) > self._keep:
            self._served.popitem(last=False)

    def _episode(self, episode_id: int) -> _Episode[T]:
        return self._episodes.setdefault(episode_id, _Episode())
