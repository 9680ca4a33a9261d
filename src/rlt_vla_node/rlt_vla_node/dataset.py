"""Demonstrations (episode files) and pre-training images as arrays.

An observation belongs to the first control step executed at or after its stamp. Its action chunk is what was executed
from that step on; beyond the end of the episode it is padded with zeros, which for delta actions means "hold". A step
in which a human repositioned the arms is no demonstration: no chunk holds one, and no observation of one is used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from rlt_common import topics
from rlt_common.codecs import CodecError, ObservationData, observation_from_msg, stamp_ns, vector
from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.episode_file import EpisodeFileError, read_messages
from rlt_common.reading import check_size
from rlt_common.relabels import episode_facts
from rlt_msgs.msg import EpisodeState, ExecutedAction, Observation

SUCCESS = "success"
MAX_POSES_BYTES = 16 * 1024**3
SPREAD_FLOOR = 0.012
"""Smallest spread of an action dimension, as a share of its limit per control step."""
ARM_POSE_FLOOR = (0.002, 0.002, 0.002, 0.02, 0.02, 0.02)
STD_FLOORS = {"joint_position": 0.02, "joint_velocity": 0.05, "joint_effort": 0.05}
"""Smallest standard deviations that proprioception is divided by, in SI units: what hardly moved in the demonstrations
must not become an input of many standard deviations when it does. ee_pose has ARM_POSE_FLOOR (m, rad) for each arm."""


class DatasetError(RuntimeError):
    """Training data that is missing or does not fit; says which file and what to do."""


@dataclass(frozen=True)
class Demonstrations:
    """N observations of E successful episodes.

    Attributes:
        images: (N, C, H, W, 3) uint8 RGB.
        blocks: name -> (N, n) float32, every proprioception block, SI units.
        actions: (N, horizon, d) float32, robot units per control step.
        target: (N, K) float32 auxiliary target in SI units, NaN where none was recorded; K = 0 when there is none.
        episode: (N,) int64, index of the episode, 0 to E - 1 in file order.
        executed: (T, d) float32, every action of the critical phases once (of all phases where none was critical).
        files: names of the E files.
    """

    images: np.ndarray
    blocks: Mapping[str, np.ndarray]
    actions: np.ndarray
    target: np.ndarray
    episode: np.ndarray
    executed: np.ndarray
    files: tuple[str, ...]

    def state(self, names: Sequence[str]) -> np.ndarray:
        """(N, S) float32: the named blocks side by side."""
        return np.concatenate([self.blocks[name] for name in names], axis=1)


@dataclass(frozen=True)
class PoseImages:
    """Images at random poses with their relative pose: what stands for a VLA's pre-training.

    images (N, C, H, W, 3) uint8, state (N, S) float32 (the task's vla_state), target (N, K) float32, SI units.
    """

    images: np.ndarray
    state: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class _Episode:
    observations: list[ObservationData]
    actions: list[np.ndarray]
    target: list[np.ndarray]
    executed: np.ndarray


def load_demonstrations(
    folder: Path | str,
    robot: RobotConfig,
    task: TaskConfig,
    frame_stride: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Demonstrations:
    """Read every successful episode file in `folder`, in name order.

    Args:
        frame_stride: an observation is used when its control step is a multiple of this.
        progress: called with (files read, files in all).

    Raises DatasetError naming the file that is torn or does not fit the robot, and when nothing is left.
    """
    paths = sorted(Path(folder).glob("*.mcap"))
    if not paths:
        raise DatasetError(f"{folder}: no episode files (*.mcap): collect demonstrations first")
    episodes, files = [], []
    for done, path in enumerate(paths, start=1):
        try:
            metadata = episode_facts(path)
            if metadata.get("label") == SUCCESS:
                episode = _read_episode(path, robot, task, frame_stride)
                if episode.observations:
                    episodes.append(episode)
                    files.append(path.name)
        except (EpisodeFileError, CodecError) as error:
            raise DatasetError(f"{path}: {error}: remove the file or record it again") from error
        progress(done, len(paths))
    if not episodes:
        raise DatasetError(f"{folder}: none of the {len(paths)} episodes is a labelled success with observations")
    return _stack(episodes, tuple(files))


def load_pose_images(path: Path | str, robot: RobotConfig, task: TaskConfig) -> PoseImages:
    """Read the pre-training images. Raises DatasetError when the file does not fit robot and task."""
    try:
        check_size(path, MAX_POSES_BYTES)
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DatasetError(f"{path}: no pre-training images: {error}") from error
    missing = [key for key in ("images", "vla_state", "target") if key not in arrays]
    if missing:
        raise DatasetError(f"{path}: has no array {missing[0]!r}")
    images, state, target = arrays["images"], arrays["vla_state"], arrays["target"]
    count = len(images)
    width = sum(robot.block_sizes[name] for name in task.vla_state)
    camera = robot.cameras[0]
    expected = (count, len(robot.cameras), camera.height, camera.width, 3)
    if images.dtype != np.uint8 or images.shape != expected:
        raise DatasetError(f"{path}: images are {images.dtype} {images.shape}, the robot's cameras give {expected}")
    if state.shape != (count, width) or target.ndim != 2 or len(target) != count or not count:
        raise DatasetError(f"{path}: vla_state {state.shape} or target {target.shape} does not fit ({count}, {width})")
    if not (np.isfinite(state).all() and np.isfinite(target).all()):
        raise DatasetError(f"{path}: vla_state or target holds a value that is not finite")
    return PoseImages(images, state.astype(np.float32), target.astype(np.float32))


def action_spread(executed: np.ndarray, step_limit: np.ndarray) -> np.ndarray:
    """(d,) float32: standard deviation of the executed actions (T, d), at least SPREAD_FLOOR of the limit per step.

    Actions are divided by it in the VLA, the actor and the critic: with one shared scale, dimensions that hardly move
    drown in noise.
    """
    return np.maximum(executed.std(axis=0), SPREAD_FLOOR * step_limit).astype(np.float32)


def block_statistics(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n,) float32 of a proprioception block (N, n), the latter with the block's floor."""
    wide = values.astype(np.float64)
    floor = np.tile(ARM_POSE_FLOOR, wide.shape[1] // 6) if name == "ee_pose" else STD_FLOORS[name]
    return wide.mean(axis=0).astype(np.float32), np.maximum(wide.std(axis=0), floor).astype(np.float32)


def executed_row(stamps: Sequence[int], stamp: int, period_ns: int) -> int | None:
    """Index of the control step that an observation belongs to: the first executed at or after its stamp (ns).

    None when that came a whole period or more later, or not at all. `stamps` (ns) are in order.
    """
    row = bisect_left(stamps, stamp)
    return row if row < len(stamps) and stamps[row] - stamp < period_ns else None


def read_joined(path: Path, period_ns: int) -> tuple[list[ExecutedAction], dict[int, Observation]]:
    """The executed actions of an episode file in order, and its observations by the index of theirs among these.

    Observations that belong to no executed action are left out; of several for one, the latest counts. Raises
    EpisodeFileError, and DatasetError for a dry run.
    """
    executed, messages = [], []
    for entry in read_messages(path, (topics.OBSERVATION, topics.EXECUTED_ACTION)):
        (messages if entry.topic == topics.OBSERVATION else executed).append(entry.message)
    refuse_dry_run(path, executed)
    executed.sort(key=lambda message: (stamp_ns(message.header.stamp), message.step))
    stamps = [stamp_ns(message.header.stamp) for message in executed]
    rows = ((executed_row(stamps, stamp_ns(message.header.stamp), period_ns), message) for message in messages)
    return executed, {row: message for row, message in rows if row is not None}


def _read_episode(path: Path, robot: RobotConfig, task: TaskConfig, frame_stride: int) -> _Episode:
    observations, executed, errors = [], [], {}
    wanted = (topics.OBSERVATION, topics.EXECUTED_ACTION, topics.SIMULATION_STATE)
    for topic, _, message, _ in read_messages(path, wanted):
        if topic == topics.OBSERVATION:
            observations.append(message)
        elif topic == topics.EXECUTED_ACTION:
            if message.phase in (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL):
                executed.append(message)
        else:
            errors[stamp_ns(message.header.stamp)] = vector(message.task_error, None, "task_error")
    refuse_dry_run(path, executed)
    executed.sort(key=lambda message: message.step)
    steps = [message.step for message in executed]
    if not executed or steps != list(range(steps[0], steps[0] + len(steps))):
        raise DatasetError(f"{path}: its executed actions have gaps: {len(steps)} of them; record the episode again")
    stamps = [stamp_ns(message.header.stamp) for message in executed]
    actions = np.stack([vector(message.action, robot.action_dim, "executed action") for message in executed])
    padded = np.concatenate([actions, np.zeros((task.horizon, robot.action_dim), np.float32)])
    period_ns = round(1e9 / robot.control_hz)
    critical = np.array([message.phase == EpisodeState.PHASE_CRITICAL for message in executed])
    moved = np.array([message.repositioning for message in executed])
    shown = critical & ~moved if (critical & ~moved).any() else ~moved
    episode = _Episode([], [], [], actions[shown])
    for message in observations:
        stamp = stamp_ns(message.header.stamp)
        row = executed_row(stamps, stamp, period_ns)
        if row is None or steps[row] % frame_stride:
            continue
        if executed[row].source == ExecutedAction.SOURCE_HOLD or moved[row : row + task.horizon].any():
            continue
        episode.observations.append(_checked(observation_from_msg(message), robot, path))
        episode.actions.append(padded[row : row + task.horizon])
        episode.target.append(errors.get(stamp, np.zeros(0, np.float32)))
    return episode


def refuse_dry_run(path: Path, executed: Sequence[ExecutedAction]) -> None:
    """Raise DatasetError when a step of it was not sent to the arms."""
    if any(message.dry_run for message in executed):
        raise DatasetError(f"{path}: is a dry run: nothing of it was sent to the arms: remove the file")


def _checked(observation: ObservationData, robot: RobotConfig, path: Path) -> ObservationData:
    camera = robot.cameras[0]
    names = tuple(c.name for c in robot.cameras)
    shape = (len(names), camera.height, camera.width, 3)
    sizes = {name: values.size for name, values in observation.blocks.items()}
    if observation.camera_names != names or observation.images.shape != shape or sizes != robot.block_sizes:
        raise DatasetError(
            f"{path}: was recorded with cameras {observation.camera_names} {observation.images.shape} and blocks "
            f"{sizes}; robot {robot.name} has {names} {shape} and {robot.block_sizes}"
        )
    return observation


def _stack(episodes: list[_Episode], files: tuple[str, ...]) -> Demonstrations:
    frames = [observation for episode in episodes for observation in episode.observations]
    width = max(values.size for episode in episodes for values in episode.target)
    target = np.full((len(frames), width), np.nan, np.float32)
    for row, values in enumerate(values for episode in episodes for values in episode.target):
        if values.size == width:
            target[row] = values
    images = np.empty((len(frames), *frames[0].images.shape), np.uint8)
    for row, frame in enumerate(frames):
        images[row] = frame.images
    return Demonstrations(
        images=images,
        blocks={name: np.stack([frame.blocks[name] for frame in frames]) for name in frames[0].blocks},
        actions=np.stack([chunk for episode in episodes for chunk in episode.actions]),
        target=target,
        episode=np.repeat(np.arange(len(episodes)), [len(episode.observations) for episode in episodes]),
        executed=np.concatenate([episode.executed for episode in episodes]),
        files=files,
    )
