"""A run directory as plain data: all that a report of it is made from. Nothing but the directory is read.

What is missing is left out, and what cannot be read is named in `problems`: a report of half a run is better than none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlt_bringup.checkpoint_states import newest_state, read_object
from rlt_bringup.episode_scan import EpisodeScan, control_hz, scan
from rlt_bringup.report import EpisodeOutcome, ReportError
from rlt_common.episode_file import PARTIAL_SUFFIX, EpisodeFileError, episode_configuration
from rlt_common.metrics_log import METRICS_LOG, Row, read_metrics
from rlt_common.reading import read_tail
from rlt_common.relabels import EPISODES, RECORDED_LABEL, corrected_labels, episode_facts
from rlt_common.retired import FILE as RETIRED
from rlt_common.retired import read_retired

LOG_BYTES = 4 * 1024**2
_LINE = re.compile(r"\[(WARN|ERROR|FATAL)\] \[[\d.]+\] \[([^\]]+)\]: (.*)")
_DIGITS = re.compile(r"\d+(\.\d+)?")


class RunError(RuntimeError):
    """A directory that no report can be made of; says why."""


@dataclass(frozen=True)
class RunEpisode:
    """One journalled episode."""

    outcome: EpisodeOutcome
    purpose: str
    facts: Mapping[str, str]
    """Metadata, under the label of now."""
    scan: EpisodeScan

    @property
    def intervened(self) -> bool:
        """Whether a human took over."""
        return self.scan.takeovers > 0 or self.facts.get("intervened") == "true"

    @property
    def recorded_label(self) -> str:
        """The label inside the file, where it was corrected since; else empty."""
        return self.facts.get(RECORDED_LABEL, "")


@dataclass(frozen=True)
class RunFacts:
    """See the module docstring. Mappings are empty where their file is not there."""

    name: str
    task: str
    robot: str
    control_hz: float
    episodes: tuple[RunEpisode, ...] = ()
    demonstrations: tuple[int, ...] = ()
    """Control steps of the critical phase of each: those in demonstrations/, which only a demo has, and the successful
    episodes of purpose collect, which `mode:=collect` leaves and `mode:=adapt` reads."""
    unmarked: int = 0
    """Those episodes without a hand-off: of them nobody knows where the critical phase began."""
    metrics: tuple[Row, ...] = ()
    taken_in_again: int = 0
    """Lines of metrics.jsonl about an episode that had one: the learner was restarted."""
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_name: str = ""
    vla: Mapping[str, Any] = field(default_factory=dict)
    vla_metrics: Mapping[str, Any] = field(default_factory=dict)
    handoff: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    demo: Mapping[str, Any] = field(default_factory=dict)
    logged: Mapping[str, int] = field(default_factory=dict)
    """"node: text" of warnings and errors in log/, numbers in it as "#" -> how often."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Of the newest episode whose file has it: "robot" and "task" -> what their files said."""
    leftovers: int = 0
    """Files of interrupted recordings."""
    problems: tuple[str, ...] = ()

    def of(self, *purposes: str) -> list[RunEpisode]:
        """The episodes of these purposes, in order."""
        return [episode for episode in self.episodes if episode.purpose in purposes]


