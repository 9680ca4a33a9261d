"""The table and the contact sheet of `camera_check`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rlt_vla_node.camera_timing import TimingReport
from rlt_vla_node.exposure import Exposure

TILE = 256
"""Pixels of a tile's height in the contact sheet."""
_HEADER = ("camera", "Hz", "age p50", "age p99", "skew p50", "skew p99", "dropped", "mean", "saturated", "black")


@dataclass(frozen=True)
class CameraSummary:
    """What was found of one camera. `problems`: what is wrong and what to do; empty: it is in order."""

    name: str
    timing: TimingReport
    exposure: Exposure | None
    problems: tuple[str, ...]


def table(cameras: Sequence[CameraSummary]) -> str:
    """The figures, one line a camera; ages and skews in ms."""
    rows = [_HEADER, *(_row(camera) for camera in cameras)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    lines = []
    for name, *cells in rows:
        lines.append("  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))]))
    return "\n".join(lines)


def _row(camera: CameraSummary) -> tuple[str, ...]:
    timing, exposure = camera.timing, camera.exposure
    rate = "-" if timing.rate_hz is None else f"{timing.rate_hz:.1f}"
    times = [text for pair in (timing.age_s, timing.skew_s) for text in _milliseconds(pair)]
    light = ("-", "-", "-") if exposure is None else _light(exposure)
    return camera.name, rate, *times, f"{timing.dropped}/{timing.images + timing.dropped}", *light


def _milliseconds(pair: tuple[float, float] | None) -> tuple[str, str]:
    return ("-", "-") if pair is None else (f"{pair[0] * 1e3:.1f}", f"{pair[1] * 1e3:.1f}")


def _light(exposure: Exposure) -> tuple[str, str, str]:
    return f"{exposure.mean:.0f}", f"{exposure.saturated:.0%}", f"{exposure.black:.0%}"


def contact_sheet(images: Mapping[str, np.ndarray | None]) -> np.ndarray:
    """What the VLA would see, one tile a camera with its name: (H, W, 3) uint8 RGB. None: a camera without an image.

    Pixels are enlarged unsmoothed, so that a small image shows what it has.
    """
    tiles = []
    for name, rgb in images.items():
        label = name if rgb is not None else f"{name}: no image"
        rgb = np.zeros((TILE, TILE, 3), np.uint8) if rgb is None else rgb
        width = max(1, round(rgb.shape[1] * TILE / rgb.shape[0]))
        shrinks = rgb.shape[0] > TILE
        tile = cv2.resize(rgb, (width, TILE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
        strip = np.zeros((24, width, 3), np.uint8)
        cv2.putText(strip, label, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(np.vstack([strip, tile]))
    return np.hstack(tiles)
