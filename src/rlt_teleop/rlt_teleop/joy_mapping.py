"""What a person's device means: one YAML file per device, read into a frozen, validated dataclass.

Decisions come from the buttons of a `sensor_msgs/Joy`; motion comes from its axes, from a twist or from leader arms
(`motion`). Button and axis numbers are those of the Joy message; -1 disables an entry. Unknown keys, a button or an
axis with two meanings and numbers out of range are errors that name the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rlt_common.config import read_yaml
from rlt_common.parameters import ParameterError, from_mapping, param, validate
from rlt_teleop.motion_config import LeaderConfig, TwistConfig

DISABLED = -1
HIGHEST_INDEX = 255
MAX_FILE_BYTES = 64 * 1024
READERS = ("gamepad", "keyboard", "spacenav", "none")


def _button(description: str) -> Any:
    return param(DISABLED, description + "; -1: none", minimum=DISABLED, maximum=HIGHEST_INDEX)


@dataclass(frozen=True)
class Buttons:
    """Button numbers."""

    enable: int = _button("hold to take over, let go to give back")
    handoff: int = _button("hand-off: the critical phase begins")
    success: int = _button("end the episode as a success")
    failure: int = _button("end the episode as a failure")
    discard: int = _button("end the episode and keep it out of training")
    estop: int = _button("emergency stop")
    next_episode: int = _button("the scene is reset: begin")
    gripper_open: int = _button("hold to open the selected arm's gripper")
    gripper_close: int = _button("hold to close the selected arm's gripper")
    undo: int = _button("choose the last ended episode for another label")
    reposition: int = _button("hold while moving: these steps are no demonstration and stay out of training")
    select: Mapping[str, int] = field(default_factory=dict)
    """Arm name to the button that selects it for motion."""

    def __post_init__(self) -> None:
        validate(self)
        if not isinstance(self.select, Mapping):
            raise ParameterError(f"buttons: select: expected arm names with button numbers, got {self.select!r}")
        object.__setattr__(self, "select", dict(self.select))
        for arm, index in self.select.items():
            if not isinstance(arm, str) or type(index) is not int or not DISABLED <= index <= HIGHEST_INDEX:
                raise ParameterError(
                    f"buttons: select: {arm}: expected a button from {DISABLED} to {HIGHEST_INDEX}, got {index!r}"
                )
        used: dict[int, str] = {}
        for name, index in self.items():
            if index != DISABLED and index in used:
                raise ParameterError(f"buttons: {name} and {used[index]} are both button {index}")
            used[index] = name

    def items(self) -> Iterator[tuple[str, int]]:
        """(name, button number) of every entry, disabled ones included."""
        for entry in fields(self):
            if entry.name != "select":
                yield entry.name, getattr(self, entry.name)
        for arm, index in self.select.items():
            yield f"select {arm}", index


@dataclass(frozen=True)
class Axis:
    """One axis of the pad. `sign` turns its direction into that of the frame."""

    index: int = param(DISABLED, "axis number; -1: none", minimum=DISABLED, maximum=HIGHEST_INDEX)
    sign: int = param(1, "1 or -1")

    def __post_init__(self) -> None:
        validate(self)
        if self.sign not in (-1, 1):
            raise ParameterError(f"axis {self.index}: sign is {self.sign}, choose 1 or -1")


@dataclass(frozen=True)
class Triggers:
    """Axes that rest at 1 and are at -1 when pressed. A trigger counts once it was seen at rest."""

    gripper_open: int = param(DISABLED, "opens the selected arm's gripper", minimum=DISABLED, maximum=HIGHEST_INDEX)
    gripper_close: int = param(DISABLED, "closes it", minimum=DISABLED, maximum=HIGHEST_INDEX)

    def __post_init__(self) -> None:
        validate(self)

    def items(self) -> Iterator[tuple[str, int]]:
        """(name, axis number) of every entry, disabled ones included."""
        for entry in fields(self):
            yield entry.name, getattr(self, entry.name)


@dataclass(frozen=True)
class Axes:
    """Which axis moves the selected tool along and about the axes of the frame."""

    x: Axis = field(default_factory=Axis)
    y: Axis = field(default_factory=Axis)
    z: Axis = field(default_factory=Axis)
    rx: Axis = field(default_factory=Axis)
    ry: Axis = field(default_factory=Axis)
    rz: Axis = field(default_factory=Axis)

    def __post_init__(self) -> None:
        used: dict[int, str] = {}
        for name, axis in self.items():
            if axis.index != DISABLED and axis.index in used:
                raise ParameterError(f"axes: {name} and {used[axis.index]} are both axis {axis.index}")
            used[axis.index] = name

    def items(self) -> Iterator[tuple[str, Axis]]:
        """(name, axis) in the order of an arm's action: x, y, z, rx, ry, rz."""
        for entry in fields(self):
            yield entry.name, getattr(self, entry.name)


