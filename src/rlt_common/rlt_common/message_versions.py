"""Messages that were recorded before their type got more fields: read as they are, with zeros for the fields they lack.

CDR writes fields one after the other, so a type that only got fields at its end reads an older message once zero bytes
stand where they are missing: 0, false, or nothing in a sequence or a string. Any other change is refused.
"""

from __future__ import annotations

import re

PADDING = bytes(1024)
"""More than the fields that a type may get; what is not needed is not read."""
_SEPARATOR = re.compile(r"^=+\nMSG: (\S+)\n", re.MULTILINE)


class VersionError(ValueError):
    """A recorded type that is not an earlier version of the installed one; says what differs."""


def padding(recorded: str, installed: str) -> bytes:
    """What to append to a recorded message so that the installed type reads it.

    Args:
        recorded: ros2msg text of the type and of those it uses, from the file.
        installed: the same of the installed type.

    Raises:
        VersionError: fields were taken away, changed or put between others, or a used type changed.
    """
    if recorded == installed:
        return b""
    (old, *old_used), (new, *new_used) = _types(recorded), _types(installed)
    known = dict(new_used)
    for name, fields in old_used:
        if name in known and known[name] != fields:
            raise VersionError(f"its {name} has other fields")
    if new[1][: len(old[1])] != old[1]:
        wrong = next((o for o, n in zip(old[1], new[1], strict=False) if o != n), "its last field")
        raise VersionError(f"{' '.join(wrong) if isinstance(wrong, tuple) else wrong} is another field now, or gone")
    return PADDING if len(new[1]) > len(old[1]) else b""


def _types(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Name ("" for the type itself) and fields (type, name) of every type in a ros2msg text."""
    parts = _SEPARATOR.split(text)
    return [("", _fields(parts[0])), *((parts[i], _fields(parts[i + 1])) for i in range(1, len(parts), 2))]


def _fields(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) >= 2 and "=" not in words[1] and not (len(words) > 2 and words[2].startswith("=")):
            found.append((words[0], words[1]))
    return found
