"""A camera's serialised message to the image that the VLA takes."""

from __future__ import annotations

import numpy as np
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from rlt_common.camera_codecs import decode_compressed, decode_raw
from rlt_common.codecs import CodecError
from rlt_common.config import CameraConfig
from rlt_vla_node.images import prepare_image

RMWError = rclpy_implementation.RMWError


def image_type(camera: CameraConfig) -> type[Image] | type[CompressedImage]:
    """The message type of a camera's topic."""
    return CompressedImage if camera.transport == "compressed" else Image


def read_image(data: bytes, camera: CameraConfig) -> np.ndarray:
    """A camera's serialised message to (height, width, 3) uint8 RGB, as the VLA takes it. Raises CodecError."""
    kind = image_type(camera)
    try:
        message = deserialize_message(data, kind)
    except RMWError as error:
        raise CodecError(f"camera {camera.name}: {len(data)} bytes that are no {kind.__name__}: {error}") from error
    try:
        rgb = decode_compressed(message) if kind is CompressedImage else decode_raw(message)
        return prepare_image(rgb, camera)
    except CodecError as error:
        raise CodecError(f"camera {camera.name}: {error}") from error
