"""Malformed and hostile messages of any ROS type, made from its rosidl definition. Pure and seeded: no node, no ROS.

Two ways in: :class:`Hostile` changes fields of a valid message (wrong lengths, NaN, extremes, unknown enum values, old
and impossible stamps, other episodes, odd strings), :func:`broken_cdr` damages a serialised one (cut, grown, flipped
bytes, lengths that lie, invalid UTF-8). Equal seeds give equal messages.
"""

from __future__ import annotations

import array
import copy
import random
from typing import Any

from rosidl_parser.definition import (
    AbstractSequence,
    AbstractString,
    Array,
    BasicType,
    NamespacedType,
)

HUGE = 50_000
"""Elements of a sequence that is much too long."""
KEPT_CHARACTERS = 64
"""Of a string that grows with each change."""
MAX_CHANGES = 4
_SMALL = 12
"""Integers up to here name the known values of an enumeration and the first unknown ones."""
_F32_MAX, _F64_MAX = 3.4028234e38, 1.7976931348623157e308
_SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -1.0, 1e-45)
_STRINGS = (
    "",
    "../../../../etc/passwd",
    "/etc/passwd",
    "a" * 10_000,
    "\n\r\t\x1b[31m",
    "{}%s%n",
    "\u202e\U0001f916\ufffd",
    "full",
    "critical",
    "rgb8",
    "png",
    "nan",
)
_CODES = {
    "int8": "b",
    "uint8": "B",
    "octet": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float": "f",
    "double": "d",
}


class Hostile:
    """Makes bad messages out of good ones. `seed` decides all of them."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def message(self, valid: Any) -> Any:
        """A copy of `valid` with one to four of its fields, nested ones included, turned bad."""
        message = copy.deepcopy(valid)
        for _ in range(self._rng.randint(1, MAX_CHANGES)):
            self._change(message)
        return message

    def cdr(self, cdr: bytes) -> bytes:
        """A damaged copy of a serialised message."""
        return broken_cdr(cdr, self._rng)

    def _change(self, message: Any) -> None:
        names = list(message.get_fields_and_field_types())
        if not names:
            return
        index = self._rng.randrange(len(names))
        kind, name = message.SLOT_TYPES[index], names[index]
        setattr(message, name, self._value(kind, getattr(message, name)))

    def _value(self, kind: Any, current: Any) -> Any:
        if isinstance(kind, BasicType):
            return self._basic(kind.typename, current)
        if isinstance(kind, AbstractString):
            return self._string(current, getattr(kind, "maximum_size", None))
        if isinstance(kind, NamespacedType):
            changed = copy.deepcopy(current)
            self._change(changed)
            return changed
        if isinstance(kind, Array):
            values = list(current)
            for _ in range(self._rng.randint(1, len(values))):
                at = self._rng.randrange(len(values))
                values[at] = self._value(kind.value_type, values[at])
            return values
        if isinstance(kind, AbstractSequence):
            return self._sequence(kind, current)
        raise TypeError(f"no values for a field of type {kind}")

    def _basic(self, name: str, current: Any) -> Any:
        rng = self._rng
        if name == "boolean":
            return not current
        if name in ("float", "double"):
            top = _F32_MAX if name == "float" else _F64_MAX
            return rng.choice((*_SPECIAL, top, -top, rng.gauss(0.0, 1.0) * 10.0 ** rng.randint(-6, 12)))
        if name == "octet":
            return bytes([rng.randrange(256)])
        bits, signed = int(name.lstrip("uint")), not name.startswith("u")
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        near = current + rng.choice((-1, 1, 2))
        drawn = rng.choice((low, high, high - 1, rng.randint(0, _SMALL), near, rng.randint(low, high), 1 << bits // 2))
        return min(max(drawn, low), high)

    def _string(self, current: str, maximum: int | None) -> str:
        drawn = self._rng.choice((*_STRINGS, current[:KEPT_CHARACTERS] + "x"))
        return drawn if maximum is None else drawn[:maximum]

    def _sequence(self, kind: Any, current: Any) -> Any:
        rng, item = self._rng, kind.value_type
        values, basic = list(current), isinstance(item, BasicType)
        how = rng.choice(("empty", "shorter", "longer", "one", "one", "all", "shuffled", "huge"))
        if how == "empty":
            values = []
        elif how == "shorter":
            del values[rng.randrange(len(values) + 1) :]
        elif how == "longer" and values:
            values += values[: rng.randint(1, len(values))]
        elif how == "huge" and basic and values and rng.random() < 0.1:
            values = (values * (HUGE // len(values) + 1))[:HUGE]
        elif how == "shuffled":
            rng.shuffle(values)
        elif how == "all" and basic and values:
            values = [self._basic(item.typename, values[0])] * len(values)
        elif values:
            at = rng.randrange(len(values))
            values[at] = self._value(item, values[at])
        maximum = getattr(kind, "maximum_size", None)
        values = values if maximum is None else values[:maximum]
        code = _CODES.get(item.typename) if basic else None
        return values if code is None or item.typename == "octet" else array.array(code, values)


def broken_cdr(cdr: bytes, rng: random.Random) -> bytes:
    """Serialised bytes with one damage: cut, grown, flipped, a length that lies, invalid UTF-8, or none of it left."""
    data = bytearray(cdr)
    how = rng.randrange(8)
    if how == 0:
        del data[rng.randrange(len(data) + 1) :]
    elif how == 1:
        data += rng.randbytes(rng.randint(1, 64))
    elif how == 2:
        for _ in range(rng.randint(1, 16)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == 3 and len(data) >= 12:
        at = 4 * rng.randrange(1, len(data) // 4)
        data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x40", b"\0\0\0\0"))
    elif how == 4:
        at = rng.randrange(4, len(data) + 1)
        data[at : at + 3] = b"\xc3\x28\xff"
    elif how == 5:
        data[:2] = rng.choice((b"\x00\x00", b"\x00\x03", b"\x00\x07", b"\xff\xff"))
    elif how == 6:
        data = bytearray(rng.randbytes(rng.randint(0, 256)))
    else:
        text = [i for i in range(4, len(data)) if 0x20 < data[i] < 0x7F]
        for at in rng.sample(text, min(len(text), 4)):
            data[at] = rng.choice((0xFF, 0xC0, 0xED, 0x80))
    return bytes(data)
