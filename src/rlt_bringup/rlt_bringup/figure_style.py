"""Figures as inline SVG that takes its colours from the page, so it is readable in light and dark.

Colours are drawn as marks and replaced by CSS variables afterwards; text stays text, in the page's own type face.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FAINT, DEMONSTRATIONS, BASE, RLT, FOURTH = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
SERIES = {"rlt": RLT, "base": BASE, "demonstrations": DEMONSTRATIONS, "fourth": FOURTH}
"""CSS variable -> mark, in the order in which runs that are compared take them."""
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    DEMONSTRATIONS: "var(--demonstrations)",
    BASE: "var(--base)",
    RLT: "var(--rlt)",
    FOURTH: "var(--fourth)",
}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
}


def svg(draw: Callable[[Figure], None], inches: tuple[float, float], summary: str, name: str) -> str:
    """A figure of `inches` that `draw` fills, as inline SVG.

    `summary` is what a screen reader says; `name` seeds the identifiers in it: one page, one name each.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{escape(summary)}">',
        svg,
        count=1,
    )
    svg = re.sub(r"#0[1-6]0[1-6]0[1-6]\b", lambda found: _VARIABLES[found.group()], svg)
    return svg.replace("'DejaVu Sans'", "var(--face)")
