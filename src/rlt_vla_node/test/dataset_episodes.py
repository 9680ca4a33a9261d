"""Episode files as the recorder writes them, with joint targets and image skew, and with whatever may go wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message

from rlt_common import topics
from rlt_common.codecs import ObservationData, doubles, floats, observation_to_msg, to_time
from rlt_common.config import RobotConfig
from rlt_common.episode_file import EpisodeWriter
from rlt_msgs.msg import EpisodeState, ExecutedAction, SimulationState

PERIOD_NS = 20_000_000
SKEW_S = (-0.004, 0.001)


@dataclass
class Recorded:
    """What was written: the observation and the message of each step that was."""

    observations: dict[int, ObservationData] = field(default_factory=dict)
    executed: dict[int, ExecutedAction] = field(default_factory=dict)

    def seen(self, step: int) -> ObservationData:
        """The newest observation at a step."""
        return self.observations[max(s for s in self.observations if s <= step)]

    def actions(self, steps: Collection[int]) -> np.ndarray:
        """(T, d) executed actions."""
        return np.stack([np.frombuffer(self.executed[s].action, np.float32) for s in steps])

    def targets(self, steps: Collection[int]) -> np.ndarray:
        """(T, J) joint targets."""
        return np.array([self.executed[s].joint_target for s in steps])


def moving_images(seed: int, step: int, height: int = 16, width: int = 16) -> np.ndarray:
    """(2, H, W, 3) of a smooth picture in muted colours that moves: what a codec is made for."""
    y, x = np.mgrid[0:height, 0:width].astype(float) / max(height, width)
    phase = 0.05 * step + seed
    grey = 90 * np.sin(2 * np.pi * (x + 0.5 * y) + phase)
    tints = [20 * np.sin(2 * np.pi * 0.3 * k * x + phase + k) for k in range(3)]
    image = (127.5 + np.stack([grey + tint for tint in tints], axis=-1)).round().astype(np.uint8)
    return np.stack([image, image[:, ::-1]])


def record(
    path: Path,
    robot: RobotConfig,
    seed: int,
    steps: int = 20,
    label: str = "success",
    stride: int = 2,
    holds: Collection[int] = (),
    missing: Collection[int] = (),
    unobserved: Collection[int] = (),
    repositioning: Collection[int] = (),
    dry_run: Collection[int] = (),
    late: Collection[int] = (),
    vla: Collection[int] = (),
    joint_targets: bool = True,
    targets: bool = False,
    handoff_step: int = 4,
    images: Callable[[int, int], np.ndarray] = moving_images,
) -> Recorded:
    """Write an episode of made-up motion.

    Args:
        holds, vla: steps in which the arms held or the VLA drove; a human drives in all others.
        missing: steps that are not in the file.
        unobserved: steps without an observation, where there would be one.
        late: steps whose stamp, like all later ones, comes three periods later than it should.
        targets: the simulator's auxiliary targets are recorded too.
    """
    rng = np.random.default_rng(seed)
    recorded, writer = Recorded(), EpisodeWriter(path)
    joints = rng.normal(0.0, 0.2, len(robot.joint_names))
    for step in range(steps):
        stamp = seed * 1_000_000_000_000 + (step + 3 * sum(s <= step for s in late)) * PERIOD_NS
        action = np.zeros(robot.action_dim) if step in holds else rng.normal(0.0, 0.001, robot.action_dim)
        joints = joints + rng.normal(0.0, 0.01, joints.size)
        if step % stride == 0 and step not in unobserved:
            blocks = {n: rng.normal(0.0, 0.1, size).astype(np.float32) for n, size in robot.block_sizes.items()}
            seen = ObservationData(stamp, stamp, ("base", "wrist"), images(seed, step), blocks)
            recorded.observations[step] = seen
            _write(writer, topics.OBSERVATION, observation_to_msg(seen, ["png", "png"], SKEW_S), stamp)
            if targets:
                state = SimulationState(step=step, task_error=floats(rng.normal(0.0, 0.01, 6)))
                state.header.stamp = to_time(stamp)
                _write(writer, topics.SIMULATION_STATE, state, stamp)
        executed = ExecutedAction(
            episode_id=seed,
            step=step,
            phase=EpisodeState.PHASE_BASE if step < handoff_step else EpisodeState.PHASE_CRITICAL,
            source=_source(step, holds, vla),
            action=floats(action),
            joint_names=list(robot.joint_names),
            joint_target=doubles(joints if joint_targets else []),
            repositioning=step in repositioning,
            dry_run=step in dry_run,
        )
        executed.header.stamp = to_time(stamp)
        if step not in missing:
            recorded.executed[step] = executed
            _write(writer, topics.EXECUTED_ACTION, executed, stamp)
    writer.finish({"task": "tiny_task", "label": label, "episode_id": seed, "purpose": "collect", "steps": steps})
    return recorded


def _source(step: int, holds: Collection[int], vla: Collection[int]) -> int:
    if step in holds:
        return ExecutedAction.SOURCE_HOLD
    return ExecutedAction.SOURCE_VLA if step in vla else ExecutedAction.SOURCE_HUMAN


def _write(writer: EpisodeWriter, topic: str, message: Any, stamp: int) -> None:
    writer.write(topic, f"rlt_msgs/msg/{type(message).__name__}", serialize_message(message), stamp)


VLA_FILE = """\
backend: lerobot
source: policy
control_hz: 50.0
state: [left.joints, left.gripper, right.joints, right.gripper, zeros.2]
actions: [left.joints, left.gripper, right.position, right.rotation_6d_rows, right.gripper]
action_kind: absolute
cameras: {top: base, hand: wrist}
gripper: {scale: 20.0, offset: 0.1}
instruction: do the policy's task
"""
