"""A camera's image to what the VLA takes: crop, rotation, size."""

from __future__ import annotations

import cv2
import numpy as np

from rlt_common.codecs import CodecError
from rlt_common.config import CameraConfig

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def prepare_image(rgb: np.ndarray, camera: CameraConfig) -> np.ndarray:
    """(H, W, 3) uint8 of the camera to (camera.height, camera.width, 3): its crop, then its rotation, then the size.

    Raises CodecError when the crop leaves the image.
    """
    if camera.crop:
        left, top, width, height = camera.crop
        rows, columns = rgb.shape[:2]
        if left + width > columns or top + height > rows:
            raise CodecError(f"crop {list(camera.crop)} leaves the image of {columns}x{rows} pixels")
        rgb = rgb[top : top + height, left : left + width]
    if camera.rotation:
        rgb = cv2.rotate(rgb, _TURNS[camera.rotation])
    return fit_image(rgb, camera.height, camera.width)


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
