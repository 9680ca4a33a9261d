"""The first plain fields of a serialised message, without deserialising the rest. Pure.

Every message of this project begins with a std_msgs/Header; what follows are numbers. Plain CDR (XCDR1): 4 bytes of
encapsulation, of which the second says the byte order, then each number aligned to its own size.
"""

from __future__ import annotations

import struct
from functools import lru_cache

ENCAPSULATION = 4
_PLAIN = {b"\x00\x00": ">", b"\x00\x01": "<"}


class CdrError(ValueError):
    """Bytes that are no plain CDR message with a header; says why."""


def leading_fields(cdr: bytes, kinds: str) -> tuple[int, tuple[int, ...]]:
    """The header's stamp in ns and the numbers after the header.

    Args:
        cdr: the serialised message.
        kinds: one letter of `struct` per number: "Q" uint64, "I" uint32, "B" uint8 or bool.
    """
    order = _PLAIN.get(bytes(cdr[:2]))
    if order is None:
        raise CdrError(f"a message in representation {bytes(cdr[:2]).hex()}, expected plain CDR")
    try:
        seconds, nanoseconds, length = struct.unpack_from(order + "iII", cdr, ENCAPSULATION)
        offset = 12 + length
        values = []
        for kind in kinds:
            size = _size(kind)
            offset += -offset % size
            values.append(struct.unpack_from(order + kind, cdr, ENCAPSULATION + offset)[0])
            offset += size
    except struct.error as error:
        raise CdrError(f"a message of {len(cdr)} bytes is too short: {error}") from error
    if seconds < 0 or nanoseconds >= 1_000_000_000:
        raise CdrError(f"a stamp of {seconds} s and {nanoseconds} ns: no clock shows it")
    return seconds * 1_000_000_000 + nanoseconds, tuple(values)


@lru_cache
def _size(kind: str) -> int:
    return struct.calcsize(kind)
