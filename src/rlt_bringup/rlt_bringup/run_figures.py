"""The figures of a run's report: practice over robot time, interventions, what the learner saw, how even steps came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from rlt_bringup.figure_style import BASE, DEMONSTRATIONS, FAINT, RLT, SERIES, svg
from rlt_bringup.report_figures import histogram

WIDTH = 7.2
Run = Mapping[str, Any]


def practice_figure(runs: Sequence[tuple[str, str, Run]]) -> str:
    """Success and throughput over robot minutes with 95 % bands, of one run or several (name, colour, run).

    "" when none has practised.
    """
    runs = [each for each in runs if each[2]["practice"]["episode_id"]]
    if not runs:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, 1, sharex=True)
        for name, colour, run in runs:
            curve = run["practice"]
            minutes = np.array(curve["critical_minutes"])
            _band(axes[0], minutes, curve["success_rate"], SERIES[colour], name)
            _band(axes[1], minutes, curve["throughput"], SERIES[colour], name)
            if len(runs) == 1:
                axes[0].scatter(minutes, curve["success"], s=11, color=SERIES[colour], alpha=0.35, linewidth=0)
                _warmup(axes, minutes, curve["warmup_episodes"])
        axes[0].set(ylim=(-0.06, 1.06), yticks=(0, 0.5, 1), title="success rate")
        last = max(run["practice"]["critical_minutes"][-1] for _, _, run in runs)
        axes[1].set(title="successes per 10 minutes", xlabel="robot minutes in the critical phase", xlim=(0, last))
        axes[1].set_ylim(bottom=0)
        if len(runs) > 1:
            axes[0].legend(loc="lower right")

    summary = "Practice over robot time, success and throughput with 95 % bands. " + " ".join(
        f"{name}: success of the last window {run['practice']['success_rate'][-1][0]:.2f}." for name, _, run in runs
    )
    return svg(draw, (WIDTH, 4.6), summary, "practice")


def histogram_figure(run: Run) -> str:
    """Fig. 9 of whatever groups there are."""
    groups = [(group["name"], SERIES[group["colour"]], group["steps"]) for group in run["histogram"]["groups"]]
    return histogram(groups, run["control_hz"])


def interventions_figure(runs: Sequence[tuple[str, str, Run]]) -> str:
    """Share of episodes with a take-over, and a human's steps. "" when nobody took over."""
    runs = [each for each in runs if any(each[2]["practice"]["intervened"])]
    if not runs:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, 1, sharex=True)
        for name, colour, run in runs:
            curve = run["practice"]
            minutes = np.array(curve["critical_minutes"])
            _band(axes[0], minutes, curve["intervention_rate"], SERIES[colour], name)
            axes[1].vlines(minutes, 0, curve["human_steps"], color=SERIES[colour], linewidth=1.6)
        axes[0].set(ylim=(-0.06, 1.06), yticks=(0, 0.5, 1), title="share of episodes with a take-over")
        axes[1].set(title="steps by a human in the critical phase", xlabel="robot minutes in the critical phase")
        axes[1].set_ylim(bottom=0)
        axes[1].set_xlim(left=0)
        if len(runs) > 1:
            axes[0].legend(loc="upper right")

    helped = " ".join(f"{name}: {sum(run['practice']['intervened'])} episodes." for name, _, run in runs)
    return svg(draw, (WIDTH, 4.0), f"Interventions over robot time. Episodes with a take-over: {helped}", "helped")


def learning_figure(run: Run) -> str:
    """What the learner measured, over the episodes that it took in. "" without metrics.jsonl."""
    learning = run["learning"]
    if not learning:
        return ""
    columns = {name: np.array([np.nan if v is None else v for v in values], float) for name, values in learning.items()}
    episode = np.arange(1, len(columns["q_mean"]) + 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, 2, sharex=True).ravel()
        axes[0].plot(episode, columns["episode_return"], ".", color=BASE, alpha=0.45, markersize=4, label="returned")
        axes[0].plot(episode, columns["q_mean"], color=RLT, label="expected")
        axes[0].set(title="Q and return", ylim=(0, None))
        axes[0].legend(loc="upper left", fontsize=8.5)
        axes[1].plot(episode, columns["reference_distance"], color=RLT)
        axes[1].set(title="|pi - reference|, spreads", ylim=(0, None))
        axes[2].plot(episode, columns["critic_loss"], color=RLT)
        _logarithmic(axes[2], columns["critic_loss"])
        axes[2].set(title="critic loss", xlabel="episode")
        axes[3].plot(episode, columns["beta"], color=DEMONSTRATIONS)
        _logarithmic(axes[3], columns["beta"])
        axes[3].set(title="beta", xlabel="episode")
        for axis in axes:
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    last = {name: values[-1] for name, values in columns.items()}
    summary = (
        f"What the learner measured over {len(episode)} episodes. At the end: Q {last['q_mean']:.2f}, distance to the "
        f"reference {last['reference_distance']:.2f} spreads, critic loss {last['critic_loss']:.3g}."
    )
    return svg(draw, (WIDTH, 4.4), summary, "learner")


def jitter_figure(run: Run) -> str:
    """How far steps are from one period apart. "" where there are none, and in simulated time, where none is."""
    control = run["control"]
    counts, edges = np.array(control["histogram"]["counts"]), np.array(control["histogram"]["edges"])
    if not counts.sum() or control["exact"]:
        return ""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        share = 100.0 * counts / counts.sum()
        axis.bar(edges[:-1], share, np.diff(edges) * 0.92, align="edge", color=BASE)
        axis.axvline(control["uneven_ms"]["p99"], color=RLT, linewidth=1.6)
        axis.set(xscale="log", xlabel="ms off one control period", ylabel="% of steps", title="line: 99 % are below it")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

    figures = control["uneven_ms"]
    summary = f"Control steps off one period: median {figures['p50']:.2f} ms, 99 % below {figures['p99']:.2f} ms."
    return svg(draw, (WIDTH, 2.6), summary, "jitter")


def _band(axis: Axes, x: np.ndarray, rates: Sequence[Sequence[float | None]], colour: str, name: str) -> None:
    """A rate and its 95 % band."""
    rate, low, high = np.array([[np.nan if v is None else v for v in each] for each in rates], float).T
    axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axis.plot(x, rate, color=colour, label=name)


def _warmup(axes: Sequence[Axes], minutes: np.ndarray, episodes: int) -> None:
    if episodes:
        for axis in axes:
            axis.axvspan(0, minutes[episodes - 1], color=FAINT, alpha=0.18, linewidth=0)
        axes[-1].annotate(
            "warm-up: the base VLA drives",
            (0, 1),
            (5, -12),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=9,
        )


def _logarithmic(axis: Axes, values: np.ndarray) -> None:
    if np.nanmin(values, initial=np.inf) > 0 and np.isfinite(values).any():
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter(NullFormatter())
