"""The result of a run as one page, `report.html`, made from `report.json` alone; nothing is fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rlt_bringup import report_figures, run_html
from rlt_bringup.html_page import document, flat, html_facts, html_table, html_tile, key, section, shown
from rlt_bringup.report import interval, number, times
from rlt_common.atomic import write_atomic

REPORT_HTML = "report.html"
_QUANTILES = ((0, "fastest"), (10, "10 %"), (50, "median"), (90, "90 %"), (100, "slowest"))


def write_html(report: Mapping[str, Any], folder: Path | str) -> Path:
    """Write `report.html` into `folder` atomically and return its path."""
    path = Path(folder) / REPORT_HTML
    write_atomic(path, render(report).encode())
    return path


def render(report: Mapping[str, Any]) -> str:
    """The page of a demo's comparison, of a run, or of both in one. Equal reports give equal pages."""
    if "ratio" not in report:
        run = report["run"]
        title = f"Run {run['name']}: {run['task']}"
        return document(title, "\n".join([f"<h1>{escape(title)}</h1>", run_html.overview(run), *_run(report)]))
    title = f"RLT and its base VLA: {report['task']}"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">The same {report["ratio"]["paired_episodes"]} held-out resets for every policy. '
            f"Robot time counts control steps of the critical phase at {report['control_hz']:g} Hz, failures and "
            "time-outs included; resets and waiting are not in it.</p>",
            _tiles(report),
            *(f'<p class="note">{escape(note)}</p>' for note in report["notes"]),
            _results(report),
            section(
                "Speed",
                "Control steps of the critical phase of successful episodes (the paper's Fig. 9).",
                report_figures.steps_histogram(report),
                _faster_than_demonstrations(report),
                _speed(report),
            ),
            section(
                "Success over time",
                "How many of the evaluation episodes are done after a given time.",
                report_figures.success_over_time(report),
                "A curve that rises earlier is a faster policy; where it ends is its success rate.",
                _done_after(report),
            ),
            section(
                "Learning curve",
                "Every training episode, in order.",
                report_figures.learning_curve(report),
                f"Lines: mean or median over the last {report_figures.WINDOW} episodes; dots: single episodes. "
                "Dashed: the base VLA in evaluation. Exploration noise is on while training.",
                _learning(report),
            ),
            _handoff(report) if report["handoff"] else "",
            *_run(report),
            _details(report),
        ]
    )
    return document(title, body)


def _run(report: Mapping[str, Any]) -> Sequence[str]:
    """What is known of any run; nothing in a report that was made without it."""
    return run_html.sections(report["run"], "ratio" in report) if "run" in report else ()


def _tiles(report: Mapping[str, Any]) -> str:
    base, rlt, ratio = report["base"], report["rlt"], report["ratio"]
    known = ratio["throughput"] is not None
    bounds = interval(ratio["throughput_ci95"]) if known else ""
    tiles = [
        (f"{ratio['throughput']:.2f}\u202f×" if known else "none", f"throughput of the base VLA {bounds}".strip()),
        (f"{number(base['success_rate'], 2)} → {number(rlt['success_rate'], 2)}", "success rate"),
        (f"{number(base['median_steps'], 0)} → {number(rlt['median_steps'], 0)}", "median steps to success"),
        (f"{report['robot_minutes']:.1f} min", f"robot time of {report['training']['episodes']} training episodes"),
        (f"{report['wall_minutes']:.1f} min", "wall time of everything"),
    ]
    return '<div class="tiles">' + "".join(html_tile(*tile) for tile in tiles) + "</div>"


def _results(report: Mapping[str, Any]) -> str:
    base, rlt, ratio = report["base"], report["rlt"], report["ratio"]
    rows: list[Sequence[str]] = []
    for policy in (*report["base_candidates"], rlt):
        name = key("rlt" if policy == rlt else "base", policy["name"] + (" (better)" if policy == base else ""))
        rows.append(
            (
                name if policy in (base, rlt) else policy["name"],
                str(policy["episodes"]),
                str(policy["successes"]),
                f"{number(policy['success_rate'], 2)} {interval(policy['ci95'])}",
                number(policy["throughput_per_10min"], 1),
                number(policy["throughput_full_per_10min"], 1),
                number(policy["median_steps"], 0),
            )
        )
    rows.append(
        (
            "RLT over base",
            str(ratio["paired_episodes"]),
            "",
            "",
            times(ratio["throughput"], ratio["throughput_ci95"]),
            times(ratio["throughput_full"]),
            times(ratio["median_steps"]),
        )
    )
    head = (
        "Policy",
        "Episodes",
        "Successes",
        "Success rate, 95 % interval",
        "Successes per 10 min",
        "with free-space segment",
        "Median steps",
    )
    table = html_table("", head, rows, strong=len(rows) - 1)
    words = (
        "Success rate with Wilson's interval; the interval of the ratio is a bootstrap over resets, both policies' "
        "episodes of one reset drawn together."
    )
    return f'<h2>Result</h2><p class="soft">{words}</p><div class="scroll">{table}</div>'


def _speed(report: Mapping[str, Any]) -> str:
    groups = _groups(report)
    rows = [
        (label, *(number(float(np.percentile(steps, q)) if steps else None, 0) for _, steps in groups))
        for q, label in _QUANTILES
    ]
    rows.append(("successful episodes", *(str(len(steps)) for _, steps in groups)))
    return html_table("Steps", ("", *(name for name, _ in groups)), rows)


