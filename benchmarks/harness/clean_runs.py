"""Clean runs of a robot's executor core on a simulated clock, with inputs that come as unevenly as on a real machine.

Everything that the executor hears is an event in simulated time: joint states, wrenches and measured tool poses at
100 Hz, the manager's sign of life at 10 Hz, a human's commands at 50 Hz while one is in control, camera_ingest's word
at 50 Hz, a chunk some time after its request; the drivers have said once that they obey. camera_ingest judges, by its
own table, images that come at each camera's rate. Each source has jitter of its own, a transport delay, and now and
then it stalls; so does the executor, whose ticks are then late. Nothing is at fault in a clean run: whatever the
watchdog stops is a false stop. Images that repeat are left out: a sensor that works never sends the same one again.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rlt_common.config import RobotConfig
from rlt_control.arms import build_integrator
from rlt_control.executor import ChunkExecutor, ExecutorConfig
from rlt_control.inputs import (
    CAMERAS,
    HUMAN,
    JOINT_STATES,
    MANAGER,
    make_watchdog,
    pose,
    readiness,
    wrench,
)
from rlt_control.records import Chunk, Episode, Executed, HumanCommand, Phase, Request, RobotState, Source
from rlt_vla_node.camera_ingest_node import HEALTH_S
from rlt_vla_node.synchroniser import input_watchdog

STRIDE, PREFETCH, ROWS = 2, 10, 20
"""Control steps: a chunk is asked for 0.2 s ahead, and 0.4 s of it are played."""
SCRIPT = (
    (Phase.RESETTING, False, 1.0),
    (Phase.BASE, False, 8.0),
    (Phase.CRITICAL, False, 4.0),
    (Phase.CRITICAL, True, 3.0),
    (Phase.CRITICAL, False, 4.0),
    (Phase.LABELLED, False, 1.0),
)
"""An episode: phase, whether a human is in control, s."""
NO_LIMIT = 1 << 30
NO_ROW = "no chunk row"
HOME = [0.0, -0.35, 0.85, 0.0, -0.5, 0.0, 0.0]
CAMERA = "camera "
"""Before a camera's name: its images, which camera_ingest hears, not the executor."""
PERIODS_S = {JOINT_STATES: 0.01, MANAGER: 0.1, HUMAN: 0.02, "wrench": 0.01, "pose": 0.01, CAMERAS: HEALTH_S}
INFERENCE_S = (0.06, 0.12)
"""From a request to its chunk, uniform."""


@dataclass(frozen=True)
class Jitter:
    """How unevenly messages and ticks come.

    Attributes:
        name: in the table.
        spread_s: standard deviation of the moment at which a message is sent.
        delay_s: mean of its transport, exponential.
        stall_every_s: mean time between two stalls of one source (or of the executor), exponential.
        stall_s: longest stall, uniform; what is sent meanwhile comes at its end.
    """

    name: str
    spread_s: float
    delay_s: float
    stall_every_s: float
    stall_s: float


@dataclass
class Tally:
    """What happened in a run. `stops`: false stops by their reason's first word; `moving_s`: time in moving phases."""

    moving_s: float = 0.0
    ticks: int = 0
    stops: Counter[str] = field(default_factory=Counter)
    late_chunks: int = 0
    worst_age_ms: dict[str, float] = field(default_factory=dict)


class Stalls:
    """Delivery times of one source: jitter, transport and stalls; never out of order."""

    def __init__(self, jitter: Jitter, rng: np.random.Generator) -> None:
        self._jitter, self._rng = jitter, rng
        self._stall = (rng.exponential(jitter.stall_every_s), 0.0)
        self._last_s = 0.0

    def delivered(self, sent_s: float) -> float:
        """When what is sent at `sent_s` (rising) comes."""
        at = sent_s + self._rng.exponential(self._jitter.delay_s)
        while at > sum(self._stall):
            begins = sum(self._stall) + self._rng.exponential(self._jitter.stall_every_s)
            self._stall = (begins, self._rng.uniform(0.0, self._jitter.stall_s))
        if at >= self._stall[0]:
            at = sum(self._stall)
        self._last_s = max(self._last_s, at)
        return self._last_s

    def messages(self, period_s: float, begin_s: float) -> Iterator[tuple[float, float]]:
        """(sent, delivered) of one message after the other."""
        sent = 0.0
        for number in itertools.count():
            sent = max(sent, begin_s + number * period_s + self._rng.normal(0.0, self._jitter.spread_s))
            yield sent, self.delivered(sent)


