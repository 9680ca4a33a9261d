"""Figures of a played-back episode, in the look of the report's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlt_bringup.figure_style import BASE, DEMONSTRATIONS, FAINT, INK, RLT, svg

COLUMNS = 2
STAGE_COLOURS = {"camera": FAINT, "vla wait": BASE, "vla": DEMONSTRATIONS, "policy": RLT, "transport": INK}


def actions(found: Mapping[str, Any], name: str) -> str:
    """Recorded and played chunks and the VLA's reference, per component over control steps. "" without any row."""
    rows = found["rows"]
    if not rows["steps"]:
        return ""
    steps = np.array(rows["steps"])
    recorded, reference = np.array(rows["recorded"]), np.array(rows["reference"])
    nothing = [np.nan] * recorded.shape[1]
    played = np.array([row if row else nothing for row in rows["played"]], float)
    names = found["components"] if len(found["components"]) == recorded.shape[1] else range(recorded.shape[1])

    def draw(figure: Figure) -> None:
        height = -(-recorded.shape[1] // COLUMNS)
        axes = np.atleast_2d(figure.subplots(height, COLUMNS, sharex=True))
        for i, component in enumerate(names):
            axis = axes[i % height, i // height]
            axis.plot(steps, reference[:, i], color=BASE, linewidth=1.0, linestyle=(0, (3, 2)), label="VLA's reference")
            axis.plot(steps, recorded[:, i], color=INK, linewidth=1.4, label="recorded")
            axis.plot(steps, played[:, i], color=RLT, linewidth=1.0, label="played")
            axis.set_title(component, fontsize=8.5)
            axis.tick_params(labelsize=7.5)
            axis.yaxis.set_major_locator(MaxNLocator(3))
            axis.ticklabel_format(axis="y", scilimits=(-3, 3), useMathText=False)
            axis.yaxis.get_offset_text().set_fontsize(7)
        for unused in axes.flat[recorded.shape[1] :]:
            unused.set_visible(False)
        for axis in axes[-1]:
            axis.set_xlabel("control step")
        lines, words = axes[0, 0].get_legend_handles_labels()
        figure.legend(lines, words, loc="outside upper right", fontsize=8, ncols=3)

    summary = f"Actions of {len(steps)} control steps, {recorded.shape[1]} components: recorded, played and reference."
    return svg(draw, (9.6, 1.0 + 1.05 * -(-recorded.shape[1] // COLUMNS)), summary, f"{name}-actions")


def distance_and_q(found: Mapping[str, Any], name: str) -> str:
    """|pi - reference| and Q of each chunk of the critical phase over time, jumps marked. "" without such a chunk."""
    chunks = [chunk for chunk in found["chunks"] if chunk["critical"]]
    if not chunks:
        return ""
    time_s = np.array([chunk["time_s"] for chunk in chunks])
    critics = found["critics"]

    def draw(figure: Figure) -> None:
        axes = np.atleast_1d(figure.subplots(1 + bool(critics) + 1, 1, sharex=True))
        own = np.array([chunk["distance"] for chunk in chunks])
        axes[0].plot(time_s, own, color=INK, marker="o", markersize=2.5, linewidth=1.2, label="recorded")
        axes[0].plot(time_s, _values(chunks, "distance_played"), color=RLT, linewidth=1.2, label="played")
        axes[0].set(title="|pi - reference|, spreads", ylim=(0, None))
        axes[0].legend(fontsize=8, ncols=2, loc="best")
        _mark(axes[0], chunks, "|pi - reference|", own)
        if critics:
            critic = critics[0]
            q = np.array([_number(chunk["q"][critic]) for chunk in chunks])
            reference = np.array([_number(chunk["q_reference"][critic]) for chunk in chunks])
            again = np.array([_number(chunk["q_played"][critic]) for chunk in chunks])
            axes[1].plot(time_s, reference, color=BASE, linewidth=1.0, linestyle=(0, (3, 2)), label="the reference")
            axes[1].plot(time_s, q, color=INK, marker="o", markersize=2.5, linewidth=1.2, label="recorded")
            axes[1].plot(time_s, again, color=RLT, linewidth=1.2, label="played")
            axes[1].set(title=f"Q of the chunk by {critic}")
            axes[1].legend(fontsize=8, ncols=3, loc="best")
            _mark(axes[1], chunks, f"Q of {critic}", q)
        axes[-1].bar(time_s, _values(chunks, "difference"), width=_width(time_s), color=RLT)
        axes[-1].set(title="played - recorded, root mean square, spreads", xlabel="seconds since the episode's start")

    jumped = sum(bool(chunk.get("jumps")) for chunk in chunks)
    summary = f"Distance to the reference and Q of {len(chunks)} chunks; {jumped} of them jump."
    return svg(draw, (9.6, 2.0 * (2 + bool(critics))), summary, f"{name}-chunks")


def timing(found: Mapping[str, Any], name: str) -> str:
    """Where the time of each chunk went. "" when nothing recorded it."""
    late = found["late"]
    chunks = late["chunks"]
    if not late["timed"] or not chunks:
        return ""
    time_s = np.array([chunk["time_s"] for chunk in chunks])

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        base = np.zeros(len(chunks))
        for stage, colour in STAGE_COLOURS.items():
            spent = 1e3 * np.array([max(_number(chunk["stages"][stage], 0.0), 0.0) for chunk in chunks])
            if spent.any():
                axis.bar(time_s, spent, width=_width(time_s), bottom=base, color=colour, label=stage)
            base = base + spent
        blamed = [i for i, chunk in enumerate(chunks) if chunk["late"]]
        axis.scatter(time_s[blamed], base[blamed], color=RLT, marker="v", s=22, label="late" if blamed else None)
        top = 1.3 * max(float(base.max()), 1.0)
        axis.set(title="ms of each chunk", xlabel="seconds since the episode's start", ylim=(0, top))
        axis.legend(fontsize=8, ncols=6, loc="upper right")

    summary = f"Time of {len(chunks)} chunks by stage; {sum(chunk['late'] for chunk in chunks)} came late."
    return svg(draw, (9.6, 2.8), summary, f"{name}-timing")


def limits(found: Mapping[str, Any], name: str) -> str:
    """Which limit cuts which executed step short, and how much of it. "" when none does."""
    limited = found["limits"]
    names = list(limited["by_limit"])
    if not names:
        return ""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for i, limit in enumerate(names):
            cut = [step["step"] for step in limited["steps"] if limit in step["limits"]]
            axis.scatter(cut, [i] * len(cut), marker="|", s=90, color=RLT, linewidth=1.2)
        stopped = [step["step"] for step in limited["steps"] if step["stopped"]]
        axis.scatter(stopped, [-0.8] * len(stopped), marker="x", s=22, color=INK, label="stopped" if stopped else None)
        before = [step["step"] for step in limited["steps"] if step["recorded"]]
        axis.scatter(before, [len(names) - 0.2] * len(before), marker="|", s=60, color=BASE, linewidth=1.2)
        ticks = [*range(len(names)), len(names) - 0.2, *([-0.8] if stopped else [])]
        words = [*names, "clamped when recorded", *(["stopped"] if stopped else [])]
        axis.set(yticks=ticks, yticklabels=words, xlabel="control step", xlim=(0, max(limited["executed"], 1)))

    summary = "Executed steps that limits cut short. " + " ".join(f"{k}: {v}." for k, v in limited["by_limit"].items())
    return svg(draw, (9.6, 1.3 + 0.35 * len(names)), summary, f"{name}-limits")


def _number(value: float | None, otherwise: float = np.nan) -> float:
    return otherwise if value is None else float(value)


def _values(chunks: list[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([_number(chunk[key]) for chunk in chunks])


def _width(time_s: np.ndarray) -> float:
    return 0.7 * float(np.min(np.diff(time_s))) if len(time_s) > 1 and np.min(np.diff(time_s)) > 0 else 0.05


def _mark(axis: Axes, chunks: list[Mapping[str, Any]], what: str, values: np.ndarray) -> None:
    """A triangle and the control step at every jump."""
    for chunk, value in zip(chunks, values, strict=True):
        if what in chunk.get("jumps", ()) and np.isfinite(value):
            axis.scatter([chunk["time_s"]], [value], color=RLT, marker="v", s=26, zorder=3)
            axis.annotate(
                f"step {chunk['step']}",
                (chunk["time_s"], value),
                (3, 5),
                textcoords="offset points",
                fontsize=7.5,
            )
