"""Episode files to one data set in LeRobot's layout, and the report of what was found in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlt_common import topics
from rlt_common.atomic import sha256_hex, write_atomic
from rlt_common.codecs import CodecError
from rlt_common.config import RobotConfig, TaskConfig, config_hash
from rlt_common.episode_file import EpisodeFileError, read_messages
from rlt_common.reading import read_limited
from rlt_common.relabels import RECORDED_LABEL, episode_facts
from rlt_common.vla_config import VlaConfig
from rlt_vla_node.dataset import SUCCESS, DatasetError
from rlt_vla_node.demonstration_encoding import MAX_EPISODE_BYTES
from rlt_vla_node.episode_frames import AGE_POINTS, FrameRules, read_frames
from rlt_vla_node.lerobot_columns import IMAGES, PHASES, SOURCES, Columns
from rlt_vla_node.lerobot_writer import LerobotWriter, whole_folder
from rlt_vla_node.video import CODECS, DEFAULT_CODEC

REPORT = "meta/rlt.json"
"""What the conversion found, beside LeRobot's own files."""
FAILURES = ("failure", "timeout")


@dataclass(frozen=True)
class Wanted:
    """What to convert, and how.

    Attributes:
        failures: episodes labelled failure or time-out too.
        allow_gaps: an episode with gaps becomes several, one for each stretch without.
        codec: one of video.CODECS.
    """

    failures: bool = False
    allow_gaps: bool = False
    codec: str = DEFAULT_CODEC

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the episodes that are converted."""
        return (SUCCESS, *FAILURES) if self.failures else (SUCCESS,)


Progress = Callable[[int, int, str], None]


def convert(
    source: Path | str,
    target: Path | str,
    robot: RobotConfig,
    task: TaskConfig,
    rules: FrameRules,
    wanted: Wanted,
    vla: VlaConfig | None = None,
    progress: Progress = lambda done, total, words: None,
) -> dict[str, Any]:
    """Convert the wanted episode files of `source`, in name order, into a new data set `target`.

    Args:
        vla: state and action are this policy's vectors (lerobot_columns).
        progress: called with (files done, files in all, what was found in the last one).

    Returns the report that is in meta/rlt.json too. Raises DatasetError naming the file that is torn, does not fit or
    has gaps, and when nothing is wanted; ParameterError for a VLA file that does not fit; VideoError; OSError.
    """
    fps = round(robot.control_hz)
    if fps != robot.control_hz:
        raise DatasetError(
            f"robot {robot.name} runs at {robot.control_hz:g} Hz: LeRobot's data sets have a whole number of frames a "
            "second"
        )
    chosen, passed_over = _choose(Path(source), wanted)
    joint_targets, target_width = _probe([path for path, _ in chosen])
    columns = Columns(robot, task, vla, joint_targets, target_width)
    shape = (robot.cameras[0].height, robot.cameras[0].width)
    report: dict[str, Any] = {
        "version": 1,
        "robot": robot.name,
        "task": task.name,
        "config_hash": config_hash(robot, task),
        "vla": None if vla is None else _vla_facts(vla),
        "rules": asdict(rules),
        "codec": {"name": wanted.codec, **asdict(CODECS[wanted.codec])},
        "control_source": SOURCES,
        "phase": PHASES,
        "joint_targets": joint_targets,
        "not_wanted": passed_over,
        "episodes": [],
    }
    target = Path(target)
    ages: list[np.ndarray] = []
    with whole_folder(target) as folder:
        writer = LerobotWriter(
            folder,
            fps,
            robot.name,
            columns.features(),
            {IMAGES + name: shape for name in columns.cameras},
            CODECS[wanted.codec],
        )
        try:
            for done, (path, facts) in enumerate(chosen, start=1):
                found, age = _convert_one(path, facts, robot, rules, wanted, columns, writer)
                report["episodes"].append(found)
                ages.append(age)
                progress(done, len(chosen), _words(found))
            if not writer.episodes:
                raise DatasetError(f"{source}: none of the {len(chosen)} wanted episodes has a frame")
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
        every = np.concatenate(ages)
        report["image_age_s"] = {
            name: [round(float(v), 6) for v in np.percentile(every[:, i], AGE_POINTS)]
            for i, name in enumerate(columns.cameras)
        }
        report["frames"] = len(every)
        write_atomic(folder / REPORT, json.dumps(report, indent=1).encode())
    return report


def _choose(source: Path, wanted: Wanted) -> tuple[list[tuple[Path, dict[str, str]]], list[dict[str, str]]]:
    """The wanted files with their facts, and the others with their labels."""
    paths = sorted(source.glob("*.mcap"))
    if not paths:
        raise DatasetError(f"{source}: no episode files (*.mcap): record or collect episodes first")
    chosen, others = [], []
    for path in paths:
        try:
            facts = episode_facts(path)
        except EpisodeFileError as error:
            raise DatasetError(f"{error}: remove the file or record it again") from error
        if facts.get("label") in wanted.labels:
            chosen.append((path, facts))
        else:
            others.append({"file": path.name, "label": facts.get("label", "")})
    if not chosen:
        raise DatasetError(f"{source}: none of the {len(paths)} episodes is labelled {' or '.join(wanted.labels)}")
    return chosen, others


def _probe(paths: Sequence[Path]) -> tuple[bool, int]:
    """Whether all these episodes say joint targets, and the length of their auxiliary targets (0: there are none)."""
    told, width = True, 0
    try:
        for path in paths:
            step = next(read_messages(path, (topics.EXECUTED_ACTION,)), None)
            told = told and (step is None or len(step.message.joint_target) > 0)
            state = next(read_messages(path, (topics.SIMULATION_STATE,)), None)
            width = max(width, 0 if state is None else len(state.message.task_error))
    except EpisodeFileError as error:
        raise DatasetError(f"{error}: remove the file or record it again") from error
    return told, width


def _convert_one(
    path: Path,
    facts: dict[str, str],
    robot: RobotConfig,
    rules: FrameRules,
    wanted: Wanted,
    columns: Columns,
    writer: LerobotWriter,
) -> tuple[dict[str, Any], np.ndarray]:
    """Write one episode file; returns what was found in it, and the ages of its frames' images (T, C)."""
    try:
        digest = sha256_hex(read_limited(path, MAX_EPISODE_BYTES))
        frames = read_frames(path, robot, rules)
        if frames.findings.gaps and not wanted.allow_gaps:
            raise DatasetError(
                f"{path}: has gaps: {frames.findings.gaps}: leave the file out, or split it there with --allow-gaps"
            )
        segments = []
        for places in frames.segments:
            arrays = columns.arrays(frames, places, facts["label"])
            index = writer.add_episode(arrays, frames.images(places), columns.instruction)
            first, last = frames.executed[places[0]].step, frames.executed[places[-1]].step
            segments.append({"episode_index": index, "first_step": first, "last_step": last})
    except (EpisodeFileError, CodecError, KeyError) as error:
        raise DatasetError(f"{path}: {error}: remove the file or record it again") from error
    found = {
        "file": path.name,
        "sha256": digest,
        "episode_id": int(frames.executed[0].episode_id),
        "label": facts["label"],
        "recorded_label": facts.get(RECORDED_LABEL, facts["label"]),
        "purpose": facts.get("purpose", ""),
        "findings": asdict(frames.findings),
        "segments": segments,
    }
    used = [place for places in frames.segments for place in places]
    return found, frames.age_s[used]


def _vla_facts(vla: VlaConfig) -> dict[str, Any]:
    facts = asdict(vla)
    return {key: facts[key] for key in ("state", "actions", "control_hz", "frames", "gripper")}


def _words(found: dict[str, Any]) -> str:
    """What is worth knowing of a converted episode, in one line."""
    findings = found["findings"]
    parts = [f"{found['file']}: {findings['steps']} steps"]
    parts += [
        f"{findings[key]} {words}"
        for key, words in (
            ("holds", "holds"),
            ("repositioning", "of repositioning"),
            ("unseen", "before the first observation"),
            ("missing_steps", "not recorded"),
            ("late_ticks", "times ticks are missing"),
            ("stale", "without a new enough observation"),
            ("dropped_observations", "observations dropped"),
        )
        if findings[key]
    ]
    if len(found["segments"]) != 1:
        parts.append(f"split into {len(found['segments'])} episodes")
    ages = [largest for *_, largest in (age for age in findings["age_s"].values() if age)]
    if ages:
        parts.append(f"images up to {1e3 * max(ages):.0f} ms old")
    return ", ".join(parts)
