"""Messages of made-up episodes, for the recorder's and the manager's tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from rclpy.serialization import serialize_message

from rlt_common.codecs import floats, to_time
from rlt_msgs.msg import ActionChunk, ExecutedAction, Observation, VlaOutput
from rlt_teleop.episode_machine import Driver, Episode, Label, Phase, Purpose

STEP_NS = 20_000_000
START_NS = 1_000_000_000


def stamp_of(step: int) -> int:
    """Stamp in ns of the robot state of a control step."""
    return START_NS + step * STEP_NS


def running(episode_id: int = 1, phase: Phase = Phase.RESETTING, **changes) -> Episode:
    """A state of an episode of the screw task."""
    episode = Episode(
        task="screw",
        episode_id=episode_id,
        epoch=10 * episode_id + phase,
        phase=phase,
        purpose=Purpose.TRAIN,
        driver=Driver.RL if phase >= Phase.CRITICAL else Driver.VLA,
        critical_driver=Driver.RL,
        explore=True,
        seed=17,
        handoff_step=4 if phase >= Phase.CRITICAL else 0,
    )
    return replace(episode, **changes)


def ended(
    episode_id: int = 1, label: Label = Label.SUCCESS, phase: Phase = Phase.LABELLED, **changes: object
) -> Episode:
    """The state that ends an episode; its label is not confirmed unless `changes` say so."""
    return running(episode_id, phase, label=label, reason="button", **changes)


def state_cdr(episode: Episode, stamp_ns: int = 0) -> bytes:
    message = episode.to_msg()
    message.header.stamp = to_time(stamp_ns)
    return serialize_message(message)


def executed(step: int, episode_id: int = 1, phase: Phase = Phase.CRITICAL) -> ExecutedAction:
    message = ExecutedAction(episode_id=episode_id, step=step, phase=int(phase), source=ExecutedAction.SOURCE_RL)
    message.header.stamp = to_time(stamp_of(step))
    message.action = floats(np.full(14, step * 1e-4))
    return message


def observation(step: int) -> Observation:
    message = Observation(observation_id=stamp_of(step))
    message.header.stamp = to_time(stamp_of(step))
    message.proprioception = floats(np.arange(12) + step)
    return message


def vla_output(step: int, episode_id: int = 1) -> VlaOutput:
    message = VlaOutput(observation_id=stamp_of(step), episode_id=episode_id, vla_hash="0123456789abcdef")
    message.header.stamp = to_time(stamp_of(step))
    return message


def chunk(step: int, episode_id: int = 1) -> ActionChunk:
    message = ActionChunk(episode_id=episode_id, boundary_step=step)
    message.header.stamp = to_time(stamp_of(step))
    return message