def _faster_than_demonstrations(report: Mapping[str, Any]) -> str:
    demonstrations, rlt = report["demonstrations"]["steps"], _won(report["rlt"])
    if not demonstrations or not rlt:
        return "Bars: share of each group's episodes. Vertical line: median."
    share = sum(steps < min(demonstrations) for steps in rlt) / len(rlt)
    return (
        f"Bars: share of each group's episodes. Vertical line: median. {100 * share:.0f} % of RLT's successful "
        "episodes are faster than every demonstration."
    )


def _done_after(report: Mapping[str, Any]) -> str:
    base, rlt, hz = report["base"], report["rlt"], report["control_hz"]
    longest = max([*base["steps"], *rlt["steps"]], default=0) / hz
    rows = []
    for seconds in np.linspace(0, longest, 6)[1:] if longest else ():
        done = [
            number(sum(s <= seconds * hz for s in _won(policy)) / policy["episodes"], 2)
            if policy["episodes"]
            else "none"
            for policy in (base, rlt)
        ]
        rows.append((f"{seconds:.1f} s", *done))
    return html_table("Done after", ("", key("base", "base VLA"), key("rlt", "RLT")), rows)


def _learning(report: Mapping[str, Any]) -> str:
    training = report["training"]
    curve = training["curve"]
    groups = [("warm-up", range(training["warmup_episodes"]))]
    rest = range(training["warmup_episodes"], training["episodes"])
    if rest:
        groups += [(f"first {len(rest[: report_figures.WINDOW])} of RL", rest[: report_figures.WINDOW])]
        groups += [(f"last {len(rest[-report_figures.WINDOW :])} of RL", rest[-report_figures.WINDOW :])]
    rows = []
    for name, chosen in groups:
        won = [curve["steps"][i] for i in chosen if curve["success"][i]]
        rate = len(won) / len(chosen) if chosen else None
        rows.append((name, str(len(chosen)), number(rate, 2), number(float(np.median(won)) if won else None, 0)))
    facts = [
        ("episodes", str(training["episodes"])),
        ("critic updates", str(training["updates"])),
        ("robot minutes", f"{training['robot_minutes']:.1f}"),
        ("of these in the critical phase", f"{training['critical_robot_minutes']:.1f}"),
    ]
    episodes = html_table("Episodes", ("", "Number", "Success", "Median steps"), rows)
    return f"{episodes}<br>{html_table('Training', ('', ''), facts)}"


def _handoff(report: Mapping[str, Any]) -> str:
    handoff, deploy = report["handoff"], report["handoff"]["deploy"]
    timing, count = handoff["timing_error"], handoff["episodes"]
    shares = sorted(timing["quantiles"], key=int)
    quantiles = [(f"error, {share} %", number(timing["quantiles"][share], 0)) for share in shares]
    facts = [
        ("precision", number(handoff["precision"], 3)),
        ("recall", number(handoff["recall"], 3)),
        ("mean absolute error, steps", number(timing["mean_absolute"], 1)),
        *quantiles,
        (f"over {handoff['premature_steps']} steps early", f"{100 * handoff['premature_share']:.0f} %"),
        (f"none within {handoff['window_steps']} steps after", f"{100 * handoff['missing_share']:.0f} %"),
    ]
    runs = [
        (
            words,
            str(deploy[name]["episodes"]),
            str(deploy[name]["successes"]),
            str(deploy[name]["handed_off"]),
            number(deploy[name]["median_handoff_step"], 0),
            number(deploy[name]["throughput_full_per_10min"], 1),
        )
        for name, words in (("automatic", "automatic"), ("operator", "operator's"))
        if deploy[name]["episodes"]
    ]
    words = (
        f"A head on the frozen VLA's embeddings, trained on the operator's hand-offs in {count['train']} training "
        f"episodes, its threshold chosen on {count['validation']} and these figures taken on {count['test']} more. "
        "Timing: control steps from the operator's hand-off to the head's, early is negative."
    )
    head = ("RLT on the same resets, hand-off", "Episodes", "Successes", "Handed off", "at step (median)", "per 10 min")
    tables = [html_table("Against the operator's hand-offs", ("", ""), facts), html_table("", head, runs)]
    return (
        f'<h2>Automatic hand-off</h2><p class="soft">{escape(words)}</p>'
        f'<div class="columns">{"".join(f"<div>{table}</div>" for table in tables if table)}</div>'
    )


def _details(report: Mapping[str, Any]) -> str:
    stages = [(name, f"{seconds / 60:.1f} min") for name, seconds in report["stage_seconds"].items()]
    vla = [(name.replace("_", " "), shown(value)) for name, value in flat(report["vla"]).items()]
    origin = {
        "command": report["command"],
        "commit": report["commit"],
        "configuration": report["config_hash"],
        **{f"{name} sha256": value for name, value in report["hashes"].items()},
        **{f"seed, {name}": value for name, value in report["seeds"].items()},
    }
    versions = {name: version or "not installed" for name, version in report["versions"].items()}
    tables = [
        html_table("VLA and RL token", ("", ""), vla),
        html_table("Wall time", ("", ""), stages),
        html_facts("Where it comes from", origin),
        html_facts("Configuration", {name: shown(value) for name, value in flat(report["configuration"]).items()}),
        html_facts("Versions", versions),
    ]
    return f'<h2>Details</h2><div class="columns">{"".join(f"<div>{table}</div>" for table in tables if table)}</div>'


def _groups(report: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    return [
        (key("demonstrations", "demos"), list(report["demonstrations"]["steps"])),
        (key("base", "base VLA"), _won(report["base"])),
        (key("rlt", "RLT"), _won(report["rlt"])),
    ]


def _won(policy: Mapping[str, Any]) -> list[int]:
    return [steps for steps, success in zip(policy["steps"], policy["success"], strict=True) if success]
