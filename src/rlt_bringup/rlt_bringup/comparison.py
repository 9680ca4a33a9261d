"""Two or more runs side by side, from what `run_report.build_run` gives: figures, differences with intervals, settings.

The first run is the one that the others are compared with. Differences of rates have Newcombe's interval, ratios of
throughput a bootstrap over resets where both ran on the same ones, each once, and over episodes elsewhere; medians a
bootstrap over episodes. Where a person resets the scene no two resets are the same, whatever their seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlt_bringup import statistics
from rlt_bringup.figure_style import SERIES
from rlt_bringup.html_page import flat
from rlt_bringup.report import plain
from rlt_bringup.run_report import OPERATOR

Run = Mapping[str, Any]
_SEED = 0
_SAME = (("task", "task"), ("robot", "robot"), ("control_hz", "control rate"))


class ComparisonError(ValueError):
    """Runs that are not to be compared; says why and what to do."""


def compare(runs: Sequence[Run], anyway: bool = False) -> dict[str, Any]:
    """The document of a comparison. Raises ComparisonError for runs of other tasks, robots or resets, but `anyway`."""
    if not 2 <= len(runs) <= len(SERIES):
        raise ComparisonError(f"{len(runs)} runs: two to {len(SERIES)} can be compared")
    unlike = [words for run in runs[1:] for words in _unlike(runs[0], run)]
    if unlike and not anyway:
        raise ComparisonError(f"{'; '.join(unlike)}. With --anyway they are compared all the same")
    names = _names(runs)
    return plain(
        {
            "names": names,
            "runs": [{**run, "name": name} for name, run in zip(names, runs, strict=True)],
            "unlike": unlike,
            "groups": _groups(runs, names),
            "settings": _settings(runs, names),
        }
    )


def _names(runs: Sequence[Run]) -> list[str]:
    names: list[str] = []
    for run in runs:
        number = sum(name == run["name"] or name.startswith(f"{run['name']} (") for name in names)
        names.append(f"{run['name']} ({number + 1})" if number else run["name"])
    return names


def _unlike(first: Run, other: Run) -> list[str]:
    what = f"{other['name']} and {first['name']}"
    found = [
        f"{what} are of another {words}: {other[key]} and {first[key]}"
        for key, words in _SAME
        if other[key] != first[key]
    ]
    if OPERATOR in (first["resets"], other["resets"]):
        return found
    ours, theirs = _by_key(other), _by_key(first)
    for key in sorted(ours.keys() & theirs.keys()):
        seeds, base = ours[key]["seeds"], theirs[key]["seeds"]
        if key in ("rl", "deploy") or key.startswith("base_"):
            different = set(seeds) ^ set(base)
            if different:
                found.append(f"{what}: {ours[key]['name']}: {len(different)} resets of one are none of the other")
    return found


def _by_key(run: Run) -> dict[str, Mapping[str, Any]]:
    return {group["key"]: group for group in run["groups"]}


def _groups(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Every kind of episodes that at least two runs have, evaluation first."""
    by_key = [_by_key(run) for run in runs]
    by_person = {name for name, run in zip(names, runs, strict=True) if run["resets"] == OPERATOR}
    keys = sorted(dict.fromkeys(key for groups in by_key for key in groups), key=_rank)
    found = []
    for key in keys:
        having = [(name, groups[key]) for name, groups in zip(names, by_key, strict=True) if key in groups]
        if len(having) > 1:
            (base_name, base), *others = having
            found.append(
                {
                    "key": key,
                    "name": base["name"],
                    "of": [{"run": name, **group} for name, group in having],
                    "base": base_name,
                    "differences": [
                        {"run": name, **_difference(group, base, not by_person & {name, base_name})}
                        for name, group in others
                    ],
                }
            )
    return found


def _rank(key: str) -> int:
    order = ("rl", "base", "evaluation_unknown", "deploy", "practice_last", "practice", "warmup", "practice_unknown")
    return order.index("base" if key.startswith("base_") else key)


def _difference(ours: Mapping[str, Any], base: Mapping[str, Any], seeded: bool) -> dict[str, Any]:
    """`ours` minus `base`; of throughput, `ours` over `base`. None where there is nothing to take it of.

    `seeded`: equal seeds are equal resets.
    """
    paired = seeded and _paired(ours, base)
    columns = (ours["success"], ours["steps"], base["success"], base["steps"])
    if paired:
        order = [ours["seeds"].index(seed) for seed in base["seeds"]]
        columns = ([ours["success"][i] for i in order], [ours["steps"][i] for i in order], *columns[2:])
        ratio_ci = statistics.bootstrap_throughput_ratio(*columns, seed=_SEED)
    else:
        ratio_ci = statistics.bootstrap_ratio(*columns, seed=_SEED)
    rates = (ours["throughput_per_10min"], base["throughput_per_10min"])
    counts = (ours["episodes"], base["episodes"])
    return {
        "paired": paired,
        "success": _minus(ours["success_rate"], base["success_rate"]),
        "success_ci95": statistics.difference_interval(ours["successes"], counts[0], base["successes"], counts[1]),
        "throughput": rates[0] / rates[1] if None not in rates and rates[1] else None,
        "throughput_ci95": ratio_ci,
        "median_steps": _minus(ours["median_steps"], base["median_steps"]),
        "median_steps_ci95": statistics.bootstrap_median_difference(_won(ours), _won(base), seed=_SEED),
        "interventions": _minus(ours["intervention_rate"], base["intervention_rate"]),
        "interventions_ci95": statistics.difference_interval(
            ours["intervened"], counts[0], base["intervened"], counts[1]
        ),
    }


def _paired(ours: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether both are of the same resets, each once."""
    seeds = [set(group["seeds"]) for group in (ours, base)]
    return seeds[0] == seeds[1] and all(len(s) == len(g["seeds"]) for s, g in zip(seeds, (ours, base), strict=True))


def _minus(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _won(group: Mapping[str, Any]) -> list[int]:
    return [steps for steps, success in zip(group["steps"], group["success"], strict=True) if success]


def _settings(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Settings, hashes and versions that are not the same in all runs: (name, value per run)."""
    all_of = [flat({**run["settings"], **run["provenance"]}) for run in runs]
    found = []
    for key in dict.fromkeys(key for values in all_of for key in values):
        values = [each.get(key) for each in all_of]
        if any(value != values[0] for value in values[1:]):
            found.append({"name": key, "values": dict(zip(names, values, strict=True))})
    return found
