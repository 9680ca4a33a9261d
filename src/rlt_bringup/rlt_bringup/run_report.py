"""The report of any run as plain data, from its directory alone: what `report.json` holds under "run".

Robot time is counted as in `report`: control steps of the critical phase, failures included. Rates over practice are
taken over the last WINDOW episodes, with Wilson's interval for success and a bootstrap over these episodes for
throughput.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlt_bringup import statistics
from rlt_bringup.report import UNKNOWN, PolicyResult, plain, source_commit, summarise, versions
from rlt_bringup.run_facts import RunEpisode, RunFacts
from rlt_common.advice import advise
from rlt_common.metrics_log import number

WINDOW = 20
LEARNING = ("q_mean", "episode_return", "reference_distance", "critic_loss", "beta", "owed", "replay")
OPERATOR = "operator"
"""Of `reset` in a robot file, which says so by default: a person resets the scene, and the seed means nothing."""
MOST = 12
"""Rows of a table of faults."""
_SEED = 0
_TIMED_OUT = "time limit"
_UNATTRIBUTED = "ended before the hand-off, policy not recorded"


def build_run(facts: RunFacts) -> dict[str, Any]:
    """Pure, but for the versions of this installation: equal facts give an equal report."""
    practice = [episode for episode in facts.of("train") if episode.outcome.counts]
    groups = _groups(facts)
    return plain(
        {
            "name": facts.name,
            "task": facts.task,
            "robot": facts.robot,
            "control_hz": facts.control_hz,
            "resets": _resets(facts),
            "purposes": dict(Counter(episode.purpose for episode in facts.episodes)),
            "labels": dict(Counter(episode.outcome.label for episode in facts.of("train"))),
            "robot_minutes": sum(e.outcome.total_steps for e in practice) / facts.control_hz / 60.0,
            "demonstrations": list(facts.demonstrations),
            "practice": _curve(practice, facts.control_hz),
            "groups": groups,
            "histogram": _histogram(facts, groups),
            "causes": _causes(facts.episodes),
            "corrected": sum(bool(episode.recorded_label) for episode in facts.episodes),
            "control": _control(facts.episodes),
            "faults": _faults(facts),
            "learning": _learning(facts),
            "advice": [
                {"rule": each.rule, "text": each.text, "why": each.why, "severity": int(each.severity)}
                for each in advise(facts.metrics, facts.vla_metrics)
            ],
            "provenance": _provenance(facts),
            "settings": _settings(facts),
            "problems": list(facts.problems),
        }
    )


def _groups(facts: RunFacts) -> list[dict[str, Any]]:
    """Figures of every kind of episodes there are; `key` says which kind, for comparing runs.

    An episode belongs to the policy that was to drive its critical phase, also where it ended before the hand-off.
    """
    warm, rl, early = (_driven(facts.of("train"), driver) for driver in ("vla", "rl", UNKNOWN))
    counted = [episode for episode in rl if episode.outcome.counts]
    found = [
        ("warmup", "practice, base VLA (warm-up)", warm),
        ("practice", "practice, RL, all", rl),
        ("practice_last", f"practice, RL, last {WINDOW}", counted[-WINDOW:] if len(counted) > WINDOW else []),
        ("practice_unknown", f"practice, {_UNATTRIBUTED}", early),
    ]
    evaluated = facts.of("evaluate")
    base = _driven(evaluated, "vla")
    for each in sorted({e.facts.get("execute_steps", "") for e in base}, key=_row_order):
        chosen = [e for e in base if e.facts.get("execute_steps", "") == each]
        found.append((f"base_{each}", f"evaluation, base VLA, executes {each} rows", chosen))
    found.append(("rl", "evaluation, RL", _driven(evaluated, "rl")))
    found.append(("evaluation_unknown", f"evaluation, {_UNATTRIBUTED}", _driven(evaluated, UNKNOWN)))
    found.append(("deploy", "deployed", facts.of("deploy")))
    return [_group(key, name, episodes, facts.control_hz) for key, name, episodes in found if episodes]


def _driven(episodes: Sequence[RunEpisode], driver: str) -> list[RunEpisode]:
    return [episode for episode in episodes if episode.outcome.driver == driver]


def _row_order(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _group(key: str, name: str, episodes: Sequence[RunEpisode], hz: float) -> dict[str, Any]:
    counted = [episode for episode in episodes if episode.outcome.counts]
    success, steps = [e.outcome.success for e in counted], [e.outcome.critical_steps for e in counted]
    intervened = sum(episode.intervened for episode in counted)
    return {
        "key": key,
        **summarise(PolicyResult(name, 0, [episode.outcome for episode in episodes]), hz),
        "throughput_ci95": statistics.bootstrap_throughput(success, steps, hz, seed=_SEED),
        "intervened": intervened,
        "intervention_rate": intervened / len(counted) if counted else None,
        "intervention_ci95": statistics.wilson_interval(intervened, len(counted)),
        "human_share": _share(sum(e.scan.critical_human for e in counted), sum(e.scan.critical for e in counted)),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _curve(practice: Sequence[RunEpisode], hz: float) -> dict[str, Any]:
    """Every counted training episode in order, and rates over the last WINDOW of them."""
    outcomes = [episode.outcome for episode in practice]
    success, steps = [o.success for o in outcomes], [o.critical_steps for o in outcomes]
    human = [episode.intervened for episode in practice]
    minutes = np.cumsum([o.critical_steps for o in outcomes]) / hz / 60.0
    rates: dict[str, list[Any]] = {"success_rate": [], "throughput": [], "intervention_rate": []}
    for end in range(1, len(outcomes) + 1):
        window = slice(max(0, end - WINDOW), end)
        won, helped, count = sum(success[window]), sum(human[window]), len(success[window])
        rates["success_rate"].append([won / count, *statistics.wilson_interval(won, count)])
        rates["intervention_rate"].append([helped / count, *statistics.wilson_interval(helped, count)])
        rate = statistics.throughput(won, sum(steps[window]), hz)
        bounds = statistics.bootstrap_throughput(success[window], steps[window], hz, seed=_SEED, draws=400)
        rates["throughput"].append([rate, *(bounds or (None, None))])
    return {
        "episode_id": [o.episode_id for o in outcomes],
        "driver": [o.driver for o in outcomes],
        "success": success,
        "steps": steps,
        "intervened": human,
        "human_steps": [episode.scan.critical_human for episode in practice],
        "critical_minutes": minutes.tolist(),
        "warmup_episodes": sum(o.driver == "vla" for o in outcomes),
        **rates,
    }


def _histogram(facts: RunFacts, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps of successful critical phases: demonstrations, base, RL (Fig. 9), and in words what there is none of."""
    by_key = {group["key"]: group for group in groups}
    bases = [group for group in groups if group["key"].startswith("base_")]
    base = max(bases, key=lambda group: group["throughput_per_10min"] or 0.0) if bases else by_key.get("warmup")
    rl = by_key.get("rl") or by_key.get("practice_last") or by_key.get("practice")
    shown = [("demonstrations", "demonstrations", list(facts.demonstrations))]
    shown += [(colour, group["name"], _won(group)) for colour, group in (("base", base), ("rlt", rl)) if group]
    missing = [] if facts.demonstrations or facts.unmarked else ["no demonstrations lie in this run directory"]
    if facts.unmarked:
        missing.append(
            f"{facts.unmarked} demonstrations without a hand-off: where their critical phase began is not known"
        )
    missing += [f"no episode of the {what}" for what, group in (("base VLA", base), ("RL policy", rl)) if not group]
    missing += [f"no success of: {name}" for _, name, steps in shown if not steps and name != "demonstrations"]
    return {"groups": [{"colour": c, "name": n, "steps": steps} for c, n, steps in shown if steps], "missing": missing}


