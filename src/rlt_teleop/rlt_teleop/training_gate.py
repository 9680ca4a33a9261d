"""Whether an episode may start now, with which driver and which actor version. Pure.

In lockstep a run is deterministic only when every training episode was taken in, and its updates were done, before the
next one starts with a named actor version. In real time nothing waits and the newest actor drives.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlt_teleop.episode_machine import Driver, Purpose


@dataclass(frozen=True)
class Training:
    """The learner's word: the fields of rlt_msgs/TrainingStatus that matter here."""

    ready: bool
    busy: bool
    last_episode_id: int
    actor_version: int
    message: str = ""


@dataclass(frozen=True)
class Wait:
    """Not yet."""

    reason: str


@dataclass(frozen=True)
class Refuse:
    """Not at all."""

    reason: str


@dataclass(frozen=True)
class Go:
    """Start, with this driver of the critical phase; `actor_version` 0 is the newest."""

    driver: Driver
    actor_version: int


def decide(
    purpose: Purpose, driver: Driver, training: Training | None, lockstep: bool, trained_episode: int
) -> Go | Wait | Refuse:
    """May an episode start?

    Args:
        purpose, driver: as asked for; `driver` is the one of the critical phase.
        training: newest training status, None before the first.
        lockstep: time stands still while nothing moves.
        trained_episode: the newest ended training episode that the learner takes in; 0: none.
    """
    if lockstep and trained_episode and not taken_in(training, trained_episode):
        said = training.message if training and training.message else "no word of it yet"
        return Wait(f"the learner has not finished with episode {trained_episode}: {said}")
    needs_learner = driver == Driver.RL or (lockstep and purpose == Purpose.TRAIN)
    if training is None:
        return Wait("no training_status yet: is the learner running?") if needs_learner else Go(driver, 0)
    if lockstep and needs_learner and training.busy:
        return Wait(f"the learner is busy: {training.message}")
    if driver == Driver.RL and not training.ready:
        if purpose != Purpose.TRAIN:
            why = f" ({training.message})" if training.message else ""
            return Refuse(
                f"RL cannot drive an episode to {purpose.name.lower()}: the actor is not ready{why}: train first, load "
                "a checkpoint, or choose the VLA (mode:=eval driver:=vla)"
            )
        driver = Driver.VLA
    return Go(driver, training.actor_version if lockstep and needs_learner else 0)


def taken_in(training: Training | None, episode_id: int) -> bool:
    """Whether the learner has taken the episode in and owes no updates."""
    return training is not None and training.last_episode_id >= episode_id and not training.busy