@dataclass(frozen=True)
class JoyMapping:
    """A gamepad's mapping."""

    device: str = param(description="name of the device, as commands and events carry it")
    reader: str = param(
        "gamepad",
        "who publishes its Joy: gamepad, spacenav: the graph starts that node; keyboard: you do, in a terminal of its "
        "own; none: something else",
        choices=READERS,
    )
    joy_topic: str = param("joy", "sensor_msgs/Joy with the buttons, relative")
    absent_buttons_released: bool = param(
        False, "a Joy message with too few buttons says that the others are not pressed, as spacenav's do"
    )
    buttons: Buttons = field(default_factory=Buttons)
    written: Mapping[str, str] = field(default_factory=dict)
    """Entry of `buttons` to what is written on that button: how the status view names it."""
    motion: str = param("axes", "where motion comes from", choices=("axes", "twist", "leader"))
    frame: str = param(
        "world", "axes and twist move the tool along and about the axes of this frame", choices=("world", "tool")
    )
    axes: Axes = field(default_factory=Axes)
    triggers: Triggers = field(default_factory=Triggers)
    twist: TwistConfig = field(default_factory=TwistConfig)
    leader: LeaderConfig = field(default_factory=LeaderConfig)
    dead_zone: float = param(
        0.1, "share of an axis' travel around its rest that counts as rest", minimum=0, maximum=0.9
    )
    unchanged_s: float = param(
        1.0,
        "s after which the very same values all the time, of a motion or of rest, are taken for those of a device that "
        "is gone and whose last state is repeated: the arms hold, and demonstrate nothing, until a value changes; 0: "
        "the reader sees to it",
        minimum=0.0,
        maximum=60.0,
    )
    rest_is_hold: bool = param(
        False,
        "in control without any motion is a HOLD, not a demonstration of standing still: for devices on which taking "
        "over is a switch",
    )
    linear_speed: float = param(0.05, "m/s at full deflection", minimum=0.001, maximum=0.25)
    angular_speed: float = param(0.4, "rad/s at full deflection", minimum=0.01, maximum=2.5)
    gripper_speed: float = param(0.05, "m/s while a gripper button is held", minimum=0.001, maximum=0.25)
    folder: str = param("", "folder of the mapping file; filled in when it is read")

    def __post_init__(self) -> None:
        validate(self)
        self._check_sections()
        self._check_written()
        axes = {axis.index: name for name, axis in self.axes.items() if axis.index != DISABLED}
        for name, index in self.triggers.items():
            if index == DISABLED:
                continue
            if index in axes:
                raise ParameterError(f"triggers: {name} and {axes[index]} are both axis {index}")
            if getattr(self.buttons, name) != DISABLED:
                raise ParameterError(f"triggers: {name} is button {getattr(self.buttons, name)} as well: choose one")
            axes[index] = name

    def _check_sections(self) -> None:
        """No section may be there in vain."""
        if self.motion != "axes" and any(axis.index != DISABLED for _, axis in self.axes.items()):
            raise ParameterError(f"axes: they move nothing while motion is {self.motion!r}: remove them")
        if self.motion != "twist" and self.twist != TwistConfig():
            raise ParameterError(
                f"twist: it moves nothing while motion is {self.motion!r}: remove it, or motion: twist"
            )
        if self.motion != "leader" and self.leader != LeaderConfig():
            raise ParameterError(
                f"leader: it moves nothing while motion is {self.motion!r}: remove it, or motion: leader"
            )
        if self.motion == "leader" and not self.leader.arms:
            raise ParameterError("leader: arms: name at least one arm of the robot with its leader")
        if self.motion == "leader" and self.frame != "world":
            raise ParameterError("frame: leaders move the arms in the world frame: remove it")

    def _check_written(self) -> None:
        """Every name is a text, and of a button that is there."""
        if not isinstance(self.written, Mapping):
            raise ParameterError(f"written: expected buttons with what is written on them, got {self.written!r}")
        numbers = dict(self.buttons.items())
        for name, text in self.written.items():
            if numbers.get(name, DISABLED) == DISABLED or not isinstance(text, str) or not text:
                raise ParameterError(f"written: {name}: {text!r}: expected an enabled entry of buttons and a text")

    def name_of(self, name: str) -> str:
        """What a person knows the button by: what is written on it, else its number. Empty for one that is off."""
        index = dict(self.buttons.items()).get(name, DISABLED)
        return "" if index == DISABLED else self.written.get(name, f"button {index}")

    @property
    def names(self) -> dict[str, str]:
        """What a person knows each enabled button by."""
        return {name: self.name_of(name) for name in dict(self.buttons.items()) if self.name_of(name)}

    def button(self, name: str) -> int:
        """Number of the button of that name, e.g. "handoff". Raises ParameterError when it is unknown or disabled."""
        numbers = dict(self.buttons.items())
        if numbers.get(name, DISABLED) == DISABLED:
            raise ParameterError(f"joystick mapping of {self.device}: no button for {name!r}")
        return numbers[name]

    @property
    def buttons_needed(self) -> int:
        """How many buttons a Joy message must have at least."""
        return 1 + max(index for _, index in self.buttons.items())

    @property
    def axes_needed(self) -> int:
        """How many axes a Joy message must have at least."""
        used = [axis.index for _, axis in self.axes.items()] + [index for _, index in self.triggers.items()]
        return 1 + max(used)


def load_mapping(path: Path | str) -> JoyMapping:
    """Read a joystick mapping. Raises ParameterError naming the file and the key."""
    path = Path(path)
    data = read_yaml(path, MAX_FILE_BYTES)
    if "folder" in data:
        raise ParameterError(f"{path}: unknown key 'folder'")
    try:
        return from_mapping(JoyMapping, {**data, "folder": str(path.resolve().parent)}, str(path))
    except ParameterError as error:
        if str(path) in str(error):
            raise
        raise ParameterError(f"{path}: {error}") from error
