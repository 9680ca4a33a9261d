"""A video device through OpenCV: opened with fixed settings, read frame by frame, opened again when it was unplugged.

No ROS: clocks are handed in. What is not below `/dev` is a video file and goes the same way, at the camera's rate and
over again, so that a graph can be run without a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from rlt_common.camera_config import AS_FOUND, CameraConfig

# OpenCV waits 10 s for a frame of a device that has stopped, and reads this when it first waits.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")

RETRY_S = 1.0
MOST_AGE_NS = 1_000_000_000
JPEG_BEGINS = b"\xff\xd8"
JPEG_QUALITY = 95
MANUAL_EXPOSURE = 1  # V4L2_EXPOSURE_MANUAL


class CaptureError(OSError):
    """A device that cannot be opened or gives no frames any more."""


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def isOpened(self) -> bool: ...
    def set(self, prop: int, value: float) -> bool: ...
    def get(self, prop: int) -> float: ...
    def read(self) -> tuple[bool, np.ndarray | None]: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Frame:
    """One image: `jpeg` bytes, or `bgr` (H, W, 3) uint8 where the camera's transport is raw.

    `captured_ms`: when the device captured it, ms of the monotonic clock; 0: it does not say.
    """

    jpeg: bytes
    bgr: np.ndarray | None
    captured_ms: float


def is_device(camera: CameraConfig) -> bool:
    """Whether the camera's `device` is one, and no file."""
    return camera.device.startswith("/dev/")


def open_capture(camera: CameraConfig) -> Capture:
    """Open the camera's device. Raises CaptureError saying what there is instead."""
    if not Path(camera.device).exists():
        there = sorted(str(path) for path in Path("/dev/v4l/by-id").glob("*")) if is_device(camera) else []
        raise CaptureError(f"no {camera.device}; plugged in: {', '.join(there) or 'none'}")
    if is_device(camera):
        capture = cv2.VideoCapture(camera.device, cv2.CAP_V4L2)
    else:
        # FORMAT -1: packets as they are in the file, as a device gives its JPEGs.
        undecoded = [cv2.CAP_PROP_FORMAT, -1] if passes_jpeg_on(camera) else []
        capture = cv2.VideoCapture(camera.device, cv2.CAP_FFMPEG, undecoded)
    if not capture.isOpened():
        capture.release()
        raise CaptureError(
            f"{camera.device} cannot be opened: is it in use, a capture device (v4l2-ctl --list-devices), and may this "
            "user read it (group video)?"
        )
    return capture


def passes_jpeg_on(camera: CameraConfig) -> bool:
    """Whether the device's own JPEGs are published, undecoded."""
    return camera.transport == "compressed" and camera.v4l2.pixel_format == "MJPG"


