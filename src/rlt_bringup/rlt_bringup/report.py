"""The result of a run as plain data: `report.json`, and the table that is printed.

Robot time counts control steps alone: resets and waiting are left out, failures and time-outs are not (Sec. V). A
policy's throughput and steps are those of the critical phase, which is what RLT changes; the figures that include the
free-space BASE segment stand beside them. Medians are over successful episodes. Ratios are RLT over base.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rlt_bringup import statistics
from rlt_common.atomic import write_atomic

REPORT_JSON = "report.json"
LABELS = ("success", "failure", "timeout", "discard")
UNKNOWN = "unknown"
DRIVERS = ("vla", "rl", "human", UNKNOWN)
_BOOTSTRAP_SEED = 0
# Each package under the names it has on the package index and in a ROS 2 installation.
_DISTRIBUTIONS = {
    "torch": ("torch",),
    "mujoco": ("mujoco",),
    "rclpy": ("rclpy", "ros-rclpy"),
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python"),
    "safetensors": ("safetensors",),
    "mcap": ("mcap",),
}


class ReportError(ValueError):
    """Results that do not belong together; says which."""


@dataclass(frozen=True)
class EpisodeOutcome:
    """How one episode ended."""

    episode_id: int
    seed: int
    """Reset seed."""
    label: str
    """One of LABELS."""
    critical_steps: int
    """Control steps of the critical phase."""
    total_steps: int
    """Control steps of the whole episode, BASE segment included."""
    driver: str
    """Who drove the critical phase, or was to where the episode ended before it; one of DRIVERS. UNKNOWN: it ended
    before, and its file is older than the fact that says who was to drive."""

    def __post_init__(self) -> None:
        where = f"episode {self.episode_id}"
        if self.label not in LABELS:
            raise ReportError(f"{where}: label {self.label!r} is none of {', '.join(LABELS)}")
        if self.driver not in DRIVERS:
            raise ReportError(f"{where}: driver {self.driver!r} is none of {', '.join(DRIVERS)}")
        if not 0 <= self.critical_steps <= self.total_steps:
            raise ReportError(f"{where}: {self.critical_steps} critical steps of {self.total_steps} in all")

    @classmethod
    def of(
        cls, *, episode_id: int, seed: int, label: str, driver: str, steps: int, handoff_step: int, start_in: str
    ) -> EpisodeOutcome:
        """From `steps` in all, and where the critical phase began, if it did.

        `handoff_step` is 0 without a hand-off; an episode that starts in "critical" needs none.
        """
        critical = steps - handoff_step if _began(handoff_step, start_in) else 0
        return cls(episode_id, seed, label, critical, steps, driver)

    @classmethod
    def from_facts(cls, facts: Mapping[str, str]) -> EpisodeOutcome:
        """From what an episode's file tells.

        Its `driver` is that of the last phase, so that of an episode that ended before the hand-off only
        `critical_driver`, which older files do not have, says whose it was.

        Raises KeyError or ValueError for a fact that is missing or no number, ReportError for one that cannot be.
        """
        numbers = {key: int(facts[key]) for key in ("episode_id", "seed", "steps", "handoff_step")}
        driver, start_in = facts["driver"], facts["start_in"]
        if "critical_driver" in facts:
            driver = facts["critical_driver"]
        elif driver == "vla" and not _began(numbers["handoff_step"], start_in):
            driver = UNKNOWN
        return cls.of(**numbers, label=facts["label"], driver=driver, start_in=start_in)

    @property
    def success(self) -> bool:
        """Whether the operator said so."""
        return self.label == "success"

    @property
    def counts(self) -> bool:
        """Whether it enters the figures: all but discarded ones. One without a critical phase is a failure."""
        return self.label != "discard"


def _began(handoff_step: int, start_in: str) -> bool:
    return handoff_step > 0 or start_in == "critical"


@dataclass(frozen=True)
class PolicyResult:
    """One policy on the held-out resets."""

    name: str
    execute_steps: int
    """Rows of a chunk that are executed before the next one."""
    outcomes: Sequence[EpisodeOutcome]


@dataclass(frozen=True)
class Training:
    """Online RL, from the first warm-up episode on."""

    outcomes: Sequence[EpisodeOutcome]
    """In order. Those that the VLA drove are the warm-up."""
    updates: int
    """Critic updates."""


@dataclass(frozen=True)
class Handoff:
    """The hand-off head, and RLT with its automatic hand-off on some of the resets."""

    figures: Mapping[str, Any]
    """What `handoff` reports: precision, recall and timing on training episodes that it did not see."""
    outcomes: Sequence[EpisodeOutcome]


@dataclass(frozen=True)
class Provenance:
    """What it takes to run the same again."""

    task: str
    seeds: Mapping[str, int]
    commit: str
    config_hash: str
    vla_hash: str
    actor_hash: str
    command: str
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Resolved parameters worth a reader's eye, name -> value."""


