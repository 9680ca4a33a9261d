"""Curves of an adaptation from its metrics.jsonl, as one SVG: losses in training and on held-out frames."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from rlt_common.reading import parse_json, read_limited
from rlt_vla_node.training_log import MAX_METRICS_BYTES

PANELS = {
    "L_vla": ("flow", "validation_flow"),
    "L_ro": ("reconstruction", "validation_reconstruction", "validation_shuffled"),
    "gradient norm": ("gradient_norm",),
}
LABELS = {
    "flow": "training",
    "reconstruction": "training",
    "gradient_norm": "training",
    "validation_flow": "held out",
    "validation_reconstruction": "held out",
    "validation_shuffled": "held out, z_rl of another frame",
}


def draw_curves(log: Path, target: Path) -> None:
    """Draw `log` into `target`. A log without entries gives empty axes."""
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "rlt"
    entries = [parse_json(line) for line in read_limited(log, MAX_METRICS_BYTES).decode().splitlines()]
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name in names:
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            if points:
                axes.plot(
                    *zip(*points, strict=True), marker="." if name.startswith("validation") else "", label=LABELS[name]
                )
        axes.set(title=title, xlabel="step", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, metadata={"Date": None})
