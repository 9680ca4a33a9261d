"""Robot states and camera images to complete sets. Pure: stamps come with the data, wall time is handed in.

A set is one robot state and, from every camera, the image nearest to it within a tolerance. With tolerance 0 (lockstep)
the stamps must be equal. No set is ever made without a camera: one that is late, stalled or frozen stops the sets, and
:meth:`Synchroniser.problems` says which it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.watchdog import NEVER, Watchdog

T = TypeVar("T")

CLOCK_RESET_NS = 1_000_000_000
CDR_STAMP_END = 12


@dataclass(frozen=True)
class SyncConfig:
    """How sets are made.

    Attributes:
        tolerance_ns: images at most this far from the state belong to it.
        period_ns: wanted distance between sets.
        stall_s: s of wall time that a camera may keep the others waiting.
        frozen_images: so many equal images in a row, with new stamps, count as a frozen camera; 0: not watched.
        keep: images kept per camera.
        keep_states: states kept while a late camera is waited for: two seconds of a driver at 500 Hz.
    """

    tolerance_ns: int
    period_ns: int
    stall_s: float
    frozen_images: int = 0
    keep: int = 64
    keep_states: int = 1024


def sync_config(robot: RobotConfig, task: TaskConfig, frozen_images: int = -1) -> SyncConfig:
    """What robot and task files say. `frozen_images` -1: after camera_timeout_frames repeats, but never in lockstep."""
    if frozen_images < 0:
        frozen_images = 0 if robot.tick == "joint_states" else robot.camera_timeout_frames + 1
    return SyncConfig(
        tolerance_ns=round(robot.camera_tolerance_s * 1e9),
        period_ns=round(task.stride * robot.period_s * 1e9),
        stall_s=robot.camera_timeout_frames / min(camera.rate_hz for camera in robot.cameras),
        frozen_images=frozen_images,
    )


def input_watchdog(robot: RobotConfig) -> Watchdog:
    """The table of what the observations are made of. In lockstep ages are shown, but a simulator may take its time."""
    lockstep = robot.tick == "joint_states"
    timeouts = dict.fromkeys(robot.state_inputs, robot.state_timeout_s)
    timeouts |= {camera.name: robot.camera_timeout_frames / camera.rate_hz for camera in robot.cameras}
    return Watchdog({name: NEVER if lockstep else timeout_s for name, timeout_s in timeouts.items()})


@dataclass(frozen=True)
class ImageRecord:
    """One image as it came, still serialised."""

    stamp_ns: int
    data: bytes


@dataclass(frozen=True)
class CompleteSet(Generic[T]):
    """A robot state with one image per camera, in camera order."""

    stamp_ns: int
    state: T
    images: tuple[ImageRecord, ...]


@dataclass
class _Camera:
    images: deque[ImageRecord]
    newest_ns: int = -1
    newest: bytes = b""
    equal: int = 0
    late_since_s: float | None = None


@dataclass
class SyncCounters:
    """Counts since the start, for diagnostics."""

    sets: int = 0
    unmatched_states: int = 0
    repeated_images: int = 0
    clock_resets: int = 0
    per_camera: dict[str, int] = field(default_factory=dict)


class Synchroniser(Generic[T]):
    """See the module docstring. `cameras` in the order of a set's images."""

    def __init__(self, cameras: Sequence[str], config: SyncConfig) -> None:
        self._config = config
        self._cameras = {name: _Camera(deque(maxlen=config.keep)) for name in cameras}
        self._states: deque[tuple[int, T]] = deque(maxlen=config.keep_states)
        self._newest_state_ns = -1
        self._due_ns: int | None = None
        self.counters = SyncCounters(per_camera=dict.fromkeys(cameras, 0))

    def on_state(self, stamp_ns: int, state: T, now_s: float) -> None:
        """A robot state. A repeated one is ignored; a stamp far back means that the clock was reset."""
        if stamp_ns < self._newest_state_ns - CLOCK_RESET_NS:
            self._reset()
        if stamp_ns <= self._newest_state_ns:
            return
        self._newest_state_ns = stamp_ns
        self._states.append((stamp_ns, state))
        self._watch(now_s)

    def on_image(self, camera: str, stamp_ns: int, data: bytes, now_s: float) -> None:
        """A serialised image message. A stamp that does not advance is a repetition and ignored."""
        own = self._cameras[camera]
        if stamp_ns < own.newest_ns - CLOCK_RESET_NS:
            self._reset()
        if stamp_ns <= own.newest_ns:
            self.counters.repeated_images += 1
            return
        own.equal = own.equal + 1 if data[CDR_STAMP_END:] == own.newest[CDR_STAMP_END:] else 0
        own.newest_ns, own.newest, own.late_since_s = stamp_ns, data, None
        self.counters.per_camera[camera] += 1
        if not self._frozen(own):
            own.images.append(ImageRecord(stamp_ns, data))
        self._watch(now_s)

    def take(self) -> list[CompleteSet[T]]:
        """Every set that is complete by now, oldest first."""
        sets = []
        while self._states:
            stamp_ns, state = self._states[0]
            if self._due_ns is not None and stamp_ns < self._due_ns - self._config.period_ns // 8:
                self._states.popleft()
                continue
            images = [self._nearest(camera, stamp_ns) for camera in self._cameras.values()]
            if None not in images:
                self._states.popleft()
                self._due_ns = self._next_due(stamp_ns)
                self.counters.sets += 1
                sets.append(CompleteSet(stamp_ns, state, tuple(images)))
                continue
            passed = any(
                image is None and camera.newest_ns > stamp_ns + self._config.tolerance_ns
                for image, camera in zip(images, self._cameras.values(), strict=True)
            )
            if not passed:
                break
            self._states.popleft()
            self.counters.unmatched_states += 1
        return sets

    def problems(self, now_s: float) -> list[str]:
        """What keeps sets from coming, one sentence per camera."""
        found = []
        for name, camera in self._cameras.items():
            if self._frozen(camera):
                found.append(f"camera {name} is frozen: {camera.equal + 1} equal images in a row")
            elif camera.late_since_s is not None and now_s - camera.late_since_s > self._config.stall_s:
                behind = "it never sent an image" if camera.newest_ns < 0 else "its images stopped"
                found.append(
                    f"camera {name} has stalled: {behind}, the others wait since {now_s - camera.late_since_s:.1f} s"
                )
        return found

    def _next_due(self, stamp_ns: int) -> int:
        """One period on, on a fixed grid so that the rate does not drift; a gap starts the grid anew."""
        period = self._config.period_ns
        on_grid = self._due_ns is not None and stamp_ns - self._due_ns < period
        return (self._due_ns if on_grid else stamp_ns) + period

    def _nearest(self, camera: _Camera, stamp_ns: int) -> ImageRecord | None:
        near = [image for image in camera.images if abs(image.stamp_ns - stamp_ns) <= self._config.tolerance_ns]
        return min(near, key=lambda image: abs(image.stamp_ns - stamp_ns), default=None)

    def _frozen(self, camera: _Camera) -> bool:
        return 0 < self._config.frozen_images <= camera.equal + 1

    def _watch(self, now_s: float) -> None:
        """Start the stopwatch of every camera that is a whole period behind the newest stamp."""
        newest = max(self._newest_state_ns, *(camera.newest_ns for camera in self._cameras.values()))
        for camera in self._cameras.values():
            behind = newest - camera.newest_ns >= self._config.period_ns + self._config.tolerance_ns
            if (behind or camera.newest_ns < 0) and camera.late_since_s is None:
                camera.late_since_s = now_s

    def _reset(self) -> None:
        self.counters.clock_resets += 1
        self._states.clear()
        self._newest_state_ns = -1
        self._due_ns = None
        for camera in self._cameras.values():
            camera.images.clear()
            camera.newest_ns, camera.newest, camera.equal, camera.late_since_s = -1, b"", 0, None


def cdr_stamp_ns(data: bytes) -> int:
    """Stamp in ns of a serialised message that begins with a std_msgs/Header, without decoding the rest.

    CDR: 4 bytes of encapsulation (the second tells the byte order), then seconds (int32) and nanoseconds (uint32).
    """
    if len(data) < CDR_STAMP_END:
        raise ValueError(f"a serialised message of {len(data)} bytes has no header stamp")
    order = "little" if data[1] & 1 else "big"
    seconds = int.from_bytes(data[4:8], order, signed=True)
    nanoseconds = int.from_bytes(data[8:12], order)
    if seconds < 0 or nanoseconds >= 1_000_000_000:
        raise ValueError(f"a stamp of {seconds} s and {nanoseconds} ns: no clock shows it")
    return seconds * 1_000_000_000 + nanoseconds
