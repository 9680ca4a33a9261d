"""Messages to numpy and back, in one place; what camera drivers publish is read in `camera_codecs`.

Publishing takes bytes or array.array: assigning a list or a numpy array to a message field is up to 300 times slower.
"""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout

from rlt_msgs.msg import Observation

HIGHEST_EPISODE_ID = 2_000_000
"""No run gets there, and a simulated clock has room for so many: who speaks of more is not believed."""
MAX_IMAGE_BYTES = 64 * 1024 * 1024
_ANSWERS = "joint targets in answer to the state at ns "


class CodecError(ValueError):
    """A message that does not hold what it says."""


def stamp_ns(time: Time) -> int:
    """Nanoseconds of a builtin_interfaces/Time. Raises CodecError for a time that no clock shows."""
    if time.sec < 0 or time.nanosec >= 1_000_000_000:
        raise CodecError(f"a stamp of {time.sec} s and {time.nanosec} ns: no clock shows it")
    return time.sec * 1_000_000_000 + time.nanosec


def to_time(ns: int) -> Time:
    """A builtin_interfaces/Time of `ns` nanoseconds."""
    return Time(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)


def floats(values: np.ndarray | Sequence[float]) -> array.array:
    """float32 values of any shape as an array.array, row-major, for a float32[] field."""
    return array.array("f", np.ascontiguousarray(values, dtype=np.float32).tobytes())


def doubles(values: np.ndarray | Sequence[float]) -> array.array:
    """float64 values of any shape as an array.array, row-major, for a float64[] field."""
    return array.array("d", np.ascontiguousarray(values, dtype=np.float64).tobytes())


def command_message(targets: np.ndarray, answers_ns: int) -> Float64MultiArray:
    """Absolute joint targets (n,), rad or m, in answer to the robot state stamped `answers_ns`.

    Drivers take the values alone. A simulator that waits must know which of its steps a command answers, since a step
    that it says again may be answered twice: the stamp is the label of the values' dimension.
    """
    dimension = MultiArrayDimension(label=f"{_ANSWERS}{answers_ns}", size=len(targets), stride=len(targets))
    return Float64MultiArray(layout=MultiArrayLayout(dim=[dimension]), data=doubles(targets))


def answered_ns(message: Float64MultiArray) -> int:
    """Stamp of the robot state that a command answers, ns; -1 when it does not say so."""
    label = message.layout.dim[0].label if message.layout.dim else ""
    digits = label.removeprefix(_ANSWERS)
    return int(digits) if label != digits and digits.isascii() and digits.isdecimal() and len(digits) < 20 else -1


def vector(field: Sequence[float], size: int | None, name: str) -> np.ndarray:
    """A float32[] field as a read-only-by-convention view (n,) float32.

    Raises CodecError when the length is not `size` (None: any) or a value is not finite.
    """
    values = np.frombuffer(field, dtype=np.float32) if isinstance(field, array.array) else np.asarray(field, np.float32)
    if size is not None and values.size != size:
        raise CodecError(f"{name} has {values.size} values, expected {size}")
    if not np.isfinite(values).all():
        raise CodecError(f"{name} holds a value that is not finite at index {int(np.argmin(np.isfinite(values)))}")
    return values


def matrix(field: Sequence[float], rows: int, cols: int, name: str) -> np.ndarray:
    """A float32[] field as a view (rows, cols). Raises CodecError as :func:`vector`."""
    return vector(field, rows * cols, name).reshape(rows, cols)


def encode_image(rgb: np.ndarray, encoding: str) -> bytes:
    """(H, W, 3) uint8 RGB to "png" (lossless) or "jpeg" (quality 95) bytes."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    if encoding == "png":
        ok, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    elif encoding == "jpeg":
        ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
    else:
        raise CodecError(f"image encoding {encoding!r}: use png or jpeg")
    if not ok:
        raise CodecError(f"an image of shape {rgb.shape} could not be encoded as {encoding}")
    return data.tobytes()


def decode_image(message: CompressedImage) -> np.ndarray:
    """CompressedImage to (H, W, 3) uint8 RGB. Raises CodecError on anything that is not an image."""
    if not 0 < len(message.data) <= MAX_IMAGE_BYTES:
        raise CodecError(f"a compressed image of {len(message.data)} bytes")
    try:
        bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise CodecError(f"{len(message.data)} bytes of format {message.format!r}: {error}") from error
    if bgr is None:
        raise CodecError(f"{len(message.data)} bytes of format {message.format!r} are no image that OpenCV reads")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class ObservationData:
    """An observation as numpy: images (N, H, W, 3) uint8 RGB in camera order; blocks name -> (n,) float32, SI units."""

    observation_id: int
    stamp_ns: int
    camera_names: tuple[str, ...]
    images: np.ndarray
    blocks: Mapping[str, np.ndarray]

    def state(self, names: Sequence[str]) -> np.ndarray:
        """The named proprioception blocks, one after the other, float32. Raises CodecError for one that is missing."""
        missing = [name for name in names if name not in self.blocks]
        if missing:
            raise CodecError(f"observation has no proprioception block {missing[0]!r}; it has {list(self.blocks)}")
        return np.concatenate([self.blocks[name] for name in names]).astype(np.float32, copy=False)


def observation_to_msg(
    data: ObservationData, encodings: Sequence[str], skew_s: Sequence[float], frame_id: str = "world"
) -> Observation:
    """Encode each image with its camera's encoding and pack everything into one message."""
    message = Observation()
    message.header.stamp = to_time(data.stamp_ns)
    message.header.frame_id = frame_id
    message.observation_id = data.observation_id
    message.camera_names = list(data.camera_names)
    for name, rgb, encoding in zip(data.camera_names, data.images, encodings, strict=True):
        image = CompressedImage(format=encoding, data=array.array("B", encode_image(rgb, encoding)))
        image.header.stamp = message.header.stamp
        image.header.frame_id = name
        message.images.append(image)
    message.image_skew_s = floats(skew_s)
    message.block_names = list(data.blocks)
    message.block_sizes = array.array("I", [block.size for block in data.blocks.values()])
    message.proprioception = floats(np.concatenate(list(data.blocks.values())))
    return message


def blocks_from_msg(message: Observation) -> dict[str, np.ndarray]:
    """Proprioception block -> (n,) float32, SI units. Raises CodecError with what does not fit."""
    names, sizes = list(message.block_names), list(message.block_sizes)
    if len(names) != len(sizes) or len(set(names)) != len(names):
        raise CodecError(f"observation names blocks {names} with sizes {sizes}")
    values = vector(message.proprioception, sum(sizes), "observation proprioception")
    edges = np.cumsum([0, *sizes])
    return {name: values[edges[i] : edges[i + 1]] for i, name in enumerate(names)}


def observation_from_msg(message: Observation) -> ObservationData:
    """Decode images and split the proprioception into its blocks. Raises CodecError with what does not fit."""
    blocks = blocks_from_msg(message)
    if len(message.images) != len(message.camera_names) or not message.images:
        raise CodecError(f"observation names {len(message.camera_names)} cameras and has {len(message.images)} images")
    images = [decode_image(image) for image in message.images]
    if len({image.shape for image in images}) != 1:
        raise CodecError(f"observation images differ in shape: {[image.shape for image in images]}")
    return ObservationData(
        observation_id=message.observation_id,
        stamp_ns=stamp_ns(message.header.stamp),
        camera_names=tuple(message.camera_names),
        images=np.stack(images),
        blocks=blocks,
    )