class CleanRun:
    """One robot for some time: episodes one after the other, each with a take-over by a human in its critical phase.

    Args:
        robot: ticks on a timer; every arm has a force sensor and measures its pose.
        jitter: how unevenly everything comes.
        seed: of the jitter.
        silent: (input, s): from then on this input says nothing: for measuring how soon a true stop comes.
    """

    def __init__(self, robot: RobotConfig, jitter: Jitter, seed: int, silent: tuple[str, float] | None = None) -> None:
        self._robot, self._silent = robot, silent
        self._rng = np.random.default_rng(seed)
        self._arms = tuple(arm.name for arm in robot.arms)
        self.watchdog = make_watchdog(robot)
        self._core = ChunkExecutor(
            build_integrator(robot),
            ExecutorConfig(stride=STRIDE, prefetch_steps=PREFETCH),
            len(robot.joint_names),
            self._arms,
            self.watchdog,
            ready_inputs=readiness(robot),
        )
        for name in readiness(robot):
            self.watchdog.heard(name, 0.0)
        self._ingest = input_watchdog(robot)
        self._q = np.array(HOME * len(robot.arms))
        self._state: RobotState | None = None
        self._stages = _stages()
        self._next_s = 0.0
        self._move_on(0.0)
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._events = 0
        periods_s = PERIODS_S | {CAMERA + camera.name: 1.0 / camera.rate_hz for camera in robot.cameras}
        self._sources = {name: Stalls(jitter, self._rng) for name in (*periods_s, "chunk", "tick")}
        self._held = ""
        self._played = False
        self.tally = Tally()
        self.held_s: float | None = None
        for name, period_s in periods_s.items():
            self._listen(name, self._sources[name].messages(period_s, self._rng.uniform(0.0, period_s)))

    def run(self, duration_s: float) -> Tally:
        """Run for `duration_s` of simulated time, or until a true stop."""
        tick = self._sources["tick"]
        deadline = 0.5
        while deadline < duration_s and self.held_s is None:
            now = tick.delivered(deadline)
            while self._queue and self._queue[0][0] <= now:
                at, _, what = heapq.heappop(self._queue)
                what(at)
            self._tick(now)
            deadline += self._robot.period_s * max(1, int((now - deadline) / self._robot.period_s) + 1)
        return self.tally

    def _at(self, at_s: float, what: Callable[[float], None]) -> None:
        self._events += 1
        heapq.heappush(self._queue, (at_s, self._events, what))

    def _listen(self, name: str, messages: Iterator[tuple[float, float]]) -> None:
        sent, delivered = next(messages)

        def come(now: float) -> None:
            if self._silent is None or self._silent[0] != name or sent < self._silent[1]:
                self._hear(name, sent, now)
            self._listen(name, messages)

        self._at(delivered, come)

    def _hear(self, name: str, sent_s: float, now_s: float) -> None:
        stamp_ns = round(sent_s * 1e9)
        if name == JOINT_STATES:
            if self.watchdog.heard(JOINT_STATES, now_s, stamp_ns):
                self._state = RobotState(stamp_ns, self._q.copy())
        elif name == MANAGER:
            self.watchdog.heard(MANAGER, now_s)
        elif name == "wrench":
            for arm in self._robot.arms:
                self.watchdog.heard(wrench(arm), now_s, stamp_ns)
        elif name == "pose":
            for arm in self._robot.arms:
                self.watchdog.heard(pose(arm), now_s, stamp_ns)
        elif name.startswith(CAMERA):
            self._ingest.heard(name.removeprefix(CAMERA), now_s, stamp_ns)
        elif name == CAMERAS:
            if fault := self._ingest.first_fault(sent_s, apart_from=self._robot.state_topics):
                self.watchdog.refuse(CAMERAS, fault)
            else:
                self.watchdog.heard(CAMERAS, now_s)
        elif self._episode.human_in_control:
            self._core.offer_human(HumanCommand(True, np.full(14, 1e-4), now_s))

    def _tick(self, now_s: float) -> None:
        while now_s >= self._next_s:
            self._move_on(now_s)
        moving = self._episode.phase in (Phase.BASE, Phase.CRITICAL)
        if moving:
            for row in self.watchdog.table(now_s):
                if row.age_s is not None and row.name in (JOINT_STATES, MANAGER):
                    worst = self.tally.worst_age_ms
                    worst[row.name] = max(worst.get(row.name, 0.0), row.age_s * 1e3)
        tick = self._core.tick(self._state, now_s)
        if tick.joint_target is not None:
            self._q = tick.joint_target
        if tick.request is not None:
            at = self._sources["chunk"].delivered(now_s + self._rng.uniform(*INFERENCE_S))
            self._at(at, lambda now, request=tick.request: self._core.offer_chunk(self._chunk(request), now))
        if moving:
            self._count(tick.executed, now_s)

    def _count(self, executed: Executed | None, now_s: float) -> None:
        """A run of held ticks for one reason is one stop. Before the first chunk of an epoch the arms always hold."""
        self.tally.ticks += 1
        self.tally.moving_s += self._robot.period_s
        if executed is not None and executed.source != Source.HOLD:
            self._held, self._played = "", True
            return
        held = self._core.hold_reason.replace("the operator has taken over; ", "").partition(":")[0]
        held_by = CAMERAS if self._silent and self._silent[0].startswith(CAMERA) else self._silent and self._silent[0]
        if self._silent is not None and now_s > self._silent[1] and held.startswith(held_by):
            self.held_s = now_s
        if held != self._held and self._played:
            if held.startswith(NO_ROW):
                self.tally.late_chunks += 1
            else:
                self.tally.stops[held] += 1
        self._held = held

    def _move_on(self, now_s: float) -> None:
        """The manager's next state."""
        self._episode, lasts_s = next(self._stages)
        self._next_s, self._held, self._played = now_s + lasts_s, "", False
        self._core.set_episode(self._episode)

    def _chunk(self, request: Request) -> Chunk:
        """Small motions, there and back, so that an arm stays inside its limits however long the run."""
        actions = np.zeros((request.rows, 14))
        actions[:, 7] = 1e-3 * (-1.0) ** (request.first_step // request.rows)
        return Chunk(
            episode_id=request.episode_id,
            epoch=request.epoch,
            chunk_id=request.request_id,
            observation_id=1,
            observation_stamp_ns=request.not_before_ns,
            first_step=request.first_step,
            source=Source.RL,
            policy_version=1,
            actions=actions,
            reference=actions,
            arm_names=self._arms,
        )


def _stages() -> Iterator[tuple[Episode, float]]:
    """(state, s that it lasts) of one episode after the other."""
    for number, (phase, human, lasts_s) in enumerate(itertools.cycle(SCRIPT)):
        episode_id, epoch = 1 + number // len(SCRIPT), 1 + number
        yield Episode(episode_id, epoch, phase, human, ROWS, 0, NO_LIMIT, NO_LIMIT), lasts_s