def read_run(run: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> RunFacts:
    """Read a run. `progress`: called with episodes read, and how many there are. Raises RunError."""
    if not run.is_dir():
        raise RunError(f"no run directory {run}")
    problems: list[str] = []
    facts = _all_facts(run / EPISODES, _corrections(run, problems), problems)
    shown = _all_facts(run / "demonstrations", {}, problems)
    checkpoint, name = newest_state(run / "checkpoints", problems)
    rows, again = _rows(run, problems)
    if not facts and not rows and not shown:
        raise RunError(f"{run} holds no episodes, no demonstrations and no {METRICS_LOG}: is it a run directory?")
    hz = _control_hz(facts, problems)
    episodes = []
    for done, (path, about) in enumerate(facts, start=1):
        try:
            episodes.append(RunEpisode(EpisodeOutcome.from_facts(about), about["purpose"], about, scan(path, hz)))
        except (EpisodeFileError, ReportError, KeyError, ValueError) as error:
            problems.append(_left_out(path, error))
        progress(done, len(facts))
    episodes = sorted([*episodes, *_retired(run, {path.stem for path, _ in facts}, problems)], key=_episode_id)
    said = [about for _, about in (*facts, *shown)]
    collected = [e.outcome for e in episodes if e.purpose == "collect" and e.outcome.success]
    marked = [outcome.critical_steps for outcome in collected if outcome.critical_steps]
    vla = run / "vla"
    return RunFacts(
        name=run.resolve().name,
        task=_most(said, "task"),
        robot=_most(said, "robot"),
        control_hz=hz,
        episodes=tuple(episodes),
        demonstrations=(*(s for _, about in shown if (s := _critical_steps(about)) is not None), *marked),
        unmarked=len(collected) - len(marked),
        metrics=tuple(rows),
        taken_in_again=again,
        checkpoint=checkpoint,
        checkpoint_name=name,
        vla=read_object(vla / "config.json", problems),
        vla_metrics=read_object(vla / "metrics.json", problems),
        handoff=read_object(vla / "handoff.json", problems),
        stages={path.stem: read_object(path, problems) for path in sorted((run / "stages").glob("*.json"))},
        demo=read_object(run / "demo.json", problems),
        logged=_logged(run / "log"),
        configuration=_configuration([path for path, _ in facts], problems),
        leftovers=len(list((run / EPISODES).glob(f"*{PARTIAL_SUFFIX}*"))),
        problems=tuple(problems),
    )


def _corrections(run: Path, problems: list[str]) -> Mapping[int, str]:
    try:
        return corrected_labels(run)
    except EpisodeFileError as error:
        problems.append(f"corrected labels are left out: {error}")
        return {}


def _all_facts(folder: Path, corrected: Mapping[int, str], problems: list[str]) -> list[tuple[Path, Mapping[str, str]]]:
    found = []
    for path in sorted(folder.glob("*.mcap")):
        try:
            found.append((path, episode_facts(path, corrected)))
        except EpisodeFileError as error:
            problems.append(_left_out(path, error))
    return found


def _retired(run: Path, there: set[str], problems: list[str]) -> list[RunEpisode]:
    """Episodes whose files were deleted: of them outcome and steps are known, and no more."""
    found = []
    try:
        for episode_id, entry in read_retired(run).items():
            if f"{episode_id:06d}" not in there:
                outcome = EpisodeOutcome.from_facts(entry.facts)
                seen = EpisodeScan(steps=int(entry.facts["steps"]), critical=_critical_steps(entry.facts) or 0)
                found.append(RunEpisode(outcome, entry.facts["purpose"], entry.facts, seen))
    except (OSError, ReportError, KeyError, ValueError) as error:
        problems.append(f"retired episodes are left out: {error}")
    if found:
        problems.append(f"of {len(found)} retired episodes ({RETIRED}) nothing but outcome and steps is known")
    return found


def _episode_id(episode: RunEpisode) -> int:
    return episode.outcome.episode_id


def _configuration(paths: list[Path], problems: list[str]) -> dict[str, Any]:
    for path in reversed(paths):
        try:
            if texts := episode_configuration(path):
                return {name: yaml.safe_load(text) for name, text in sorted(texts.items())}
        except EpisodeFileError:
            continue  # named when it is read
        except (yaml.YAMLError, RecursionError) as error:
            problems.append(f"configuration in {path.name} is left out: {error}")
            return {}
    return {}


def _left_out(path: Path, error: Exception) -> str:
    said = str(error).removeprefix(f"{path}: ") or type(error).__name__
    return f"{path.parent.name}/{path.name} is left out: {said}"


def _critical_steps(about: Mapping[str, str]) -> int | None:
    try:
        return int(about["steps"]) - int(about["handoff_step"])
    except (KeyError, ValueError):
        return None


def _control_hz(facts: list[tuple[Path, Mapping[str, str]]], problems: list[str]) -> float:
    """By the stamps of executed steps; 50 Hz where there is no episode."""
    for path, _ in facts:
        try:
            if (hz := control_hz(path)) is not None:
                return hz
        except EpisodeFileError:
            continue  # named when it is read
    problems.append("no executed step tells the control rate: 50 Hz is taken")
    return 50.0


def _rows(run: Path, problems: list[str]) -> tuple[list[Row], int]:
    try:
        log = read_metrics(run)
    except (OSError, EpisodeFileError) as error:
        problems.append(f"{METRICS_LOG} is left out: {error}")
        return [], 0
    problems += [problem.removeprefix(f"{run}/") for problem in log.problems]
    return log.rows, log.repeated


def _logged(folder: Path) -> dict[str, int]:
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("*.log")) if folder.is_dir() else ():
        for _, node, text in _LINE.findall(read_tail(path, LOG_BYTES)):
            found[f"{node}: {_DIGITS.sub('#', text)[:160]}"] += 1
    return dict(found.most_common())


def _most(said: list[Mapping[str, str]], key: str) -> str:
    return Counter(about.get(key, "") for about in said).most_common(1)[0][0] if said else ""
