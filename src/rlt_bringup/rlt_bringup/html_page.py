"""One self-contained page in the look of all our pages: style, tables and tiles; nothing is fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

CSS = """
:root { color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #23272e; --soft: #636b76; --faint: #b9bec6; --line: #e4e2dd;
  --demonstrations: #3f9a83; --base: #5a78a8; --rlt: #d9722e; --fourth: #9a5aa8;
  --face: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15181d; --card: #1d2127; --ink: #e6e8eb; --soft: #9aa3af; --faint: #59616c; --line: #2e343c;
  --demonstrations: #5fc0a6; --base: #8ba9dc; --rlt: #f0924f; --fourth: #c795d6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 var(--face); }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 48px 0 4px; }
h3 { font-size: 16.5px; margin: 34px 0 4px; }
a { color: inherit; }
p { margin: 0 0 14px; max-width: 72ch; }
.soft, figcaption, th, .tile span { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin: 26px 0 10px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; }
.tile b { display: block; font-size: 25px; line-height: 1.3; white-space: nowrap; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 13.5px; }
.pair { display: grid; grid-template-columns: minmax(0, 7fr) minmax(0, 4fr); gap: 28px; align-items: start;
  margin-top: 14px; }
@media (max-width: 860px) { .pair { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: 13.5px; margin-top: 10px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 6px; }
th { font-weight: 500; text-align: left; vertical-align: bottom; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); }
td + td, th + th { text-align: right; }
td + td, .scroll td { white-space: nowrap; }
.columns td + td { white-space: normal; }
.pair th { white-space: nowrap; }
td:last-child, th:last-child { padding-right: 0; }
tr.strong td { font-weight: 650; }
.facts { table-layout: fixed; }
.facts td { overflow-wrap: anywhere; }
.facts td:first-child { width: 54%; }
.facts td + td { text-align: left; white-space: normal; overflow-wrap: anywhere;
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
.note { border-left: 3px solid var(--rlt); padding: 2px 0 2px 14px; }
.advice { list-style: none; margin: 18px 0 0; padding: 0; display: grid; gap: 12px; }
.advice li { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--base);
  border-radius: 8px; padding: 12px 16px; }
.advice li.warning { border-left-color: var(--rlt); }
.advice b { display: block; font-weight: 600; }
.advice span { color: var(--soft); font-size: 14px; }
.wide { margin-top: 14px; }
figure.wide { max-width: 800px; }
.left td + td, .left th + th { text-align: left; white-space: normal; overflow-wrap: break-word; }
.left td:first-child { white-space: nowrap; }
.pair .left td:first-child { white-space: normal; width: 45%; }
.left td:last-child, .left th:last-child { text-align: right; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 36px; margin-top: 14px; }
@media (max-width: 560px) {
  main { padding: 24px 14px 48px; } h1 { font-size: 24px; } h2 { margin-top: 36px; }
  figure { padding: 8px; overflow-x: auto; } figure svg { min-width: 520px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .tile { padding: 12px; } .tile b { font-size: 20px; }
  .columns { grid-template-columns: minmax(0, 1fr); } .left td:first-child { white-space: normal; } }
"""


class Raw(str):
    """Text that is markup already."""


def document(title: str, body: str) -> str:
    """The whole page around a body's markup."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def html_tile(figure: str, words: str) -> str:
    """One figure, large, and what it is."""
    return f'<div class="tile"><b>{escape(figure)}</b><span>{escape(words)}</span></div>'


def html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], strong: int = -1) -> str:
    """A table; "" without rows. `strong`: the row that stands out."""
    if not rows:
        return ""
    lines = [f"<caption>{escape(caption)}</caption>"] if caption else []
    if any(head):
        lines.append(_row("th", head))
    lines += [_row("td", row, "strong" if i == strong else "") for i, row in enumerate(rows)]
    return f"<table>{''.join(lines)}</table>"


def html_facts(caption: str, values: Mapping[str, Any]) -> str:
    """A table of names and values."""
    return html_table(caption, ("", ""), [(k, str(v)) for k, v in values.items()]).replace(
        "<table", '<table class="facts"', 1
    )


def _row(tag: str, cells: Iterable[str], style: str = "") -> str:
    inside = "".join(f"<{tag}>{cell if isinstance(cell, Raw) else escape(cell)}</{tag}>" for cell in cells)
    return f'<tr class="{style}">{inside}</tr>' if style else f"<tr>{inside}</tr>"


def key(colour: str, name: str) -> Raw:
    """A name with the colour (a CSS variable) that it has in a figure."""
    return Raw(f'<span class="key" style="background: var(--{colour})"></span>{escape(name)}')


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def shown(value: Any) -> str:
    """A value for a reader."""
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "none" if value is None else str(value)


def section(title: str, words: str, figure: str, caption: str, table: str) -> str:
    """A figure with its words and a table beside it."""
    if not figure:
        return f'<h2>{escape(title)}</h2><p class="soft">No episode to show.</p>'
    return (
        f'<h2>{escape(title)}</h2><p class="soft">{escape(words)}</p><div class="pair">'
        f"<figure>{figure}<figcaption>{escape(caption)}</figcaption></figure><div>{table}</div></div>"
    )