def build_report(
    provenance: Provenance,
    *,
    control_hz: float,
    demonstrations: Sequence[int],
    vla: Mapping[str, Any],
    training: Training,
    base_candidates: Sequence[PolicyResult],
    rlt: PolicyResult,
    handoff: Handoff | None,
    stage_seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything that `report.json` holds. Pure: equal arguments give an equal report on one machine.

    Args:
        provenance: commit, seeds and hashes.
        control_hz: control steps per second of robot time.
        demonstrations: control steps of the critical phase of every demonstration.
        vla: figures of the adaptation, RL token reconstruction among them: plain JSON values.
        training: online RL.
        base_candidates: the base VLA executing different numbers of rows; the one with the best throughput is `base`.
        rlt: RLT on the same resets.
        handoff: the hand-off head, and RLT with it on some of these resets; None: no head was trained.
        stage_seconds: wall time of each stage in order, s.

    Raises ReportError when there is no base, when resets repeat, or when the policies ran on different resets.
    """
    if not base_candidates:
        raise ReportError("no result of the base VLA: nothing to compare RLT with")
    for result in (*base_candidates, rlt):
        _check_resets(result, rlt)
    candidates = [summarise(result, control_hz) for result in base_candidates]
    best = max(range(len(candidates)), key=lambda i: candidates[i]["throughput_per_10min"] or 0.0)
    base, improved = candidates[best], summarise(rlt, control_hz)
    ratio = _ratio(base, improved, base_candidates[best], rlt)
    curve = _training(training, control_hz)
    return {
        "task": provenance.task,
        "seeds": dict(provenance.seeds),
        "commit": provenance.commit,
        "config_hash": provenance.config_hash,
        "hashes": {"vla": provenance.vla_hash, "actor": provenance.actor_hash},
        "command": provenance.command,
        "configuration": plain(provenance.configuration),
        "control_hz": control_hz,
        "base": base,
        "base_candidates": candidates,
        "rlt": improved,
        "ratio": ratio,
        "handoff": _handoff(handoff, rlt, control_hz) if handoff else None,
        "demonstrations": {
            "episodes": len(demonstrations),
            "median_steps": statistics.median(demonstrations),
            "steps": list(demonstrations),
        },
        "vla": plain(vla),
        "training": curve,
        "robot_minutes": curve["robot_minutes"],
        "wall_minutes": sum(stage_seconds.values()) / 60.0,
        "stage_seconds": dict(stage_seconds),
        "versions": versions(),
        "notes": _notes(base_candidates[best], rlt, base, improved, ratio),
    }


def summarise(result: PolicyResult, control_hz: float) -> dict[str, Any]:
    """One policy's figures. Discarded episodes are counted apart and enter nothing else."""
    counted = [outcome for outcome in result.outcomes if outcome.counts]
    won = [outcome for outcome in counted if outcome.success]
    interval = statistics.wilson_interval(len(won), len(counted))
    critical = sum(outcome.critical_steps for outcome in counted)
    total = sum(outcome.total_steps for outcome in counted)
    return {
        "name": result.name,
        "execute_steps": result.execute_steps,
        "episodes": len(counted),
        "successes": len(won),
        "success_rate": len(won) / len(counted) if counted else None,
        "ci95": list(interval) if interval else None,
        "throughput_per_10min": statistics.throughput(len(won), critical, control_hz),
        "throughput_full_per_10min": statistics.throughput(len(won), total, control_hz),
        "median_steps": statistics.median([outcome.critical_steps for outcome in won]),
        "median_total_steps": statistics.median([outcome.total_steps for outcome in won]),
        "robot_minutes": total / control_hz / 60.0,
        "labels": dict(Counter(outcome.label for outcome in result.outcomes)),
        "drivers": dict(Counter(outcome.driver for outcome in counted)),
        "left_out": len(result.outcomes) - len(counted),
        "seeds": [outcome.seed for outcome in counted],
        "success": [outcome.success for outcome in counted],
        "steps": [outcome.critical_steps for outcome in counted],
        "total_steps": [outcome.total_steps for outcome in counted],
    }


def write_json(report: Mapping[str, Any], folder: Path | str) -> Path:
    """Write `report.json` into `folder` atomically and return its path."""
    path = Path(folder) / REPORT_JSON
    write_atomic(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    return path


def format_table(report: Mapping[str, Any]) -> str:
    """The result as aligned plain text, with notes below it."""
    rows = [("", "episodes", "success rate (95 %)", "successes per 10 min", "median steps")]
    for policy in (*report["base_candidates"], report["rlt"]):
        chosen = " *" if policy == report["base"] and len(report["base_candidates"]) > 1 else ""
        rows.append(
            (
                policy["name"] + chosen,
                str(policy["episodes"]),
                f"{number(policy['success_rate'], 2)} {interval(policy['ci95'])}",
                number(policy["throughput_per_10min"], 1),
                number(policy["median_steps"], 0),
            )
        )
    ratio = report["ratio"]
    rows.append(
        (
            "RLT over base",
            str(ratio["paired_episodes"]),
            "",
            times(ratio["throughput"], ratio["throughput_ci95"]),
            times(ratio["median_steps"]),
        )
    )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "-" * max(map(len, lines))
    lines = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
    if len(report["base_candidates"]) > 1:
        lines.append("* the better base, which RLT is compared with")
    demonstrations = report["demonstrations"]
    lines.append(
        f"Robot time: critical phase at {report['control_hz']:g} Hz, failures included. "
        f"Demonstrations: {demonstrations['episodes']}, median {number(demonstrations['median_steps'], 0)} steps. "
        f"Online RL: {report['training']['episodes']} episodes, {report['robot_minutes']:.1f} robot minutes. "
        f"Wall time: {report['wall_minutes']:.1f} minutes."
    )
    if report["handoff"]:
        lines.append(_handoff_line(report["handoff"]))
    return "\n".join([*lines, *(f"Note: {note}" for note in report["notes"])])


def _handoff_line(handoff: Mapping[str, Any]) -> str:
    timing, deploy = handoff["timing_error"], handoff["deploy"]
    words = (
        f"Hand-off head: precision {number(handoff['precision'], 3)}, recall {number(handoff['recall'], 3)}, "
        f"{number(timing['mean_absolute'], 1)} steps from the operator's hand-off in the mean over "
        f"{handoff['episodes']['test']} held-out training episodes."
    )
    automatic, operator = deploy["automatic"], deploy["operator"]
    if automatic["episodes"]:
        words += (
            f" RLT with automatic hand-off: {automatic['successes']} of {automatic['episodes']} succeed, with the "
            f"operator's on the same resets {operator['successes']} of {operator['episodes']}."
        )
    return words


def number(value: float | None, decimals: int) -> str:
    """A figure for a reader; "none" where there is none."""
    return "none" if value is None else f"{value:.{decimals}f}"


def interval(bounds: Sequence[float | None] | None) -> str:
    """A 95 % interval for a reader; an end that is None is open."""
    if bounds is None:
        return ""
    low, high = ("..." if bound is None else f"{bound:.2f}" for bound in bounds)
    return f"[{low}, {high}]"


def times(ratio: float | None, bounds: Sequence[float | None] | None = None) -> str:
    """A ratio for a reader, with its interval; "none" where there is none."""
    return "none" if ratio is None else f"x {ratio:.2f} {interval(bounds)}".rstrip()


def versions() -> dict[str, str | None]:
    """Versions of what the figures depend on; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    if "ROS_DISTRO" in os.environ:
        found["ros_distro"] = os.environ["ROS_DISTRO"]
    for name, distributions in _DISTRIBUTIONS.items():
        found[name] = next(filter(None, map(_version, distributions)), None)
    found["platform"] = platform.platform()
    return found


def source_commit(folder: Path | str) -> str:
    """The commit of the source tree at `folder`, with "+" when it was changed since; "unknown" outside a repository."""
    try:
        head = _git(folder, "rev-parse", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(folder: Path | str, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _check_resets(result: PolicyResult, rlt: PolicyResult) -> None:
    seeds = [outcome.seed for outcome in result.outcomes]
    if len(set(seeds)) != len(seeds):
        raise ReportError(f"{result.name}: a reset seed occurs twice; each reset counts once")
    difference = set(seeds) ^ {outcome.seed for outcome in rlt.outcomes}
    if difference:
        raise ReportError(
            f"{result.name} and {rlt.name} ran on different resets: {len(difference)} seeds, {min(difference)} for one"
        )


def _ratio(
    base: Mapping[str, Any], rlt: Mapping[str, Any], base_result: PolicyResult, rlt_result: PolicyResult
) -> dict[str, Any]:
    by_seed = {outcome.seed: outcome for outcome in base_result.outcomes if outcome.counts}
    pairs = [(o, by_seed[o.seed]) for o in rlt_result.outcomes if o.counts and o.seed in by_seed]
    bounds = statistics.bootstrap_throughput_ratio(
        [ours.success for ours, _ in pairs],
        [ours.critical_steps for ours, _ in pairs],
        [theirs.success for _, theirs in pairs],
        [theirs.critical_steps for _, theirs in pairs],
        seed=_BOOTSTRAP_SEED,
    )
    return {
        "throughput": _quotient(rlt["throughput_per_10min"], base["throughput_per_10min"]),
        "throughput_ci95": plain(bounds),
        "throughput_full": _quotient(rlt["throughput_full_per_10min"], base["throughput_full_per_10min"]),
        "median_steps": _quotient(rlt["median_steps"], base["median_steps"]),
        "paired_episodes": len(pairs),
    }


def _handoff(handoff: Handoff, rlt: PolicyResult, control_hz: float) -> dict[str, Any]:
    """The head's figures, and RLT with automatic and operator's hand-off on the same resets."""
    seeds = {outcome.seed for outcome in handoff.outcomes}
    known = {outcome.seed for outcome in rlt.outcomes}
    if len(seeds) != len(handoff.outcomes) or not seeds <= known:
        raise ReportError("automatic hand-off: its resets repeat, or RLT did not run on them")
    pairs = {
        "automatic": PolicyResult("RLT, automatic hand-off", rlt.execute_steps, handoff.outcomes),
        "operator": PolicyResult(rlt.name, rlt.execute_steps, [o for o in rlt.outcomes if o.seed in seeds]),
    }
    deploy = {}
    for name, result in pairs.items():
        counted = [outcome for outcome in result.outcomes if outcome.counts]
        handed = [o.total_steps - o.critical_steps for o in counted if o.critical_steps]
        summary = summarise(result, control_hz)
        deploy[name] = {**summary, "handed_off": len(handed), "median_handoff_step": statistics.median(handed)}
    return {**plain(handoff.figures), "deploy": deploy}


def _training(training: Training, control_hz: float) -> dict[str, Any]:
    counted = [outcome for outcome in training.outcomes if outcome.counts]
    minutes, robot_minutes = 0.0, []
    for outcome in counted:
        minutes += outcome.total_steps / control_hz / 60.0
        robot_minutes.append(minutes)
    return {
        "episodes": len(counted),
        "warmup_episodes": sum(outcome.driver == "vla" for outcome in counted),
        "left_out": len(training.outcomes) - len(counted),
        "updates": training.updates,
        "robot_minutes": minutes,
        "critical_robot_minutes": sum(outcome.critical_steps for outcome in counted) / control_hz / 60.0,
        "curve": {
            "episode_id": [outcome.episode_id for outcome in counted],
            "driver": [outcome.driver for outcome in counted],
            "success": [outcome.success for outcome in counted],
            "steps": [outcome.critical_steps for outcome in counted],
            "robot_minutes": robot_minutes,
        },
    }


def _notes(
    base_result: PolicyResult,
    rlt_result: PolicyResult,
    base: Mapping[str, Any],
    rlt: Mapping[str, Any],
    ratio: Mapping[str, Any],
) -> list[str]:
    notes = []
    for result, summary, driver in ((base_result, base, "vla"), (rlt_result, rlt, "rl")):
        if summary["episodes"] == 0:
            notes.append(f"{result.name}: no episode counts, so it has no figures.")
        elif summary["successes"] == 0:
            notes.append(f"{result.name}: no success in {summary['episodes']} episodes, so it has no median of steps.")
        if summary["left_out"]:
            notes.append(f"{result.name}: {summary['left_out']} episodes were discarded.")
        early = summary["steps"].count(0)
        if early:
            notes.append(f"{result.name}: {early} episodes ended before the critical phase; they count as failures.")
        strangers = sum(count for name, count in summary["drivers"].items() if name not in (driver, UNKNOWN))
        if strangers:
            notes.append(f"{result.name}: in {strangers} episodes somebody else than the {driver} policy drove.")
    if ratio["throughput"] is None:
        notes.append("The base VLA has no throughput to compare with, so there is no ratio.")
    return notes


def _quotient(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def plain(value: Any) -> Any:
    """The same for JSON, which knows no NaN and no infinity: null."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
