"""Presses of the operator page's buttons, and whether they still mean what the person saw. Pure; time comes in.

Several people may have the page open. A press carries the state in which it was made; one that comes after somebody
else's, or after the graph went on, is refused in words instead of meaning the next episode. The emergency stop always
acts and is not judged here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_teleop.episode_machine import Phase
from rlt_teleop.printable import printable

ESTOP, RESET_ESTOP, RELABEL = "estop", "reset_estop", "relabel"
RELEVANT: Mapping[str, tuple[str, ...]] = {
    "next_episode": ("episode_id", "phase", "relabelling"),
    "handoff": ("episode_id", "phase"),
    "success": ("episode_id", "relabelling"),
    "failure": ("episode_id", "relabelling"),
    "discard": ("episode_id", "relabelling"),
    "undo": ("episode_id", "phase", "relabelling"),
    RESET_ESTOP: ("stops",),
    RELABEL: (),  # names its episode and the label that it had
}
"""Button -> what must not have changed between the page's picture and the press. A human who takes over or gives back
meanwhile changes none of it."""
WAIT_S = 1.0
"""How long a press may take to show before it counts as without effect."""
LOG_LINES = 40
NAME_LENGTH = 24
_LARGEST = max(HIGHEST_EPISODE_ID, 2**32)


class PressError(ValueError):
    """A press that does not say what it has to; says what is wrong."""


@dataclass(frozen=True)
class Seen:
    """The state that a page showed. `stops`: grows with every emergency stop that is heard of, whoever pressed it."""

    episode_id: int = 0
    epoch: int = 0
    phase: int = 0
    relabelling: int = 0
    stops: int = 0

    @classmethod
    def parse(cls, data: object) -> Seen:
        """From JSON. Raises PressError."""
        names = [field.name for field in fields(cls)]
        if not isinstance(data, dict) or sorted(data) != sorted(names):
            raise PressError(f"seen must have {', '.join(names)}")
        for name in names:
            if type(data[name]) is not int or not 0 <= data[name] <= _LARGEST:
                raise PressError(f"seen.{name} is no number that can be")
        return cls(**data)

    def to_json(self) -> dict[str, int]:
        """What a page gives back with a press."""
        return asdict(self)

    def words(self) -> str:
        """For a refusal."""
        if self.relabelling:
            return f"another label for episode {self.relabelling}"
        try:
            phase = Phase(self.phase).name
        except ValueError:
            phase = f"phase {self.phase}"
        return f"episode {self.episode_id} in {phase}"


@dataclass(frozen=True)
class Press:
    """One press of a button.

    Attributes:
        name: key of :data:`RELEVANT`, or "estop".
        who: the name that the person gave.
        seen: the state it was pressed in.
        episode_id, label, was: of `relabel`: which ended episode, its new label, and the one that the page showed.
        confirmed: of `reset_estop`: the person has said that the arms were looked at.
    """

    name: str
    who: str
    seen: Seen = Seen()
    episode_id: int = 0
    label: str = ""
    was: str = ""
    confirmed: bool = False

    @classmethod
    def parse(cls, data: Mapping[str, Any], who: str) -> Press:
        """From JSON: `press`, `seen` and, of `relabel` and `reset_estop`, their own. Raises PressError."""
        name = data.get("press")
        if name == ESTOP:
            return cls(ESTOP, who)
        if not isinstance(name, str) or name not in RELEVANT:
            raise PressError(f"there is no button {printable(name)[:40]!r}")
        episode_id, label, was = data.get("episode_id", 0), data.get("label", ""), data.get("was", "")
        if type(episode_id) is not int or not 0 <= episode_id <= HIGHEST_EPISODE_ID:
            raise PressError("episode_id is no number of an episode")
        if not (isinstance(label, str) and isinstance(was, str)) or len(label) + len(was) > 40:
            raise PressError("label and was must be labels")
        return cls(name, who, Seen.parse(data.get("seen")), episode_id, label, was, data.get("confirmed") is True)


@dataclass(frozen=True)
class Answer:
    """What came of a press. `text`: in words."""

    done: bool
    text: str


@dataclass(frozen=True)
class LogLine:
    """Something that a person did or was told. `time_s`: Unix time; `level`: ok, refused or stop."""

    time_s: float
    who: str
    text: str
    level: str = "ok"


@dataclass(frozen=True)
class _Pending:
    name: str
    who: str
    seen: Seen
    since_s: float


class PressDesk:
    """Judges presses in the order in which they come, and keeps the log that every page shows.

    Attributes:
        stops: emergency stops from pages.
        stops_heard: :attr:`Seen.stops`; a page's own may count more than once.
        taken, refused: other presses.
    """

    def __init__(self) -> None:
        self._pending: _Pending | None = None
        self.log: deque[LogLine] = deque(maxlen=LOG_LINES)
        self.stops = self.stops_heard = self.taken = self.refused = 0

    def judge(self, press: Press, now: Seen, allowed: Collection[str], now_s: float) -> str:
        """Returns "" or why the press must not be passed on.

        Args:
            press: anything but the emergency stop.
            now: how things stand.
            allowed: names of buttons that the episode manager would accept now.
            now_s: monotonic time.
        """
        name, words = press.name, press.name.replace("_", " ")
        if any(getattr(press.seen, field) != getattr(now, field) for field in RELEVANT[name]):
            if name == RESET_ESTOP:
                return "the emergency stop was pressed again meanwhile: look at the arms again"
            return f"{words} was meant for {press.seen.words()}; now it is {now.words()}: nothing was done"
        if name == RESET_ESTOP and not press.confirmed:
            return "the emergency stop is released only by who confirms that the arms were looked at"
        if name not in (RELABEL, RESET_ESTOP):
            pending = self._pending
            if pending is not None and pending.seen == now and now_s - pending.since_s < WAIT_S:
                return f"{pending.who} has just pressed {pending.name.replace('_', ' ')}: wait for what comes of it"
        if name not in allowed:
            return f"{words} is not possible now: {now.words()}"
        return ""

    def passed_on(self, press: Press, now: Seen, now_s: float) -> None:
        """A press whose effect is to be seen in the state went out."""
        self._pending = _Pending(press.name, press.who, now, now_s)

    def without_effect(self, now: Seen, now_s: float) -> str:
        """Once for a press after which nothing has changed for WAIT_S: in words; else ""."""
        pending = self._pending
        if pending is None or (pending.seen == now and now_s - pending.since_s < WAIT_S):
            return ""
        self._pending = None
        return (
            f"nothing has come of {pending.who}'s {pending.name.replace('_', ' ')} yet" if pending.seen == now else ""
        )

    def note(self, time_s: float, who: str, text: str, level: str = "ok") -> None:
        """Add a line to the log. `time_s`: Unix time."""
        self.log.append(LogLine(time_s, printable(who), printable(text), level))


def name_of(text: object, number: int) -> str:
    """What a person is called: what was typed, made printable and short, or "operator <number>"."""
    typed = " ".join(printable(text).split())[:NAME_LENGTH] if isinstance(text, str) else ""
    return typed or f"operator {number}"
