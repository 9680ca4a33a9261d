"""Text of a message on a terminal: what steers the terminal, or ends the line, is shown instead of done."""

from __future__ import annotations

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


def printable(text: object) -> str:
    """The text without control characters."""
    return "".join(c if c.isprintable() else UNPRINTABLE for c in str(text))