def configure(capture: Capture, camera: CameraConfig) -> list[str]:
    """Give an opened device its settings. Returns what it does not give as asked, one sentence each."""
    asked = camera.v4l2
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*asked.pixel_format))
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, asked.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, asked.height)
    capture.set(cv2.CAP_PROP_FPS, camera.rate_hz)
    capture.set(cv2.CAP_PROP_CONVERT_RGB, 0 if passes_jpeg_on(camera) else 1)
    found = []
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    given = "".join(chr(code >> shift & 0xFF) for shift in (0, 8, 16, 24)) if code > 0 else "an unknown format"
    if given != asked.pixel_format:
        found.append(f"asked for {asked.pixel_format}, it gives {given}")
    size = tuple(round(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if size != (asked.width, asked.height):
        found.append(f"asked for {asked.width}x{asked.height}, it gives {size[0]}x{size[1]}")
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    if abs(rate_hz - camera.rate_hz) > 0.01 * camera.rate_hz:
        found.append(f"asked for {camera.rate_hz:g} Hz, it gives {rate_hz:g}")
    manual = (cv2.CAP_PROP_AUTO_EXPOSURE, MANUAL_EXPOSURE)
    found += _fix(capture, "exposure", asked.exposure, cv2.CAP_PROP_EXPOSURE, manual)
    found += _fix(capture, "white_balance", asked.white_balance, cv2.CAP_PROP_WB_TEMPERATURE, (cv2.CAP_PROP_AUTO_WB, 0))
    found += _fix(capture, "focus", asked.focus, cv2.CAP_PROP_FOCUS, (cv2.CAP_PROP_AUTOFOCUS, 0))
    found += _fix(capture, "gain", asked.gain, cv2.CAP_PROP_GAIN, None)
    return found


def _fix(capture: Capture, name: str, asked: int, prop: int, manual: tuple[int, int] | None) -> list[str]:
    """Set one control, its automatic off; OpenCV says -1 of a control that the device lacks."""
    if asked == AS_FOUND:
        automatic = manual is not None and capture.get(manual[0]) not in (manual[1], -1)
        return [f"{name} is automatic: give v4l2: {name}, so that the policy sees constant images"] if automatic else []
    if manual is not None:
        capture.set(*manual)
    capture.set(prop, asked)
    given = capture.get(prop)
    if given == -1:
        return [f"asked for {name} {asked}, it has no such control"]
    return [] if given == asked else [f"asked for {name} {asked}, it has {given:g}"]


def read_frame(capture: Capture, camera: CameraConfig) -> Frame:
    """The next frame. Raises CaptureError when none comes, or when it is not what the camera publishes."""
    try:
        ok, pixels = capture.read()
    except cv2.error as error:
        raise CaptureError(f"{camera.device}: a frame cannot be decoded: {error}") from error
    if not ok or pixels is None:
        raise CaptureError(f"{camera.device} gives no frames any more")
    captured_ms = capture.get(cv2.CAP_PROP_POS_MSEC) if is_device(camera) else 0.0
    if passes_jpeg_on(camera):
        jpeg = pixels.tobytes()
        if not jpeg.startswith(JPEG_BEGINS):
            raise CaptureError(f"{camera.device} gives no JPEGs: give v4l2: pixel_format: YUYV, or transport: raw")
        return Frame(jpeg, None, captured_ms)
    if camera.transport == "raw":
        return Frame(b"", pixels, captured_ms)
    ok, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise CaptureError(f"{camera.device}: a frame of shape {pixels.shape} cannot be encoded as JPEG")
    return Frame(data.tobytes(), None, captured_ms)


def capture_stamp_ns(captured_ms: float, monotonic_ns: int, ros_ns: int) -> tuple[int, bool]:
    """When a frame was captured, ns of the ROS clock, and whether the device said so.

    V4L2 stamps by the monotonic clock. Both clocks are read together, so the frame's age by the one is taken off the
    other. An age that no frame has (below 0, above 1 s) is a device with a clock of its own: the time of arrival then.
    """
    age_ns = monotonic_ns - round(captured_ms * 1e6)
    return (ros_ns - age_ns, True) if captured_ms > 0.0 and 0 <= age_ns <= MOST_AGE_NS else (ros_ns, False)


@dataclass(frozen=True)
class DeviceStatus:
    """How a device is. `error`: why it gives no frames; `differences`: what it gives that was not asked for."""

    error: str
    differences: tuple[str, ...]
    frames: int
    opened: int
    stamped: bool

    def __str__(self) -> str:
        stamps = "stamps of the device" if self.stamped else "stamped on arrival"
        said = "; ".join(filter(None, (self.error, *self.differences)))
        return f"{self.frames} frames, opened {self.opened} times, {stamps}{f', {said}' if said else ''}"


class DeviceReader:
    """One device: call :meth:`step` again and again.

    Args:
        camera: with a `device`.
        publish: called with each frame and its stamp in ns.
        clocks_ns: gives (monotonic, ROS) time, read together.
        opener: opens the device.
    """

    def __init__(
        self,
        camera: CameraConfig,
        publish: Callable[[Frame, int], None],
        clocks_ns: Callable[[], tuple[int, int]],
        opener: Callable[[CameraConfig], Capture] = open_capture,
    ) -> None:
        self._camera, self._publish, self._clocks_ns, self._opener = camera, publish, clocks_ns, opener
        self._capture: Capture | None = None
        self._due_ns = 0
        self._frames_at_opening = 0
        self.status = DeviceStatus("not opened yet", (), 0, 0, False)

    def step(self) -> float:
        """Open the device if it is not, else read and publish a frame. Returns the s to wait before the next call."""
        before = self.status
        try:
            if self._capture is None:
                self._capture = self._opener(self._camera)
                found = configure(self._capture, self._camera) if is_device(self._camera) else []
                self._due_ns, self._frames_at_opening = self._clocks_ns()[0], before.frames
                self.status = DeviceStatus("", tuple(found), before.frames, before.opened + 1, before.stamped)
                return 0.0
            frame = read_frame(self._capture, self._camera)
        except CaptureError as error:
            played = self._capture is not None and before.frames > self._frames_at_opening
            self.close()
            if played and not is_device(self._camera):
                return 0.0  # the end of a file: from its beginning
            self.status = DeviceStatus(str(error), before.differences, before.frames, before.opened, before.stamped)
            return RETRY_S
        monotonic_ns, ros_ns = self._clocks_ns()
        stamp_ns, stamped = capture_stamp_ns(frame.captured_ms, monotonic_ns, ros_ns)
        self._publish(frame, stamp_ns)
        self.status = DeviceStatus("", before.differences, before.frames + 1, before.opened, stamped)
        return 0.0 if is_device(self._camera) else self._pause_s(monotonic_ns)

    def _pause_s(self, monotonic_ns: int) -> float:
        """A file waits for no sensor: the time until its next frame is due at the camera's rate."""
        self._due_ns = max(self._due_ns + round(1e9 / self._camera.rate_hz), monotonic_ns)
        return (self._due_ns - monotonic_ns) * 1e-9

    def close(self) -> None:
        """Release the device."""
        if self._capture is not None:
            self._capture.release()
        self._capture = None
