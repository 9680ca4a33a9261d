"""A camera's image to the size that the VLA takes."""

from __future__ import annotations

import cv2
import numpy as np


def fit_image(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 to (height, width, 3): the largest centred crop of that aspect ratio, then resized by area.

    An image that already has the size comes back unchanged, to the bit.
    """
    rows, columns = rgb.shape[:2]
    if (rows, columns) == (height, width):
        return rgb
    keep_rows = min(rows, max(1, round(columns * height / width)))
    keep_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - keep_rows) // 2, (columns - keep_columns) // 2
    crop = rgb[top : top + keep_rows, left : left + keep_columns]
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