def _won(group: Mapping[str, Any]) -> list[int]:
    return [steps for steps, success in zip(group["steps"], group["success"], strict=True) if success]


def _causes(episodes: Sequence[RunEpisode]) -> list[dict[str, Any]]:
    """Why episodes ended otherwise than in success, as they were labelled. Operators name no cause of a failure."""
    found: dict[tuple[str, str], list[int]] = {}
    for episode in episodes:
        if not episode.outcome.success:
            found.setdefault((episode.outcome.label, _cause(episode)), []).append(episode.outcome.episode_id)
    rows = sorted(found.items(), key=lambda item: -len(item[1]))
    return [{"label": label, "cause": cause, "episodes": len(ids), "examples": ids[:5]} for (label, cause), ids in rows]


def _cause(episode: RunEpisode) -> str:
    if episode.scan.estop:
        return f"emergency stop: {_stop(episode)}"
    if episode.recorded_label:
        return f"label corrected, it was {episode.recorded_label}"
    where = "in the critical phase" if episode.outcome.critical_steps else "before the hand-off"
    if episode.outcome.label == "timeout":
        return f"{_TIMED_OUT}, {where}"
    if episode.outcome.label == "failure":
        helped = ", although a human took over" if episode.intervened else ""
        return f"ended by the operator {where}{helped}"
    return episode.facts.get("reason") or "no reason given"


def _stop(episode: RunEpisode) -> str:
    return episode.scan.estop.removeprefix("emergency stop: ")


