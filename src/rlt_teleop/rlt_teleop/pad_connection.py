"""One gamepad that may be unplugged and come back. No ROS: the device is opened by a function that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from evdev import ecodes

from rlt_teleop.gamepad_events import PadState


class PadConnection:
    """Holds an open evdev device and its state.

    Args:
        open_device: returns an `evdev.InputDevice`; raises OSError when there is none.
    """

    def __init__(self, open_device: Callable[[], Any]) -> None:
        self._open = open_device
        self._device: Any = None
        self.state: PadState | None = None
        self.error = "not looked for yet"

    @property
    def name(self) -> str:
        """Name and path of the open device."""
        return "" if self._device is None else f"{self._device.name} ({self._device.path})"

    def connect(self) -> bool:
        """Open the device unless it is open. False, with `error` set, when there is none."""
        if self.state is not None:
            return True
        try:
            self._device = self._open()
            abilities = self._device.capabilities()
            self.state = PadState(abilities.get(ecodes.EV_KEY, []), dict(abilities.get(ecodes.EV_ABS, [])))
            self._resync()
        except OSError as error:
            self._lose(error)
        return self.state is not None

    def poll(self) -> Iterator[PadState]:
        """Take what has come in; yields the state at every complete report, so that no short press is lost."""
        if self.state is None:
            return
        try:
            for event in self._device.read():
                if self.state.feed(event):
                    yield self.state
            if self.state.dropped:
                self._resync()
                yield self.state
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)

    def _resync(self) -> None:
        axes = {
            code: self._device.absinfo(code).value for code, _ in self._device.capabilities().get(ecodes.EV_ABS, [])
        }
        self.state.resync(self._device.active_keys(), axes)

    def _lose(self, error: OSError) -> None:
        if self._device is not None:
            self._device.close()
        self._device, self.state, self.error = None, None, str(error)
