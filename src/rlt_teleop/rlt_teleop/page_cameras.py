"""The newest camera images for the operator page, taken out of a serialised observation only when somebody looks."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.serialization import deserialize_message

from rlt_msgs.msg import Observation

FORMATS = ("png", "jpeg")
HEAD = struct.Struct("<BBI")
"""Before each image in a message: index of its camera, index of its format, bytes that follow."""


class Cameras:
    """The newest observation; safe to use from several threads.

    Args:
        names: the cameras; images of others are left out.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self.number = 0
        self.unreadable = 0
        self._cdr = b""
        self._lock = threading.Lock()
        self._packed: tuple[int, bytes] = (0, b"")
        self._told: Callable[[], None] = lambda: None

    def tell(self, told: Callable[[], None]) -> None:
        """`told` is called with every new observation, in the thread that brings it."""
        self._told = told

    def show(self, cdr: bytes) -> None:
        """A new observation, serialised."""
        with self._lock:
            self._cdr, self.number = cdr, self.number + 1
        self._told()

    def newest(self) -> tuple[int, bytes]:
        """(number, message): the newest images of all cameras, each after a :data:`HEAD`; b"" when there are none."""
        with self._lock:
            number, cdr = self.number, self._cdr
            if number == self._packed[0]:
                return self._packed
        packed = self._pack(cdr)
        with self._lock:
            self._packed = (number, packed)
        return number, packed

    def _pack(self, cdr: bytes) -> bytes:
        try:
            message = deserialize_message(cdr, Observation)
        except rclpy_implementation.RMWError:
            self.unreadable += 1
            return b""
        parts = []
        for name, image in zip(message.camera_names, message.images, strict=False):
            if name in self.names and image.format in FORMATS:
                data = bytes(image.data)
                parts += [HEAD.pack(self.names.index(name), FORMATS.index(image.format), len(data)), data]
        return b"".join(parts)