def _control(episodes: Sequence[RunEpisode]) -> dict[str, Any]:
    uneven = np.concatenate([np.zeros(0), *(episode.scan.uneven_ms for episode in episodes)])
    delay = np.concatenate([np.zeros(0), *(episode.scan.delay_ms for episode in episodes)])
    counts, edges = np.histogram(np.clip(uneven, 1e-3, 99.0), np.geomspace(1e-3, 100.0, 26))
    told = [episode.scan for episode in episodes if episode.scan.has_diagnostics]
    return {
        "steps": sum(episode.scan.steps for episode in episodes),
        "held": sum(episode.scan.held for episode in episodes),
        "holds": sum(episode.scan.holds for episode in episodes),
        "longest_hold": max((episode.scan.longest_hold for episode in episodes), default=0),
        "clamped": sum(episode.scan.clamped for episode in episodes),
        "uneven_ms": _percentiles(uneven),
        "delay_ms": _percentiles(delay),
        "exact": bool(uneven.size) and float(uneven.max()) < 0.01,
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "late_ms": {"p99": max(s.late_p99_ms for s in told), "max": max(s.late_max_ms for s in told)} if told else None,
    }


def _percentiles(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    return {name: float(np.percentile(values, q)) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}


def _faults(facts: RunFacts) -> list[dict[str, Any]]:
    """What went wrong, most serious kind first: (kind, what, how often)."""
    stops = Counter(_stop(episode) for episode in facts.episodes if episode.scan.estop)
    sums: dict[str, Counter[str]] = {}
    for kind in ("restarts", "errors", "reasons", "counts"):
        sums[kind] = sum((getattr(episode.scan, kind) for episode in facts.episodes), Counter())
    for reason in [reason for reason in sums["reasons"] if reason.startswith("phase ")]:
        del sums["reasons"][reason]
    warnings = Counter(episode.facts.get("warning", "") for episode in facts.episodes if episode.facts.get("warning"))
    lost = Counter({"files of interrupted recordings": facts.leftovers} if facts.leftovers else {})
    again = Counter({"episodes that the learner took in again": facts.taken_in_again} if facts.taken_in_again else {})
    kinds = (
        ("emergency stop", stops),
        ("started again", sums["restarts"] + again),
        ("recorder", warnings + lost),
        ("said on /diagnostics, for so many seconds", sums["errors"]),
        ("the arms held, for so many seconds", sums["reasons"]),
        ("counted on /diagnostics", sums["counts"]),
        ("graph, as its runner tells", Counter({w: n for w, n in facts.logged.items() if w.startswith("graph: ")})),
        ("in the log", Counter({w: n for w, n in facts.logged.items() if not w.startswith("graph: ")})),
    )
    return [
        {"kind": kind, "what": what, "count": count}
        for kind, counts in kinds
        for what, count in counts.most_common(MOST)
    ]


def _learning(facts: RunFacts) -> dict[str, list[float | None]]:
    return {name: [number(row, name) for row in facts.metrics] for name in LEARNING} if facts.metrics else {}


def _resets(facts: RunFacts) -> str | None:
    """Who reset the scene, as the robot file says: "service" or "operator"; None where no file is known."""
    robot = facts.configuration.get("robot")
    return str(robot.get("reset", OPERATOR)) if isinstance(robot, Mapping) else None


def _provenance(facts: RunFacts) -> dict[str, Any]:
    """Every hash and version that the run directory names; the commit and the versions are those of this report."""
    hashes = {
        "VLA and RL token": facts.vla.get("hash") or facts.checkpoint.get("vla_hash"),
        "VLA file": facts.vla.get("file_sha256"),
        "adaptation": facts.vla.get("identity"),
        "actor": (facts.checkpoint.get("sha256") or {}).get("actor.safetensors"),
        "learner": (facts.checkpoint.get("sha256") or {}).get("learner.safetensors"),
    }
    for key, name in (("config_hash", "robot and task files"), ("vla_hash", "VLA of the episodes")):
        found = sorted({episode.facts[key] for episode in facts.episodes if episode.facts.get(key)})
        hashes[name] = ", ".join(found) or facts.demo.get(key)
    counters = facts.checkpoint.get("counters") or {}
    return {
        "checkpoint": facts.checkpoint_name,
        "updates": counters.get("updates"),
        "torch of the learner": facts.checkpoint.get("torch"),
        "seed": facts.demo.get("seed", (facts.checkpoint.get("settings") or {}).get("seed")),
        "backend": facts.vla.get("backend"),
        "hashes": {name: value for name, value in hashes.items() if value},
        "commit": source_commit(Path(__file__).resolve().parent),
        "versions": versions(),
    }


def _settings(facts: RunFacts) -> dict[str, Any]:
    """What decides the result: settings of learner and adaptation, and statistics of the demonstrations."""
    return {
        "learner": facts.checkpoint.get("settings") or {},
        "layout": facts.checkpoint.get("layout") or {},
        "adapt": facts.vla.get("adapt") or {},
        **facts.configuration,
        "action_spread": (facts.vla.get("statistics") or {}).get("action_spread"),
    }
