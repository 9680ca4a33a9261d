"""What camera drivers publish to numpy: sensor_msgs/Image, and sensor_msgs/CompressedImage of image_transport.

Encodings that lose the picture when they are read naively (Bayer patterns, depth, 16 bit) are refused, with the node
that converts them.
"""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from rlt_common.codecs import CodecError, decode_image

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
_YUV = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
READ = (*_CHANNELS, *_YUV)
"""Encodings of raw images that are read."""


def decode_raw(message: Image) -> np.ndarray:
    """sensor_msgs/Image to (H, W, 3) uint8 RGB, through cv_bridge where it is installed.

    The fallback gives the same pixels. Raises CodecError for an encoding not in `READ` and for a message whose sizes
    contradict each other.
    """
    _check_encoding(message.encoding, READ)
    channels = 2 if message.encoding in _YUV else _CHANNELS[message.encoding]
    row = message.width * channels
    whole = message.height and message.width and message.step >= row
    if not whole or len(message.data) != message.step * message.height:
        raise CodecError(
            f"image of {message.width}x{message.height} {message.encoding}, step {message.step}, "
            f"holds {len(message.data)} bytes"
        )
    if message.encoding in _YUV:
        if message.width % 2:
            raise CodecError(f"image of {message.width}x{message.height} {message.encoding}: its width must be even")
        return cv2.cvtColor(_pixels(message, channels), _YUV[message.encoding])
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return _to_rgb(_pixels(message, channels), message.encoding)
    return CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")


def decode_compressed(message: CompressedImage) -> np.ndarray:
    """A camera's sensor_msgs/CompressedImage, JPEG or PNG, to (H, W, 3) uint8 RGB.

    `format` may be "jpeg", "png", empty, or what image_transport writes: "<encoding of the source>; <codec> compressed
    <encoding of the data>". Raises CodecError on anything that is no picture.
    """
    source, _, coded = message.format.partition(";")
    if "compressedDepth" in message.format:
        raise CodecError(f"compressed image of format {message.format!r} is depth: the VLA takes colour or grey images")
    if coded:
        source = source.strip()
        debayered = source.startswith("bayer") and ("compressed bgr8" in coded or "compressed rgb8" in coded)
        if not debayered:
            _check_encoding(source, READ)
    rgb = decode_image(message)
    # JPEG and PNG files hold RGB and are read as such. Who says "compressed rgb8" gave the encoder RGB where it takes
    # BGR: the channels are swapped inside the file, as image_transport's own subscriber has it.
    return np.ascontiguousarray(rgb[:, :, ::-1]) if "compressed rgb" in coded else rgb


def _check_encoding(encoding: str, known: tuple[str, ...]) -> None:
    if encoding.startswith("bayer"):
        raise CodecError(
            f"image encoding {encoding!r} is a sensor's raw pattern: have the driver publish rgb8, or start `ros2 run "
            "image_proc debayer_node` and name its image_color as topic"
        )
    if encoding not in known:
        raise CodecError(
            f"image encoding {encoding!r}: have the driver publish one of {', '.join(known)} (depth and 16 bit images "
            "are none that the VLA takes)"
        )


def _pixels(message: Image, channels: int) -> np.ndarray:
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows[:, : message.width * channels].reshape(message.height, message.width, channels)


def _to_rgb(pixels: np.ndarray, encoding: str) -> np.ndarray:
    if encoding in ("bgr8", "bgra8"):
        return np.ascontiguousarray(pixels[:, :, 2::-1])
    if encoding == "mono8":
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3])
