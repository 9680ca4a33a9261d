"""One gamepad that may be unplugged and come back. No ROS: the device is opened by a function that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from evdev import ecodes, ff

from rlt_teleop.gamepad_events import PadState

NO_EFFECT = -1
"""The kernel gives a new number to an effect of this one."""
RUMBLE_MS = 1000
"""The pad ends a rumble by itself after so long: also when who asked for it is gone."""
FULL = 0xFFFF


class PadConnection:
    """Holds an open evdev device and its state.

    Args:
        open_device: returns an `evdev.InputDevice`; raises OSError when there is none.
    """

    def __init__(self, open_device: Callable[[], Any]) -> None:
        self._open = open_device
        self._device: Any = None
        self._effect = NO_EFFECT
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

    def rumble(self, strength: float) -> str:
        """Shake the pad with `strength`, 0 (ends it) to 1. Returns "" or why it does not."""
        if self.state is None:
            return self.error
        if ecodes.FF_RUMBLE not in self._device.capabilities().get(ecodes.EV_FF, []):
            return f"{self.name} cannot rumble"
        try:
            if strength <= 0.0:
                if self._effect != NO_EFFECT:
                    self._device.write(ecodes.EV_FF, self._effect, 0)
                return ""
            magnitude = round(min(strength, 1.0) * FULL)
            kind = ff.EffectType(ff_rumble_effect=ff.Rumble(strong_magnitude=magnitude, weak_magnitude=magnitude))
            replay = ff.Replay(RUMBLE_MS, 0)
            effect = ff.Effect(ecodes.FF_RUMBLE, self._effect, 0, ff.Trigger(0, 0), replay, kind)
            self._effect = self._device.upload_effect(effect)
            self._device.write(ecodes.EV_FF, self._effect, 1)
        except OSError as error:
            return f"{self.name}: {error.strerror}"
        return ""

    def _resync(self) -> None:
        axes = {
            code: self._device.absinfo(code).value for code, _ in self._device.capabilities().get(ecodes.EV_ABS, [])
        }
        self.state.resync(self._device.active_keys(), axes)

    def _lose(self, error: OSError) -> None:
        if self._device is not None:
            self._device.close()
        self._device, self.state, self.error = None, None, str(error)
        self._effect = NO_EFFECT
