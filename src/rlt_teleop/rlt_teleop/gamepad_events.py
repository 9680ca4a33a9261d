"""Linux input events of a gamepad to the axes and buttons of `sensor_msgs/Joy`. Pure.

The order is the one of the `joy` package's joy_node on Linux, so one mapping file serves both: buttons in rising event
code from BTN_JOYSTICK on, then those below it; axes in rising code without the hats, then the hats. Left and up are +1,
a released trigger is +1, a pressed one -1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from evdev import ecodes

HATS = range(ecodes.ABS_HAT0X, ecodes.ABS_HAT3Y + 1)


class AxisRange(Protocol):
    """What is needed of evdev's AbsInfo."""

    value: int
    min: int
    max: int


class InputEvent(Protocol):
    """What is needed of evdev's InputEvent."""

    type: int
    code: int
    value: int


def button_codes(keys: Iterable[int]) -> list[int]:
    """Event codes of the buttons among a device's keys, in the order of Joy.buttons."""
    buttons = sorted(code for code in keys if code >= ecodes.BTN_MISC)
    return sorted(buttons, key=lambda code: (code < ecodes.BTN_JOYSTICK, code))


def axis_codes(axes: Iterable[int]) -> list[int]:
    """Event codes of the axes, in the order of Joy.axes."""
    return sorted((code for code in axes if code <= ecodes.ABS_HAT3Y), key=lambda code: (code in HATS, code))


class PadState:
    """State of one pad, kept up to date event by event.

    Args:
        keys: key codes the device can send (evdev: `device.capabilities()[EV_KEY]`).
        ranges: its axes with their ranges (evdev: `dict(device.capabilities()[EV_ABS])`).
    """

    def __init__(self, keys: Iterable[int], ranges: Mapping[int, AxisRange]) -> None:
        self._ranges = dict(ranges)
        self._button = {code: index for index, code in enumerate(button_codes(keys))}
        self._axis = {code: index for index, code in enumerate(axis_codes(self._ranges))}
        self.buttons = [0] * len(self._button)
        self.axes = [0.0] * len(self._axis)
        self._changed = False
        self.dropped = False
        self.resync((), {code: ranges[code].value for code in self._axis})

    def feed(self, event: InputEvent) -> bool:
        """Take one event. True when a report is complete and something changed: publish now.

        After the kernel dropped events (`dropped`), nothing is taken until :meth:`resync`.
        """
        if event.type == ecodes.EV_SYN:
            if event.code == ecodes.SYN_DROPPED:
                self.dropped = True
            complete = event.code == ecodes.SYN_REPORT and self._changed and not self.dropped
            self._changed = self._changed and not complete
            return complete
        if self.dropped:
            return False
        if event.type == ecodes.EV_KEY and event.code in self._button:
            self._set(self.buttons, self._button[event.code], int(event.value != 0))
        elif event.type == ecodes.EV_ABS and event.code in self._axis:
            self._set(self.axes, self._axis[event.code], self._scaled(event.code, event.value))
        return False

    def resync(self, active_keys: Sequence[int], axis_values: Mapping[int, int]) -> None:
        """Set the whole state from what the device says now."""
        self.dropped = False
        for code, index in self._button.items():
            self.buttons[index] = int(code in active_keys)
        for code, index in self._axis.items():
            self.axes[index] = self._scaled(code, axis_values[code])

    def _set(self, values: list, index: int, value: float) -> None:
        self._changed |= values[index] != value
        values[index] = value

    def _scaled(self, code: int, raw: int) -> float:
        span = self._ranges[code]
        if span.max <= span.min:
            return 0.0
        middle, half = (span.max + span.min) / 2, (span.max - span.min) / 2
        # A range like 0 to 255 has no middle; the value next to it is the rest position.
        offset = 0.0 if abs(raw - middle) <= 0.5 else (middle - raw) / half
        return max(-1.0, min(1.0, offset))
