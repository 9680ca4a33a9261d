"""Learning curves as one SVG file, for a page that shows it in light and dark."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rlt_bringup.report_figures import WINDOW, rolling
from rlt_bringup.statistics import THROUGHPUT_WINDOW_S
from rlt_common.atomic import write_atomic

_COLOURS = ("#0b6e99", "#c4531d", "#3f8f4f", "#8a4fa3", "#a07d00", "#b23a6b", "#5b6770")
_YLABEL = f"successes per 10 min, last {WINDOW} episodes"
_POINTS = 300
_STYLE = {
    "svg.hashsalt": "curves",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.35,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class TaskCurves:
    """What one panel of :func:`write_task_curves` shows."""

    seeds: Sequence[tuple[np.ndarray, np.ndarray]]
    """Of every seed: success and critical steps of each training episode, (N,) each."""
    base: float | None
    """Throughput of the base VLA, successes per 10 minutes."""


def throughput_curve(success: np.ndarray, steps: np.ndarray, control_hz: float) -> np.ndarray:
    """Successes per 10 minutes over the last WINDOW training episodes, (N,), from (N,) success and control steps."""
    return THROUGHPUT_WINDOW_S * control_hz * rolling(success) / np.maximum(rolling(steps), 1.0)


def write_curves(
    path: Path,
    curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    *,
    control_hz: float,
    base: float | None,
    title: str,
) -> Path:
    """Draw one line per variant, the mean over its seeds, and the seeds themselves thinly.

    Args:
        path: of the SVG file.
        curves: variant -> for every seed success (N,) and critical steps (N,) of the training episodes in order.
        control_hz: control steps per second.
        base: throughput of the base VLA, a dashed line; None: no line.
        title: above the picture.
    """
    with matplotlib.rc_context(_STYLE):
        figure = _figure(8.8, 5.0)
        axis = figure.subplots()
        for (name, seeds), colour in zip(curves.items(), _COLOURS, strict=False):
            lines = [throughput_curve(np.asarray(s, float), np.asarray(n, float), control_hz) for s, n in seeds]
            shortest = min(map(len, lines))
            _draw(axis, np.arange(1, shortest + 1), [line[:shortest] for line in lines], colour, name)
        _draw_base(axis, base)
        axis.set(title=title, xlabel="training episode, warm-up included", ylabel=_YLABEL, ylim=(0, None))
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return _write(path, figure)


def write_task_curves(path: Path, panels: Mapping[str, TaskCurves], *, control_hz: float) -> Path:
    """Draw a panel per task over its robot data: the mean over the seeds, the seeds thinly, and the base VLA.

    A mean ends where the first of its seeds does.

    Args:
        path: of the SVG file.
        panels: title -> curves.
        control_hz: control steps per second.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = _figure(0.6 + 3.9 * columns, 0.4 + 2.8 * rows)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axis, (title, panel), colour in zip(axes.flat, panels.items(), _COLOURS, strict=False):
            minutes = [np.cumsum(np.asarray(n, float)) / control_hz / 60.0 for _, n in panel.seeds]
            lines = [throughput_curve(np.asarray(s, float), np.asarray(n, float), control_hz) for s, n in panel.seeds]
            common = np.linspace(max(m[0] for m in minutes), min(m[-1] for m in minutes), _POINTS)
            _draw(axis, common, [np.interp(common, m, y) for m, y in zip(minutes, lines, strict=True)], colour, "RLT")
            _draw_base(axis, panel.base)
            axis.set(title=title, xlim=(0, None), ylim=(0, None))
            axis.legend(loc="upper left")
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        figure.supxlabel("minutes of robot data, warm-up included", fontsize=9.5)
        figure.supylabel(_YLABEL, fontsize=9.5)
        return _write(path, figure)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _draw(axis: Axes, x: np.ndarray, lines: Sequence[np.ndarray], colour: str, name: str) -> None:
    """The mean of `lines` over `x`, and behind it the lines themselves where there are several."""
    for line in lines if len(lines) > 1 else ():
        axis.plot(x, line, color=colour, linewidth=0.7, alpha=0.35)
    axis.plot(x, np.mean(lines, axis=0), color=colour, linewidth=2.0, label=name)


def _draw_base(axis: Axes, base: float | None) -> None:
    if base is not None:
        axis.axhline(base, color="#555555", linewidth=1.2, linestyle=(0, (5, 3)), label="base VLA, evaluation")


def _write(path: Path, figure: Figure) -> Path:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue().encode())
    return path
