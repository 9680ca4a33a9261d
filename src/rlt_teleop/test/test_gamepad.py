"""Input events of the kernel to axes and buttons, and a pad that is unplugged."""

import errno
import inspect

import evdev
import pytest
from evdev import AbsInfo, InputEvent
from evdev import ecodes as e

from rlt_teleop.gamepad_events import PadState
from rlt_teleop.gamepad_node import find_pad
from rlt_teleop.pad_connection import PadConnection

XBOX_KEYS = [
    e.BTN_SOUTH,
    e.BTN_EAST,
    e.BTN_NORTH,
    e.BTN_WEST,
    e.BTN_TL,
    e.BTN_TR,
    e.BTN_SELECT,
    e.BTN_START,
    e.BTN_MODE,
    e.BTN_THUMBL,
    e.BTN_THUMBR,
]
STICK = AbsInfo(value=0, min=-32768, max=32767, fuzz=16, flat=128, resolution=0)
TRIGGER = AbsInfo(value=0, min=0, max=255, fuzz=0, flat=0, resolution=0)
HAT = AbsInfo(value=0, min=-1, max=1, fuzz=0, flat=0, resolution=0)
XBOX_AXES = {
    e.ABS_HAT0X: HAT,
    e.ABS_HAT0Y: HAT,
    e.ABS_X: STICK,
    e.ABS_Y: STICK,
    e.ABS_Z: TRIGGER,
    e.ABS_RX: STICK,
    e.ABS_RY: STICK,
    e.ABS_RZ: TRIGGER,
}


def event(kind: int, code: int, value: int) -> InputEvent:
    return InputEvent(0, 0, kind, code, value)


SYN = event(e.EV_SYN, e.SYN_REPORT, 0)


def test_the_order_is_the_one_that_the_mapping_files_name():
    pad = PadState(reversed(XBOX_KEYS), XBOX_AXES)
    assert (len(pad.buttons), len(pad.axes)) == (11, 8)
    for index, code in enumerate(XBOX_KEYS):
        pad.feed(event(e.EV_KEY, code, 1))
        assert pad.buttons[index] == 1
    pad.feed(event(e.EV_ABS, e.ABS_HAT0Y, -1))
    assert pad.axes[7] == 1.0, "up on the cross"
    pad.feed(event(e.EV_ABS, e.ABS_RX, -32768))
    assert pad.axes[3] == 1.0, "right stick to the left"


