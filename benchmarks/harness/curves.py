"""Learning curves of several variants as one SVG file, for a page that shows it in light and dark."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rlt_bringup.report_figures import WINDOW, rolling
from rlt_bringup.statistics import THROUGHPUT_WINDOW_S
from rlt_common.atomic import write_atomic

_COLOURS = ("#0b6e99", "#c4531d", "#3f8f4f", "#8a4fa3", "#a07d00", "#b23a6b", "#5b6770")
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
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        for (name, seeds), colour in zip(curves.items(), _COLOURS, strict=False):
            lines = [throughput_curve(np.asarray(s, float), np.asarray(n, float), control_hz) for s, n in seeds]
            shortest = min(map(len, lines))
            episodes = np.arange(1, shortest + 1)
            for line in lines if len(lines) > 1 else ():
                axis.plot(episodes, line[:shortest], color=colour, linewidth=0.7, alpha=0.35)
            axis.plot(
                episodes, np.mean([line[:shortest] for line in lines], axis=0), color=colour, linewidth=2.0, label=name
            )
        if base is not None:
            axis.axhline(base, color="#555555", linewidth=1.2, linestyle=(0, (5, 3)), label="base VLA, evaluation")
        axis.set(
            title=title,
            xlabel="training episode, warm-up included",
            ylabel=f"successes per 10 min, last {WINDOW} episodes",
            ylim=(0, None),
        )
        axis.legend(loc="upper left")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue().encode())
    return path
