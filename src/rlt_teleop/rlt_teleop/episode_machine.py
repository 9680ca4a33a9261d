"""The phases of an episode. Pure: no ROS clock, no waiting; every command either moves the state on or is refused.

IDLE -> RESETTING -> BASE -> CRITICAL -> LABELLED -> IDLE. `start_in: critical` skips BASE (the first curriculum stage,
Sec. V). A human overlays BASE and CRITICAL. The emergency stop leads to ESTOP from anywhere and ends a running episode
as a discard; only :meth:`EpisodeMachine.reset_estop` leaves it, to IDLE, and a new start is needed to move again.

A label counts once the episode's file is durable (:meth:`EpisodeMachine.confirm`); an episode of which no whole file
came is a discard, whatever it was labelled (:meth:`EpisodeMachine.lose`).

The epoch rises whenever chunks in flight become stale: start, hand-off, intervention start and stop, end. An ended
episode keeps its id and label in the state until the next one starts, so a late reader still learns how it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_msgs.msg import EpisodeState

_T = TypeVar("_T")


class Phase(IntEnum):
    """EpisodeState.PHASE_*."""

    IDLE = EpisodeState.PHASE_IDLE
    RESETTING = EpisodeState.PHASE_RESETTING
    BASE = EpisodeState.PHASE_BASE
    CRITICAL = EpisodeState.PHASE_CRITICAL
    LABELLED = EpisodeState.PHASE_LABELLED
    ESTOP = EpisodeState.PHASE_ESTOP


class Purpose(IntEnum):
    """EpisodeState.PURPOSE_*."""

    COLLECT = EpisodeState.PURPOSE_COLLECT
    TRAIN = EpisodeState.PURPOSE_TRAIN
    EVALUATE = EpisodeState.PURPOSE_EVALUATE
    DEPLOY = EpisodeState.PURPOSE_DEPLOY


class Driver(IntEnum):
    """EpisodeState.DRIVER_*."""

    VLA = EpisodeState.DRIVER_VLA
    RL = EpisodeState.DRIVER_RL
    HUMAN = EpisodeState.DRIVER_HUMAN


class Label(IntEnum):
    """EpisodeState.LABEL_*."""

    NONE = EpisodeState.LABEL_NONE
    SUCCESS = EpisodeState.LABEL_SUCCESS
    FAILURE = EpisodeState.LABEL_FAILURE
    TIMEOUT = EpisodeState.LABEL_TIMEOUT
    DISCARD = EpisodeState.LABEL_DISCARD


class Confirmation(IntEnum):
    """EpisodeState.CONFIRMATION_*."""

    PENDING = EpisodeState.CONFIRMATION_PENDING
    DONE = EpisodeState.CONFIRMATION_DONE
    LOST = EpisodeState.CONFIRMATION_LOST


COUNT_OF = {
    Label.SUCCESS: "successes",
    Label.FAILURE: "failures",
    Label.TIMEOUT: "timeouts",
    Label.DISCARD: "discards",
}
"""The field of :class:`Episode` that counts the confirmed episodes of a label."""
COUNTS = ("episodes", *COUNT_OF.values(), "interventions")
MOVING = frozenset({Phase.BASE, Phase.CRITICAL})
RUNNING = frozenset({Phase.RESETTING, Phase.BASE, Phase.CRITICAL})
HIGHEST_EPOCH = 2**31
"""No run gets there: who speaks of more is not believed."""
OPERATOR_LABELS = frozenset({Label.SUCCESS, Label.FAILURE, Label.DISCARD})


class CommandRefused(RuntimeError):
    """A command that does not fit the phase; says why and what to do."""


@dataclass(frozen=True)
class EpisodeSpec:
    """What an episode is to be. Steps are control steps; `driver` is the one of the critical phase."""

    purpose: Purpose
    driver: Driver
    explore: bool
    start_in: str
    seed: int
    execute_steps: int
    max_base_steps: int
    max_critical_steps: int
    actor_version: int = 0


@dataclass(frozen=True)
class Episode:
    """The state that everybody is told: the fields of rlt_msgs/EpisodeState."""

    task: str
    episode_id: int = 0
    epoch: int = 0
    phase: Phase = Phase.IDLE
    purpose: Purpose = Purpose.COLLECT
    driver: Driver = Driver.VLA
    human_in_control: bool = False
    explore: bool = False
    start_in: str = "full"
    seed: int = 0
    execute_steps: int = 0
    max_base_steps: int = 0
    max_critical_steps: int = 0
    handoff_step: int = 0
    actor_version: int = 0
    label: Label = Label.NONE
    episodes: int = 0
    successes: int = 0
    reason: str = "no episode yet"
    relabelling: int = 0
    waiting_for: str = ""
    reminders: int = 0
    confirmation: Confirmation = Confirmation.PENDING
    failures: int = 0
    timeouts: int = 0
    discards: int = 0
    interventions: int = 0
    critical_driver: Driver = Driver.VLA

    @classmethod
    def from_msg(cls, message: EpisodeState) -> Episode:
        """The state in a message. Raises ValueError for an id or a number of a phase, label, ... that cannot be."""
        if message.episode_id > HIGHEST_EPISODE_ID or message.epoch > HIGHEST_EPOCH:
            raise ValueError(f"there is no episode {message.episode_id}, epoch {message.epoch}")
        values = {name: getattr(message, name) for name in cls.__dataclass_fields__}
        kinds = {"phase": Phase, "purpose": Purpose, "label": Label, "confirmation": Confirmation}
        values.update({name: kind(values[name]) for name, kind in kinds.items()})
        values["driver"] = Driver(values["driver"] or Driver.VLA)
        values["critical_driver"] = Driver(values["critical_driver"] or values["driver"])
        return cls(**values)

    def to_msg(self) -> EpisodeState:
        """As a message, without a stamp."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return EpisodeState(**{k: int(v) if isinstance(v, IntEnum) else v for k, v in values.items()})


