"""An episode file as frames at the control rate, with what is missing in it counted.

A frame is a control step. What was seen in it is the newest observation whose stamp is not later than the step's: the
value that was there when the action was taken. How old it is goes with it. Nothing is filled: where steps are missing,
or the newest observation is too old, the frames fall apart into segments.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rlt_common import topics
from rlt_common.codecs import observation_from_msg, stamp_ns, vector
from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.episode_file import read_messages
from rlt_msgs.msg import EpisodeState, ExecutedAction, Observation
from rlt_vla_node.dataset import DatasetError, refuse_dry_run

LATE_PERIODS = 2.0
"""Steps further apart than so many control periods have at least one tick missing between them."""
AGE_POINTS = (50.0, 99.0, 100.0)
"""Percentiles of the image ages that are reported: median, p99, largest."""


@dataclass(frozen=True)
class FrameRules:
    """What counts as a frame.

    Attributes:
        period_ns: control period.
        stride: control steps between observations.
        max_age_ns: a step whose newest observation is older is no frame.
        keep_repositioning: steps in which a human repositioned the arms are frames too.
    """

    period_ns: int
    stride: int
    max_age_ns: int
    keep_repositioning: bool = False


def frame_rules(
    robot: RobotConfig, task: TaskConfig, max_age_s: float | None = None, keep_repositioning: bool = False
) -> FrameRules:
    """Rules for a robot and task; by default one observation may be missing in a row."""
    period_ns = round(1e9 * robot.period_s)
    age_ns = 2 * task.stride * period_ns if max_age_s is None else round(1e9 * max_age_s)
    return FrameRules(period_ns, task.stride, age_ns, keep_repositioning)


@dataclass(frozen=True)
class Findings:
    """What an episode holds and lacks.

    Attributes:
        steps: control steps recorded.
        holds: of these, in which the arms held.
        human: of these, in which a human drove.
        repositioning: of these, in which a human repositioned the arms.
        unseen: steps before the first observation: left out.
        missing_steps: numbers of steps that were not recorded.
        late_ticks: times that ticks are missing between two steps whose numbers follow each other.
        stale: steps whose newest observation was too old.
        observation_steps: control steps from one observation to the next, median.
        dropped_observations: observations that this spacing would have given and that are not there.
        age_s: camera -> median, p99 and largest age of its image in a frame, s.
    """

    steps: int
    holds: int
    human: int
    repositioning: int
    unseen: int
    missing_steps: int
    late_ticks: int
    stale: int
    observation_steps: float
    dropped_observations: int
    age_s: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def gaps(self) -> str:
        """What tears the episode apart, in words; empty when nothing does."""
        counts = (
            (self.missing_steps, "steps were not recorded"),
            (self.late_ticks, "times ticks are missing between two steps"),
            (self.stale, "steps saw no observation that is new enough"),
        )
        return ", ".join(f"{count} {words}" for count, words in counts if count)


@dataclass(frozen=True)
class EpisodeFrames:
    """An episode of T control steps.

    Attributes:
        path: its file.
        executed: T messages in the order of their steps.
        observations: its observations in the order of their stamps.
        seen: (T,) index of each step's observation, -1: none yet.
        age_s: (T, C) float32, s from each camera's image to the step; NaN where none was seen.
        targets: stamp of an observation in ns -> its auxiliary target, where one was recorded.
        segments: the frames, cut wherever they do not follow each other: ranges of steps' places in `executed`.
        findings: what was found.
    """

    path: Path
    executed: Sequence[ExecutedAction]
    observations: Sequence[Observation]
    seen: np.ndarray
    age_s: np.ndarray
    targets: Mapping[int, np.ndarray]
    segments: tuple[range, ...]
    findings: Findings

    def images(self, places: Iterable[int]) -> Iterator[np.ndarray]:
        """Of each step at these places what was seen in it, (C, H, W, 3) uint8 RGB. Raises CodecError."""
        last, images = -1, np.zeros(0)
        for place in places:
            if self.seen[place] != last:
                last = int(self.seen[place])
                images = observation_from_msg(self.observations[last]).images
            yield images


def read_frames(path: Path | str, robot: RobotConfig, rules: FrameRules) -> EpisodeFrames:
    """Read an episode file. Raises EpisodeFileError, CodecError, and DatasetError for a dry run or for steps that
    contradict each other."""
    path = Path(path)
    executed, observations, targets = [], [], {}
    wanted = (topics.OBSERVATION, topics.EXECUTED_ACTION, topics.SIMULATION_STATE)
    for topic, _, message, _ in read_messages(path, wanted):
        if topic == topics.OBSERVATION:
            observations.append(message)
        elif topic == topics.EXECUTED_ACTION:
            executed.append(message)
        else:
            targets[stamp_ns(message.header.stamp)] = vector(message.task_error, None, "task_error")
    refuse_dry_run(path, executed)
    driven = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)
    executed = sorted((m for m in executed if m.phase in driven), key=lambda message: message.step)
    observations.sort(key=lambda message: stamp_ns(message.header.stamp))
    if not executed or not observations:
        raise DatasetError(f"{path}: has {len(executed)} control steps and {len(observations)} observations")
    steps = np.array([message.step for message in executed], np.int64)
    stamps = np.array([stamp_ns(message.header.stamp) for message in executed], np.int64)
    if (np.diff(steps) < 1).any() or (np.diff(stamps) <= 0).any():
        raise DatasetError(f"{path}: a control step is in it twice, or stamps run backwards: it is no recording of one")
    cameras = tuple(camera.name for camera in robot.cameras)
    for message in observations:
        if tuple(message.camera_names) != cameras or len(message.image_skew_s) != len(cameras):
            raise DatasetError(
                f"{path}: was recorded with cameras {list(message.camera_names)}; robot {robot.name} has "
                f"{list(cameras)}"
            )
    seen_stamps = [stamp_ns(message.header.stamp) for message in observations]
    seen = np.array([bisect_right(seen_stamps, stamp) - 1 for stamp in stamps.tolist()])
    skew = np.array([message.image_skew_s for message in observations], np.float64)
    since = (stamps - np.array(seen_stamps, np.int64)[seen]) / 1e9
    age_s = np.where(seen[:, None] >= 0, since[:, None] - skew[seen], np.nan).astype(np.float32)
    frames, findings, segments = _judge(executed, steps, stamps, seen, seen_stamps, rules)
    ages = {
        camera: tuple(float(value) for value in np.percentile(age_s[frames, i], AGE_POINTS)) if frames.any() else ()
        for i, camera in enumerate(cameras)
    }
    return EpisodeFrames(path, executed, observations, seen, age_s, targets, segments, Findings(**findings, age_s=ages))


def _judge(
    executed: Sequence[ExecutedAction],
    steps: np.ndarray,
    stamps: np.ndarray,
    seen: np.ndarray,
    seen_stamps: Sequence[int],
    rules: FrameRules,
) -> tuple[np.ndarray, dict[str, float], tuple[range, ...]]:
    """Which steps are frames (T,), the counts, and the segments."""
    unseen = seen < 0
    observed = np.array(seen_stamps, np.int64)
    stale = ~unseen & (stamps - observed[seen] > rules.max_age_ns)
    moved = np.array([message.repositioning for message in executed])
    sources = np.array([message.source for message in executed])
    late = (np.diff(steps) == 1) & (np.diff(stamps) >= LATE_PERIODS * rules.period_ns)
    frames = ~unseen & ~stale & (rules.keep_repositioning | ~moved)
    follows = np.concatenate([[False], (np.diff(steps) == 1) & ~late & frames[:-1]]) & frames
    begins = np.flatnonzero(frames & ~follows)
    ends = np.flatnonzero(frames & ~np.append(follows[1:], False)) + 1
    between = np.diff(observed[(observed >= stamps[0]) & (observed <= stamps[-1])])
    spacing = max(float(np.median(between)) if len(between) else 0.0, rules.period_ns)
    apart = np.maximum(np.rint(between / spacing) - 1, 0)
    counts = {
        "steps": len(steps),
        "holds": int((sources == ExecutedAction.SOURCE_HOLD).sum()),
        "human": int((sources == ExecutedAction.SOURCE_HUMAN).sum()),
        "repositioning": int(moved.sum()),
        "unseen": int(unseen.sum()),
        "missing_steps": int((np.diff(steps) - 1).sum()),
        "late_ticks": int(late.sum()),
        "stale": int(stale.sum()),
        "observation_steps": round(spacing / rules.period_ns, 2),
        "dropped_observations": int(apart.sum()),
    }
    return frames, counts, tuple(range(int(a), int(b)) for a, b in zip(begins, ends, strict=True))