def test_triggers_rest_at_one_and_sticks_at_zero():
    pad = PadState(XBOX_KEYS, XBOX_AXES)
    assert pad.axes == [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    pad.feed(event(e.EV_ABS, e.ABS_Z, 255))
    assert pad.axes[2] == -1.0


@pytest.mark.parametrize("rest", [127, 128])
def test_a_range_without_a_middle_has_a_rest_position(rest):
    stick = AbsInfo(value=rest, min=0, max=255, fuzz=0, flat=0, resolution=0)
    assert PadState([], {e.ABS_X: stick}).axes == [0.0]


def test_a_report_is_complete_at_its_end_and_only_when_something_changed():
    pad = PadState(XBOX_KEYS, XBOX_AXES)
    assert not pad.feed(event(e.EV_KEY, e.BTN_SOUTH, 1))
    assert pad.feed(SYN)
    assert not pad.feed(SYN)
    assert not pad.feed(event(e.EV_KEY, e.BTN_SOUTH, 2)), "the kernel's key repeat"
    assert not pad.feed(SYN)
    assert not pad.feed(event(e.EV_KEY, e.KEY_A, 1)), "not a button of this pad"


def test_after_dropped_events_nothing_counts_before_the_state_was_read_again():
    pad = PadState(XBOX_KEYS, XBOX_AXES)
    pad.feed(event(e.EV_KEY, e.BTN_SOUTH, 1))
    pad.feed(event(e.EV_SYN, e.SYN_DROPPED, 0))
    assert not pad.feed(event(e.EV_KEY, e.BTN_EAST, 1))
    assert not pad.feed(SYN)
    assert pad.dropped
    pad.resync([e.BTN_START], {code: info.value for code, info in XBOX_AXES.items()})
    assert [i for i, value in enumerate(pad.buttons) if value] == [7]
    assert not pad.dropped


class Device:
    """Stands for evdev.InputDevice: real events, no kernel."""

    name, path = "Test pad", "/dev/input/event7"

    def __init__(self) -> None:
        self.batches: list = []
        self.keys: list[int] = []
        self.closed = False
        self.rumbles = [e.FF_RUMBLE]
        self.uploaded: list = []
        self.written: list = []

    def capabilities(self):
        return {e.EV_KEY: XBOX_KEYS, e.EV_ABS: list(XBOX_AXES.items()), e.EV_FF: self.rumbles}

    def upload_effect(self, effect):
        if isinstance(self.uploaded, OSError):
            raise self.uploaded
        self.uploaded.append((effect.id, effect.type, effect.u.ff_rumble_effect.strong_magnitude))
        return 3 if effect.id < 0 else effect.id

    def write(self, kind, code, value):
        self.written.append((kind, code, value))

    def active_keys(self):
        return self.keys

    def absinfo(self, code):
        return XBOX_AXES[code]

    def read(self):
        batch = self.batches.pop(0) if self.batches else BlockingIOError()
        if isinstance(batch, OSError):
            raise batch
        yield from batch

    def close(self):
        self.closed = True


def connected(device: Device) -> PadConnection:
    connection = PadConnection(lambda: device)
    assert connection.connect()
    return connection


def test_a_press_and_a_release_in_one_read_are_two_states():
    device = Device()
    connection = connected(device)
    device.batches.append([event(e.EV_KEY, e.BTN_SOUTH, 1), SYN, event(e.EV_KEY, e.BTN_SOUTH, 0), SYN])
    assert [state.buttons[0] for state in connection.poll()] == [1, 0]
    assert list(connection.poll()) == []


def test_what_is_held_when_the_pad_is_opened_is_known():
    device = Device()
    device.keys = [e.BTN_TR]
    assert connected(device).state.buttons[5] == 1


def test_dropped_events_are_made_good_by_asking_the_device():
    device = Device()
    connection = connected(device)
    device.keys = [e.BTN_EAST]
    device.batches.append([event(e.EV_SYN, e.SYN_DROPPED, 0), SYN])
    assert [state.buttons[1] for state in connection.poll()] == [1]


def test_an_unplugged_pad_is_closed_and_comes_back():
    device, plugged = Device(), True

    def open_device():
        if not plugged:
            raise FileNotFoundError(errno.ENOENT, "no gamepad")
        return device

    connection = PadConnection(open_device)
    assert connection.connect()
    device.batches.append(OSError(errno.ENODEV, "No such device"))
    plugged = False
    assert list(connection.poll()) == []
    assert connection.state is None
    assert device.closed
    assert "No such device" in connection.error
    assert not connection.connect()
    assert "no gamepad" in connection.error
    assert list(connection.poll()) == []
    plugged = True
    assert connection.connect()
    assert connection.name == "Test pad (/dev/input/event7)"


@pytest.mark.parametrize("wanted", ["", "/dev/input/event7"])
def test_a_pad_that_may_only_be_read_is_found(monkeypatch, wanted):
    """As in the container, whose devices allow no writing: `list_devices` leaves such ones out unless it is told."""

    def listed(*given, **options):
        asked = inspect.signature(real_list).bind(*given, **options).arguments
        return [] if asked.get("writable", True) else ["/dev/input/event7"]

    def opened(*given, **options):
        assert given == ("/dev/input/event7",)
        assert not options, "open to write where that is allowed, for rumble; evdev itself falls back to reading"
        return Device()

    real_list = evdev.list_devices
    monkeypatch.setattr(evdev, "list_devices", listed)
    monkeypatch.setattr(evdev, "InputDevice", opened)
    assert find_pad(wanted).name == "Test pad"


def test_a_pad_rumbles_with_one_effect_of_the_kernel_and_stops():
    device = Device()
    connection = connected(device)
    assert connection.rumble(0.0) == "", "there is nothing to stop"
    assert [connection.rumble(strength) for strength in (0.5, 7.0, 0.0)] == ["", "", ""]
    assert device.uploaded == [(-1, e.FF_RUMBLE, 32768), (3, e.FF_RUMBLE, 65535)]
    assert device.written == [(e.EV_FF, 3, 1), (e.EV_FF, 3, 1), (e.EV_FF, 3, 0)]


def test_why_a_pad_does_not_rumble_is_said():
    device = Device()
    connection = connected(device)
    device.uploaded = OSError(errno.ENOSPC, "No space left on device")
    assert "No space left" in connection.rumble(1.0)
    device.rumbles = []
    assert "cannot rumble" in connection.rumble(1.0)
    assert "not looked for" in PadConnection(lambda: device).rumble(1.0)