class EpisodeMachine:
    """Holds the state and applies commands to it. Every refused command raises CommandRefused and changes nothing.

    Args:
        task: task name.
        last_episode_id: newest id in use; the next episode gets the one after it.
        counts: of the run so far, by the names in :data:`COUNTS`; those left out are 0.
    """

    def __init__(self, task: str, last_episode_id: int = 0, counts: Mapping[str, int] | None = None) -> None:
        self._next_id = last_episode_id + 1
        self._taken_over = False
        self._held = False
        self._pending: dict[int, tuple[Label, bool]] = {}  # ended, not confirmed: label, whether a human took over
        self._lost: dict[int, bool] = {}  # whether a human took over
        # The next id, not the last: an executor that still plays the last episode takes nothing older for news.
        shown = self._next_id if last_episode_id else 0
        self.episode = Episode(task=task, episode_id=shown, **dict(counts or {}))

    @property
    def pending(self) -> tuple[int, ...]:
        """Ids of ended episodes of which nobody has said yet whether their files are durable."""
        return tuple(self._pending)

    def check_start(self) -> None:
        """Raise CommandRefused unless an episode may start."""
        self._require("start an episode", Phase.IDLE)

    def start(self, spec: EpisodeSpec) -> None:
        """Begin an episode: the scene is to be reset."""
        self.check_start()
        episode = self.episode
        self._taken_over = False
        self.episode = Episode(
            task=episode.task,
            episode_id=self._next_id,
            epoch=episode.epoch + 1,
            phase=Phase.RESETTING,
            purpose=spec.purpose,
            driver=Driver.HUMAN if spec.driver == Driver.HUMAN else Driver.VLA,
            critical_driver=spec.driver,
            explore=spec.explore,
            start_in=spec.start_in,
            seed=spec.seed,
            execute_steps=spec.execute_steps,
            max_base_steps=spec.max_base_steps,
            max_critical_steps=spec.max_critical_steps,
            actor_version=spec.actor_version,
            **{name: getattr(episode, name) for name in COUNTS},
            reason="waiting for the scene to be reset",
        )
        self._next_id += 1

    def scene_ready(self) -> None:
        """The scene is reset: the arms may move. Who holds the take-over button already has control at once."""
        self._require("begin to move", Phase.RESETTING)
        critical = self.episode.start_in == "critical"
        driver = self.episode.critical_driver
        held = self._held and driver != Driver.HUMAN
        self._taken_over = held
        self.episode = replace(
            self.episode,
            phase=Phase.CRITICAL if critical else Phase.BASE,
            driver=driver if critical else self.episode.driver,
            human_in_control=held or driver == Driver.HUMAN,
            relabelling=0,
            reason="the scene is reset" + ("; a human holds the take-over button" if held else ""),
        )

    def hand_off(self, step: int, reason: str = "hand-off", epoch: int = 0) -> None:
        """The critical phase begins at control step `step`; `epoch`, unless 0, is the one it was decided in."""
        self._require("hand off", Phase.BASE)
        if epoch not in (0, self.episode.epoch):
            raise CommandRefused(f"cannot hand off: decided in epoch {epoch}, it is {self.episode.epoch}")
        driver = self.episode.critical_driver
        self._move_on(phase=Phase.CRITICAL, driver=driver, handoff_step=step, reason=reason)

    def correct_handoff(self, step: int) -> bool:
        """Set the step at which the executor really entered CRITICAL. True when that changed the state."""
        self._require("set the hand-off step", Phase.CRITICAL)
        changed = step != self.episode.handoff_step
        self.episode = replace(self.episode, handoff_step=step)
        return changed

    def intervene(self) -> None:
        """A human takes over. Refused while nothing moves, but remembered until :meth:`release`."""
        self._held = True
        self._require("take over", *MOVING)
        if self.episode.human_in_control:
            raise CommandRefused("a human is in control already")
        self._taken_over = True
        self._move_on(human_in_control=True, reason="a human took over")

    def release(self) -> None:
        """The human gives back to VLA or RL."""
        self._held = False
        self._require("give control back", *MOVING)
        if not self.episode.human_in_control:
            raise CommandRefused("no human is in control")
        if self.episode.critical_driver == Driver.HUMAN:
            raise CommandRefused("a human drives this whole episode; end it with a label")
        self._move_on(human_in_control=False, reason="the human gave back")

    def label(self, label: Label, reason: str) -> None:
        """End the running episode as the operator says: success, failure or discard."""
        if label not in OPERATOR_LABELS:
            raise CommandRefused(f"label {int(label)} cannot be given: choose success, failure or discard")
        if self.episode.phase == Phase.LABELLED:
            raise CommandRefused(
                f"episode {self.episode.episode_id} has its label already ({self.episode.label.name}); "
                "relabel it by its id once it is IDLE"
            )
        self._require(f"label {label.name}", *(RUNNING if label == Label.DISCARD else MOVING))
        self._end(label, reason)

    def time_out(self) -> None:
        """The executor reached the phase's step limit."""
        self._require("time out", *MOVING)
        self._end(Label.TIMEOUT, f"time-out of {self.episode.phase.name}")

    def confirm(self, episode_id: int) -> None:
        """The ended episode's file is durable, or nothing is recorded: its label counts."""
        label, taken_over = self._settle(self._pending, episode_id)
        self._count(label, taken_over)
        if episode_id == self.episode.episode_id:
            self.episode = replace(self.episode, confirmation=Confirmation.DONE)

    def lose(self, episode_id: int, reason: str) -> None:
        """No whole file came of the ended episode: it is a discard, whatever it was labelled, and counts nowhere."""
        label, self._lost[episode_id] = self._settle(self._pending, episode_id)
        if episode_id != self.episode.episode_id:
            return
        was = "" if label == Label.DISCARD else f", labelled {label.name.lower()},"
        changes: dict[str, object] = {"label": Label.DISCARD, "confirmation": Confirmation.LOST}
        if self.episode.phase != Phase.ESTOP:
            changes |= {"phase": Phase.IDLE, "reason": f"episode {episode_id}{was} is lost, a discard: {reason}"}
        self.episode = replace(self.episode, **changes)

    def is_lost(self, episode_id: int) -> bool:
        """Whether the episode was given up by :meth:`lose`."""
        return episode_id in self._lost

    def found(self, episode_id: int) -> None:
        """The file of a lost episode is durable after all: it counts, as the discard that everybody was told."""
        self._count(Label.DISCARD, self._settle(self._lost, episode_id))
        if episode_id == self.episode.episode_id:
            self.episode = replace(self.episode, confirmation=Confirmation.DONE)

    def count_more(self, more: Mapping[str, int]) -> None:
        """Episodes count that this machine did not see end: by the names in :data:`COUNTS`."""
        self.episode = replace(self.episode, **{name: getattr(self.episode, name) + by for name, by in more.items()})

    def close(self, reason: str) -> None:
        """Whatever had to be waited for after the label is done."""
        self._require("close the episode", Phase.LABELLED)
        self.episode = replace(self.episode, phase=Phase.IDLE, reason=reason)

    def estop(self, reason: str) -> None:
        """Emergency stop. A running episode ends as a discard. A second stop changes nothing."""
        if self.episode.phase == Phase.ESTOP:
            return
        if self.episode.phase in RUNNING:
            self._end(Label.DISCARD, reason)
        self._move_on(phase=Phase.ESTOP, reason=reason)

    def reset_estop(self) -> None:
        """Leave ESTOP: to IDLE, never back into the episode."""
        self._require("reset the emergency stop", Phase.ESTOP)
        self.episode = replace(self.episode, phase=Phase.IDLE, reason="the emergency stop was reset: start an episode")

    def check_pick(self) -> None:
        """Raise CommandRefused unless an ended episode may be picked: nothing moves, and nothing is being closed."""
        self._require("take a label back", Phase.IDLE, Phase.RESETTING)

    def pick(self, episode_id: int, reason: str) -> None:
        """The next label goes to this ended episode (0: to none); any motion drops the pick."""
        self.check_pick()
        self.episode = replace(self.episode, relabelling=episode_id, reason=reason)

    def check_relabel(self, episode_id: int) -> None:
        """Raise CommandRefused for an episode that has not ended: that one is labelled, not relabelled."""
        episode = self.episode
        if episode_id == episode.episode_id and episode.phase in (*RUNNING, Phase.LABELLED):
            raise CommandRefused(f"episode {episode_id} has not ended yet: label it, or wait until it is confirmed")
        if episode_id in self._pending:
            raise CommandRefused(f"episode {episode_id} is not confirmed yet: wait until its file is durable")

    def relabelled(self, episode_id: int, before: Label, label: Label, reason: str) -> None:
        """An ended episode has another label now."""
        episode = self.episode
        own = episode_id == episode.episode_id and episode.phase in (Phase.IDLE, Phase.ESTOP)
        counts = {name: getattr(episode, name) for name in COUNTS}
        if before in COUNT_OF:
            counts[COUNT_OF[before]] = max(0, counts[COUNT_OF[before]] - 1)
            counts[COUNT_OF[label]] += 1
        self.episode = replace(episode, label=label if own else episode.label, relabelling=0, reason=reason, **counts)

    def show_wait(self, waiting_for: str, reminders: int) -> None:
        """What the operator is waited for, and how often that was said."""
        self.episode = replace(self.episode, waiting_for=waiting_for, reminders=reminders)

    def overtake(self, episode_id: int, epoch: int) -> bool:
        """Go past an episode that the executor knows of and this machine does not, while nothing runs.

        Returns True when the state changed. Otherwise the executor would take this machine's word for old news.
        """
        episode = self.episode
        if episode.phase != Phase.IDLE or (episode_id, epoch) <= (episode.episode_id, episode.epoch):
            return False
        if episode_id > HIGHEST_EPISODE_ID or epoch > HIGHEST_EPOCH:
            return False
        self._next_id = max(self._next_id, episode_id + 1)
        self.episode = replace(
            episode,
            episode_id=self._next_id,
            epoch=max(epoch, episode.epoch),
            label=Label.NONE,
            confirmation=Confirmation.PENDING,
            reason="restarted",
        )
        return True

    def _end(self, label: Label, reason: str) -> None:
        self._pending[self.episode.episode_id] = (label, self._taken_over)
        self._move_on(phase=Phase.LABELLED, label=label, human_in_control=False, reason=reason)

    def _settle(self, waiting: dict[int, _T], episode_id: int) -> _T:
        if episode_id not in waiting:
            raise CommandRefused(f"cannot settle episode {episode_id}: it does not wait for its file")
        return waiting.pop(episode_id)

    def _count(self, label: Label, taken_over: bool) -> None:
        self.count_more({"episodes": 1, COUNT_OF[label]: 1, "interventions": int(taken_over)})

    def _move_on(self, **changes: object) -> None:
        self.episode = replace(self.episode, epoch=self.episode.epoch + 1, relabelling=0, **changes)

    def _require(self, what: str, *phases: Phase) -> None:
        phase = self.episode.phase
        if phase in phases:
            return
        hint = {
            Phase.IDLE: "start an episode first",
            Phase.RESETTING: "wait for the reset, or discard",
            Phase.LABELLED: "wait until the episode is confirmed",
            Phase.ESTOP: "reset the emergency stop first",
        }.get(phase, f"episode {self.episode.episode_id} is running: label or discard it first")
        raise CommandRefused(f"cannot {what} in {phase.name}: {hint}")
