"""The page and the table of a comparison of runs, from what `comparison.compare` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlt_bringup import run_figures
from rlt_bringup.figure_style import SERIES
from rlt_bringup.html_page import document, html_table, html_tile, key, shown
from rlt_bringup.report import interval, number, times
from rlt_bringup.report_figures import histogram
from rlt_bringup.run_report import WINDOW

Comparison = Mapping[str, Any]
HEAD = ("", "Episodes", "Success rate", "Per 10 min", "Median steps", "With a take-over")
WORDS = (
    "Rows of differences: the run minus the first one, of throughput the run over the first one, with 95 % intervals. "
    "Success and take-overs: Newcombe's; throughput: a bootstrap over resets where both ran on the same ones of a "
    "simulator, and over episodes elsewhere; median steps: a bootstrap over episodes. An interval without 0, or "
    "without 1 of a ratio, is a difference that chance does not explain."
)


def render(made: Comparison) -> str:
    """The page. Equal comparisons give equal pages."""
    title = f"{' and '.join(made['names'])}: {made['runs'][0]['task']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Compared with {escape(made["names"][0])}.</p>',
        *(f'<p class="note">{escape(words)}.</p>' for words in made["unlike"]),
        _tiles(made),
        _results(made),
        _curves(made),
        _steps(made),
        _interventions(made),
        _advice(made),
        _settings(made),
    ]
    return document(title, "\n".join(body))


def format_comparison(made: Comparison) -> str:
    """The figures as aligned plain text."""
    lines = [f"not alike: {words}" for words in made["unlike"]]
    for group in made["groups"]:
        rows = [(group["name"], *(name.lower() for name in HEAD[1:]))]
        rows += [(each["run"], *_figures(each)) for each in group["of"]]
        rows += [(f"{each['run']} against {group['base']}", *_differences(each)) for each in group["differences"]]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append("")
    lines.append(f"{len(made['settings'])} settings, hashes and versions differ: the page lists them")
    return "\n".join(lines)


def _colours(made: Comparison) -> list[tuple[str, str, Mapping[str, Any]]]:
    return list(zip(made["names"], SERIES, made["runs"], strict=False))


def _tiles(made: Comparison) -> str:
    """The newest run against the first one, by evaluation where there is one."""
    groups = {group["key"]: group for group in made["groups"]}
    group = groups.get("rl") or groups.get("practice_last") or groups.get("practice")
    if group is None or len(made["names"]) != 2:
        return ""
    said, what = group["differences"][-1], group["name"]
    tiles = [
        (_signed(said["success"], 2), f"success, {what} {interval(said['success_ci95'])}"),
        (times(said["throughput"]), f"throughput {interval(said['throughput_ci95'])}"),
        (_signed(said["median_steps"], 0), f"median steps {_whole(said['median_steps_ci95'])}"),
        (_signed(said["interventions"], 2), f"take-overs {interval(said['interventions_ci95'])}"),
    ]
    return '<div class="tiles">' + "".join(html_tile(*tile) for tile in tiles) + "</div>"


def _results(made: Comparison) -> str:
    if not made["groups"]:
        return '<h2>Result</h2><p class="soft">The runs have no kind of episodes in common.</p>'
    colour = {name: colour for name, colour, _ in _colours(made)}
    tables = []
    for group in made["groups"]:
        rows = [(key(colour[each["run"]], each["run"]), *_figures(each)) for each in group["of"]]
        rows += [(f"{each['run']} against {group['base']}", *_differences(each)) for each in group["differences"]]
        tables.append(f'<div class="scroll wide">{html_table(group["name"], HEAD, rows)}</div>')
    return f'<h2>Result</h2><p class="soft">{WORDS}</p>{"".join(tables)}'


def _figures(group: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(group["episodes"]),
        f"{number(group['success_rate'], 2)} {interval(group['ci95'])}",
        f"{number(group['throughput_per_10min'], 1)} {_whole(group['throughput_ci95'])}".rstrip(),
        number(group["median_steps"], 0),
        f"{number(group['intervention_rate'], 2)} {interval(group['intervention_ci95'])}",
    )


def _differences(each: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "same resets" if each["paired"] else "",
        f"{_signed(each['success'], 2)} {interval(each['success_ci95'])}",
        times(each["throughput"], each["throughput_ci95"]),
        f"{_signed(each['median_steps'], 0)} {_whole(each['median_steps_ci95'])}".rstrip(),
        f"{_signed(each['interventions'], 2)} {interval(each['interventions_ci95'])}",
    )


def _curves(made: Comparison) -> str:
    figure = run_figures.practice_figure(_colours(made))
    caption = f"Over the last {WINDOW} training episodes, with 95 % bands."
    return _figure("Practice over robot time", figure, caption, "No run has practised.")


def _steps(made: Comparison) -> str:
    groups = {group["key"]: group for group in made["groups"]}
    group = groups.get("rl") or groups.get("practice_last") or groups.get("practice")
    if group is None:
        return ""
    mark = {name: SERIES[colour] for name, colour, _ in _colours(made)}
    won = [
        (each["run"], mark[each["run"]], [s for s, ok in zip(each["steps"], each["success"], strict=True) if ok])
        for each in group["of"]
    ]
    figure = histogram(won, made["runs"][0]["control_hz"])
    return _figure("Steps of successes", figure, f"Episodes: {group['name']}. Vertical line: median.", "No success.")


def _interventions(made: Comparison) -> str:
    figure = run_figures.interventions_figure(_colours(made))
    caption = f"Over the last {WINDOW} training episodes, with 95 % bands."
    return _figure("Interventions", figure, caption, "Nobody took over in a training episode.")


def _figure(title: str, figure: str, caption: str, otherwise: str) -> str:
    if not figure:
        return f'<h2>{title}</h2><p class="soft">{otherwise}</p>'
    return f'<h2>{title}</h2><figure class="wide">{figure}<figcaption>{escape(caption)}</figcaption></figure>'


def _advice(made: Comparison) -> str:
    rows = [(name, each["text"], each["why"]) for name, _, run in _colours(made) for each in run["advice"]]
    table = html_table("", ("Run", "Advice", "Why"), rows)
    return f'<h2>Advice</h2><div class="scroll left wide">{table}</div>' if rows else ""


def _settings(made: Comparison) -> str:
    rows: list[Sequence[str]] = [
        (each["name"], *(_short(value) for value in each["values"].values())) for each in made["settings"]
    ]
    if not rows:
        return '<h2>What differs</h2><p class="soft">Settings, hashes and versions are the same.</p>'
    table = html_table("", ("Setting, hash or version", *made["names"]), rows)
    return (
        '<h2>What differs</h2><p class="soft">Settings of learner and adaptation, hashes and versions that are not the '
        f'same; what a run directory does not say is none.</p><div class="scroll left wide">{table}</div>'
    )


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 24 else f"{text[:16]}…"


def _signed(value: float | None, decimals: int) -> str:
    return "none" if value is None else f"{value:+.{decimals}f}"


def _whole(bounds: Sequence[float | None] | None) -> str:
    return "" if bounds is None or None in bounds else f"[{bounds[0]:.0f}, {bounds[1]:.0f}]"
