"""Keys of a terminal to the buttons and axes of `sensor_msgs/Joy`. Pure: no terminal, no clock of its own.

A terminal says when a key is pressed and, while it is held, repeats it; it never says that a key was let go. So

- a motion key moves for HOLD_S after each time it is heard, no longer: a tap is a short step, a held key moves while it
  repeats. When the keys stop coming, for whatever reason, so does the motion;
- a decision key is down until it was not heard for REPEAT_DELAY_S (longer than terminals wait before they repeat) or
  another key came: holding it presses once;
- a switch (take over, reposition) is turned by each such press. Taking over needs no key to be held, because a terminal
  repeats one key only; only motion does. Control ends with the episode.

Every state has all axes and buttons; config/joy/keyboard.yaml of rlt_bringup gives them their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

HOLD_S = 0.15
"""A motion key counts as held for so long after it was heard. The slowest usual repeat is every 0.1 s."""
REPEAT_DELAY_S = 0.8
"""A key heard again within this time was held all along. The longest usual wait before repeating is 0.66 s."""

AXIS_KEYS = (("w", "s"), ("a", "d"), ("r", "f"), ("u", "m"), ("i", "k"), ("j", "l"))
"""Keys for +1 and -1 of each axis: x, y, z, then turning about x, y, z."""
SWITCHES = (" ", "p")
HELD_BUTTONS = ("o", "c")
BUTTON_KEYS = (" ", "h", "y", "n", "x", "z", "\r", "\x1b", *HELD_BUTTONS, "1", "2", "p")
"""The key of each button, in the order of Joy.buttons."""
MOTION_KEYS = frozenset(key for pair in AXIS_KEYS for key in pair) | frozenset(HELD_BUTTONS)

HELP = """\
 SPACE  take over / give back          w s  forward, back       u m  turn about x
 h      hand off                       a d  left, right         i k  turn about y
 y n x  success, failure, discard      r f  up, down            j l  turn about z
 z      undo: choose an episode        o c  open, close gripper
        for another label              1 2  first, second arm   p    repositioning on / off
 ENTER  next episode                   ESC  EMERGENCY STOP      Ctrl-C  end (the arms hold)
Motion lasts only while its key repeats. Wait a second before you press the same other key again."""


def parse(data: bytes) -> list[str]:
    """The keys in what a terminal sent; capitals count as small letters, escape sequences (arrow keys) as nothing.

    An escape that nothing follows is the ESC key; one whose sequence is torn apart counts as that key too.
    """
    text = data.decode("latin-1")
    keys = []
    i = 0
    while i < len(text):
        if text[i] == "\x1b" and text[i + 1 : i + 2] in ("[", "O"):
            i += 2
            while i < len(text) and not "\x40" <= text[i] <= "\x7e":
                i += 1
        else:
            keys.append("\r" if text[i] == "\n" else text[i].lower())
        i += 1
    return keys


@dataclass(frozen=True)
class KeyState:
    """One Joy message: `axes` (6,) of -1, 0, 1 and `buttons` of 0, 1."""

    axes: tuple[float, ...]
    buttons: tuple[int, ...]


class Keyboard:
    """Keys that are heard, and what counts as held."""

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}
        self._on: set[str] = set()
        self._last = ""

    @property
    def in_control(self) -> bool:
        """Whether the person has taken over."""
        return " " in self._on

    @property
    def repositioning(self) -> bool:
        """Whether motion is marked as repositioning."""
        return "p" in self._on

    def hear(self, key: str, now_s: float) -> None:
        """A key came at monotonic time `now_s`."""
        if key in SWITCHES and not self._down(key, now_s):
            self._on ^= {key}
        self._heard_s[key] = now_s
        self._last = key

    def give_back(self) -> None:
        """There is nothing to control: the next SPACE takes over."""
        self._on.discard(" ")

    def forget(self) -> None:
        """What was heard is too old to count: no key is held. The switches stay."""
        self._heard_s.clear()

    def state(self, now_s: float) -> KeyState:
        """What to publish at monotonic time `now_s`."""
        axes = tuple(float(self._down(plus, now_s)) - float(self._down(minus, now_s)) for plus, minus in AXIS_KEYS)
        buttons = tuple(int(key in self._on if key in SWITCHES else self._down(key, now_s)) for key in BUTTON_KEYS)
        return KeyState(axes, buttons)

    def _down(self, key: str, now_s: float) -> bool:
        heard_s = self._heard_s.get(key)
        if heard_s is None:
            return False
        if key in MOTION_KEYS:
            return now_s - heard_s <= HOLD_S
        return key == self._last and now_s - heard_s <= REPEAT_DELAY_S
