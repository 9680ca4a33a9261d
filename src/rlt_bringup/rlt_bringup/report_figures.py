"""The report's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlt_bringup.figure_style import BASE, DEMONSTRATIONS, FAINT, INK, RLT, svg

WINDOW = 20  # training episodes in a rolling figure


def learning_curve(report: Mapping[str, Any]) -> str:
    """Success, steps and throughput over the training episodes; robot minutes on the second axis. "" without any."""
    training, base = report["training"], report["base"]
    curve = training["curve"]
    count = len(curve["success"])
    if count == 0:
        return ""
    success = np.array(curve["success"], float)
    steps = np.array(curve["steps"], float)
    episode = np.arange(1, count + 1)
    per_10min = 600.0 * report["control_hz"] * rolling(success) / np.maximum(rolling(steps), 1.0)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(3, 1, sharex=True)
        _warmup(axes, training["warmup_episodes"])
        axes[0].scatter(episode, success, s=13, color=RLT, alpha=0.4, linewidth=0)
        axes[0].plot(episode, rolling(success), color=RLT)
        axes[0].set(ylim=(-0.08, 1.08), yticks=(0, 0.5, 1), title="success rate")
        won = success > 0
        axes[1].scatter(episode[won], steps[won], s=13, color=RLT, alpha=0.4, linewidth=0)
        axes[1].plot(episode, _rolling_median(steps, won), color=RLT)
        axes[1].set(title="steps of successful episodes", ylim=(0, 1.1 * steps.max(initial=1.0)))
        axes[2].plot(episode, per_10min, color=RLT)
        axes[2].set(
            title="successes per 10 minutes",
            ylim=(0, 1.3 * max(per_10min.max(), 1.0)),
            xlabel="training episode",
            xlim=(0.5, count + 0.5),
        )
        axes[2].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis, level in zip(axes, ("success_rate", "median_steps", "throughput_per_10min"), strict=True):
            if base[level] is not None:
                axis.axhline(base[level], color=BASE, linewidth=1.4, linestyle=(0, (5, 3)))
        _robot_minutes(axes[0], curve["robot_minutes"])

    summary = (
        f"Learning curve over {count} training episodes, {training['warmup_episodes']} of them warm-up with the base "
        f"VLA: success rate, steps and throughput, each over a window of {WINDOW} episodes. "
        f"Success rate of the last window: {rolling(success)[-1]:.2f}; the base VLA's in evaluation is dashed."
    )
    return svg(draw, (7.2, 5.6), summary, "learning")


def steps_histogram(report: Mapping[str, Any]) -> str:
    """Steps of successful critical phases: demonstrations, base, RLT (the paper's Fig. 9). "" when there are none."""
    return histogram(_groups(report), report["control_hz"])


def histogram(groups: Sequence[tuple[str, str, Sequence[int]]], control_hz: float) -> str:
    """Steps of groups of episodes (name, colour, steps), one below the other. "" when there are none."""
    groups = [(name, colour, steps) for name, colour, steps in groups if steps]
    if not groups:
        return ""
    longest = max(max(steps) for _, _, steps in groups)
    edges = np.linspace(0, longest * 1.0001, 36)

    def draw(figure: Figure) -> None:
        axes = np.atleast_1d(figure.subplots(len(groups), 1, sharex=True))
        for axis, (name, colour, steps) in zip(axes, groups, strict=True):
            weights = np.full(len(steps), 100.0 / len(steps))
            heights, _, _ = axis.hist(steps, bins=edges, weights=weights, color=colour, rwidth=0.9)
            middle = float(np.median(steps))
            axis.axvline(middle, color=INK, linewidth=1.2)
            axis.annotate(
                f"median {middle:.0f}",
                (middle, 0.85),
                (5, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=9,
            )
            axis.set(title=name, ylabel="% of episodes", xlim=(0, edges[-1]), ylim=(0, 1.3 * heights.max()))
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes[-1].set_xlabel("control steps of the critical phase")
        _seconds(axes[0], control_hz)

    summary = "Histogram of critical-phase steps of successful episodes. " + " ".join(
        f"{name}: {len(steps)} episodes, median {np.median(steps):.0f}." for name, _, steps in groups
    )
    return svg(draw, (7.2, 1.0 + 1.5 * len(groups)), summary, "histogram")


def success_over_time(report: Mapping[str, Any]) -> str:
    """Share of evaluation episodes that are done within a time. "" without any episode."""
    policies = [(report["base"], BASE), (report["rlt"], RLT)]
    policies = [(policy, colour) for policy, colour in policies if policy["episodes"]]
    if not policies:
        return ""
    end = max(max(policy["steps"]) for policy, _ in policies) / report["control_hz"]

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for policy, colour in policies:
            won = np.sort(_won(policy)) / report["control_hz"]
            share = np.arange(len(won) + 1) / policy["episodes"]
            axis.step([0.0, *won, end], [*share, share[-1]], where="post", color=colour, label=policy["name"])
        axis.set(xlim=(0, end), ylim=(0, 1.03), xlabel="seconds of the critical phase", title="share of episodes done")
        axis.legend(loc="upper left")

    summary = "Share of evaluation episodes that succeeded within a time. " + " ".join(
        f"{policy['name']}: {policy['successes']} of {policy['episodes']} in the end." for policy, _ in policies
    )
    return svg(draw, (7.2, 3.3), summary, "time")


def rolling(values: np.ndarray) -> np.ndarray:
    """(N,) means over the last WINDOW values, over fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(0, end - WINDOW)
    return (total[end] - total[begin]) / (end - begin)


def _rolling_median(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    windows = [slice(max(0, end - WINDOW), end) for end in range(1, len(values) + 1)]
    return np.array([np.median(values[w][keep[w]]) if keep[w].any() else np.nan for w in windows])


def _won(policy: Mapping[str, Any]) -> list[int]:
    return [steps for steps, success in zip(policy["steps"], policy["success"], strict=True) if success]


def _groups(report: Mapping[str, Any]) -> list[tuple[str, str, Sequence[int]]]:
    return [
        ("demonstrations", DEMONSTRATIONS, report["demonstrations"]["steps"]),
        (report["base"]["name"], BASE, _won(report["base"])),
        (report["rlt"]["name"], RLT, _won(report["rlt"])),
    ]


def _warmup(axes: Sequence[Axes], episodes: int) -> None:
    if episodes:
        for axis in axes:
            axis.axvspan(0.5, episodes + 0.5, color=FAINT, alpha=0.18, linewidth=0)
        axes[-1].annotate(
            "warm-up: the base VLA drives",
            (0.5, 1),
            (5, -12),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=9,
        )


def _robot_minutes(axis: Axes, minutes: Sequence[float]) -> None:
    ticks = MaxNLocator(7, integer=True).tick_values(0, minutes[-1])
    ticks = [tick for tick in ticks if 0 <= tick <= minutes[-1]]
    at = np.interp(ticks, [0.0, *minutes], np.arange(len(minutes) + 1) + 0.5)
    upper = axis.twiny()
    upper.set(xlim=axis.get_xlim(), xticks=at, xticklabels=[f"{tick:g}" for tick in ticks])
    upper.set_xlabel("robot minutes", loc="right")
    upper.grid(False)
    upper.spines["bottom"].set_visible(False)


def _seconds(axis: Axes, control_hz: float) -> None:
    upper = axis.secondary_xaxis("top", functions=(lambda steps: steps / control_hz, lambda s: s * control_hz))
    upper.set_xlabel("seconds", loc="right")
    upper.spines["top"].set_visible(False)
