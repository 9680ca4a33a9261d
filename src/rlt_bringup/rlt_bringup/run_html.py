"""The sections of a run's report, from what `run_report.build_run` gives: for the page of any run, and of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlt_bringup import run_figures
from rlt_bringup.html_page import Raw, flat, html_facts, html_table, html_tile, key, section, shown
from rlt_bringup.report import interval, number
from rlt_bringup.run_report import WINDOW

Run = Mapping[str, Any]
_KEYS = {"warmup": "base", "rl": "rlt", "practice": "rlt", "practice_last": "rlt", "deploy": "rlt"}


def overview(run: Run) -> str:
    """Tiles for a page that is of this run alone."""
    groups = {group["key"]: group for group in run["groups"]}
    best = groups.get("rl") or groups.get("practice_last") or groups.get("practice") or groups.get("warmup")
    curve = run["practice"]
    tiles = [(f"{run['robot_minutes']:.1f} min", f"robot time of {len(curve['episode_id'])} training episodes")]
    if best:
        tiles += [
            (number(best["success_rate"], 2), f"success rate, {best['name']} {interval(best['ci95'])}"),
            (number(best["throughput_per_10min"], 1), f"successes per 10 min {_bounds(best['throughput_ci95'])}"),
            (number(best["median_steps"], 0), "median steps to success"),
        ]
    helped = sum(curve["intervened"])
    tiles.append((str(helped), "training episodes in which a human took over"))
    return '<div class="tiles">' + "".join(html_tile(*tile) for tile in tiles) + "</div>"


def advice(run: Run) -> str:
    """What the figures say to the operator."""
    if not run["advice"]:
        enough = len(run["practice"]["episode_id"]) >= WINDOW
        text = "Nothing to advise." if enough else "Nothing to advise, of so few episodes."
        return f'<h2>Advice</h2><p class="soft">{text}</p>'
    items = "".join(
        f'<li class="{"warning" if each["severity"] else "note-only"}"><b>{escape(each["text"])}</b>'
        f"<span>{escape(each['why'])}</span></li>"
        for each in run["advice"]
    )
    return f'<h2>Advice</h2><ul class="advice">{items}</ul>'


def results(run: Run) -> str:
    """Every kind of episodes, one row each."""
    rows = [
        (
            _name(group),
            str(group["episodes"]),
            f"{number(group['success_rate'], 2)} {interval(group['ci95'])}",
            f"{number(group['throughput_per_10min'], 1)} {_bounds(group['throughput_ci95'])}",
            number(group["median_steps"], 0),
            f"{number(group['intervention_rate'], 2)} {interval(group['intervention_ci95'])}",
        )
        for group in run["groups"]
    ]
    if not rows:
        return ""
    head = ("Episodes", "Number", "Success rate", "Successes per 10 min", "Median steps", "With a take-over")
    words = (
        "With 95 % intervals: Wilson's for rates, a bootstrap over episodes for throughput. Robot time counts control "
        f"steps of the critical phase at {run['control_hz']:g} Hz, failures and time-outs included."
    )
    table = html_table("", head, rows)
    return f'<h2>Every kind of episode</h2><p class="soft">{words}</p><div class="scroll">{table}</div>'


def practice(run: Run) -> str:
    """Success and throughput over robot time."""
    curve, minutes = run["practice"], run["practice"]["critical_minutes"]
    rows = []
    for part in (0.25, 0.5, 0.75, 1.0):
        at = max(0, round(part * len(minutes)) - 1)
        if minutes:
            rate, throughput = curve["success_rate"][at], curve["throughput"][at]
            rows.append((f"{minutes[at]:.1f} min", str(at + 1), number(rate[0], 2), number(throughput[0], 1)))
    table = html_table("After", ("", "Episodes", "Success", "Per 10 min"), rows)
    caption = (
        f"Lines: over the last {WINDOW} episodes, with 95 % bands; dots: single episodes. Exploration noise is on "
        "while training."
    )
    figure = run_figures.practice_figure([(run["name"], "rlt", run)])
    return section("Practice over robot time", "Every training episode, in order.", figure, caption, table)


def speed(run: Run) -> str:
    """Fig. 9 of what there is, and what is missing."""
    said = run["histogram"]
    words = "Control steps of the critical phase of successful episodes (the paper's Fig. 9)."
    if not said["groups"]:
        return f'<h2>Steps</h2><p class="soft">Not shown: {escape("; ".join(said["missing"]))}.</p>'
    rows = [(key(g["colour"], g["name"]), str(len(g["steps"])), str(min(g["steps"]))) for g in said["groups"]]
    table = html_table("", ("", "Episodes", "Fastest"), rows)
    missing = f"Not shown: {'; '.join(said['missing'])}." if said["missing"] else "Vertical line: median."
    return section("Steps", words, run_figures.histogram_figure(run), missing, table)


def interventions(run: Run) -> str:
    """How often and how long a human drove."""
    curve = run["practice"]
    figure = run_figures.interventions_figure([(run["name"], "rlt", run)])
    if not figure:
        return '<h2>Interventions</h2><p class="soft">Nobody took over in a training episode.</p>'
    steps = [steps for steps in curve["human_steps"] if steps]
    rows = [
        ("episodes with a take-over", str(sum(curve["intervened"]))),
        ("steps by a human, critical phase", str(sum(steps))),
        ("most in one episode", str(max(steps, default=0))),
    ]
    words = "Training episodes in which a human took over, in any phase."
    return section(
        "Interventions", words, figure, f"Line: over the last {WINDOW} episodes.", html_table("", ("", ""), rows)
    )


def causes(run: Run) -> str:
    """Why episodes did not succeed, as labelled."""
    if not run["causes"]:
        return '<h2>What failed</h2><p class="soft">Every episode succeeded.</p>' if run["groups"] else ""
    rows = [
        (each["cause"], each["label"], ", ".join(map(str, each["examples"])), str(each["episodes"]))
        for each in run["causes"]
    ]
    words = (
        "Episodes of all kinds that did not end in success, by label and by what the files say about their end. An "
        "operator labels a failure and names no cause for it. "
        f"Labels corrected afterwards: {run['corrected']}."
    )
    table = html_table("", ("Cause", "Label", "Such as episode", "Episodes"), rows)
    return f'<h2>What failed</h2><p class="soft">{escape(words)}</p><div class="scroll left wide">{table}</div>'


def control(run: Run) -> str:
    """Holds, limits, and how even the steps came."""
    said = run["control"]
    steps, uneven, delay, late = said["steps"], said["uneven_ms"], said["delay_ms"], said["late_ms"]
    if not steps:
        return ""

    def share(count: int) -> str:
        return f"{count} ({100 * count / steps:.1f} %)"

    facts = {
        "control steps in all episodes": str(steps),
        "of these held": f"{share(said['held'])}, in {said['holds']} stretches, the longest {said['longest_hold']}",
        "of these changed by a limit": share(said["clamped"]),
    }
    if delay:
        facts["age of the observation behind a step"] = f"{delay['p50']:.0f} ms, 99 % below {delay['p99']:.0f} ms"
    if uneven and not said["exact"]:
        facts["off one period"] = f"{uneven['p50']:.2f} ms, 99 % below {uneven['p99']:.2f}, most {uneven['max']:.1f} ms"
    if late:
        facts["ticks late, worst minute"] = f"99 % below {late['p99']:.2f} ms, most {late['max']:.1f} ms"
    table = html_table("", ("", ""), list(facts.items()))
    exact = (
        "Steps are exactly one period apart, as in simulated time: there is no jitter to see." if said["exact"] else ""
    )
    figure = run_figures.jitter_figure(run)
    if not figure:
        return f'<h2>Control</h2><p class="soft">{exact}</p><div class="left wide">{table}</div>'
    words = "How far the stamps of control steps that follow each other are from one period apart."
    return section("Control", words, figure, "Of every kind of episode.", f'<div class="left">{table}</div>')


def faults(run: Run) -> str:
    """E-stops, restarts, holds, refusals, the recorder, the log."""
    if not run["faults"]:
        return '<h2>Faults</h2><p class="soft">None in the files of this run.</p>'
    rows = [(each["kind"], each["what"], str(each["count"])) for each in run["faults"]]
    table = html_table("", ("Kind", "What", "How often"), rows)
    words = "In all files of the run; # stands for any number."
    return f'<h2>Faults</h2><p class="soft">{words}</p><div class="scroll left wide">{table}</div>'


def learner(run: Run) -> str:
    """What the learner measured."""
    figure = run_figures.learning_figure(run)
    if not figure:
        return '<h2>Learning</h2><p class="soft">Not shown: there is no metrics.jsonl in this run directory.</p>'
    rows = [(name.replace("_", " "), shown(values[-1])) for name, values in run["learning"].items()]
    words = "What the learner measured, per episode taken in; docs/metrics.md says where each figure should lie."
    caption = "Returned: mean discounted return of an episode's transitions. Expected: mean TD target over the replay."
    return section("Learning", words, figure, caption, html_table("At the end", ("", ""), rows))


def provenance(run: Run) -> str:
    """Every hash, version and setting."""
    said, spread = run["provenance"], run["settings"]["action_spread"]
    about = {
        "task": run["task"],
        "robot": run["robot"],
        **{name: said[name] for name in ("checkpoint", "updates", "seed", "backend", "torch of the learner")},
        "commit of this report": said["commit"],
    }
    tables = [
        html_facts("Run", {name: shown(value) for name, value in about.items() if value not in (None, "")}),
        html_facts("Hashes", said["hashes"]),
        html_facts("Settings of the learner", {n: shown(v) for n, v in flat(run["settings"]["learner"]).items()}),
        html_facts("Settings of the adaptation", {n: shown(v) for n, v in flat(run["settings"]["adapt"]).items()}),
        *(
            html_facts(f"The {name} file", {n: shown(v) for n, v in flat(run["settings"][name]).items()})
            for name in ("robot", "task")
            if isinstance(run["settings"].get(name), Mapping)
        ),
        html_facts("Statistics", {"spread of the actions": shown(spread)}) if spread else "",
        html_facts("Versions of this installation", {n: v or "not installed" for n, v in said["versions"].items()}),
    ]
    problems = "".join(f'<p class="note">{escape(problem)}</p>' for problem in run["problems"])
    return (
        f'<h2>Where it comes from</h2>{problems}<div class="columns">'
        f"{''.join(f'<div>{table}</div>' for table in tables if table)}</div>"
    )


def sections(run: Run, comparison: bool) -> Sequence[str]:
    """In their order. `comparison`: the page shows the demo's comparison, which has some of them already."""
    ours = [advice(run), results(run), practice(run), speed(run)]
    if comparison:
        ours = [advice(run), practice(run)]
    return [*ours, interventions(run), causes(run), control(run), faults(run), learner(run), provenance(run)]


def _name(group: Mapping[str, Any]) -> Raw | str:
    colour = _KEYS.get(group["key"], "base")
    return key(colour, group["name"])


def _bounds(bounds: Sequence[float | None] | None) -> str:
    return "" if bounds is None or None in bounds else f"[{bounds[0]:.0f}, {bounds[1]:.0f}]"
