"""Episodes whose files were deleted to keep a run within its disk budget: `<run>/retired.jsonl`, append-only.

One line is one episode, written before its file goes: its number, when and why, and its facts with the label that
counted then. So it goes on counting, its number is not given again, and whoever looks for its file is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlt_common.atomic import append_line
from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_common.reading import parse_json, read_limited
from rlt_common.run_files import inside

FILE = "retired.jsonl"
MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Retired:
    """One deleted episode. `date`: ISO 8601, UTC."""

    episode_id: int
    date: str
    why: str
    bytes: int
    facts: Mapping[str, str]


def read_retired(run: Path | str) -> dict[int, Retired]:
    """The deleted episodes of a run, by id. A line that is none is left out: the run died while it was written, and
    the file it speaks of is there. Raises OSError when the list is there and cannot be read.
    """
    path = Path(run) / FILE
    try:
        lines = read_limited(path, MAX_BYTES).split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    entries = filter(None, map(_parse, lines))
    return {entry.episode_id: entry for entry in entries}


def append_retired(run: Path | str, entry: Retired) -> None:
    """Note, durably, that an episode's file is about to be deleted. Raises OSError when the line cannot be written."""
    line = {
        "episode_id": entry.episode_id,
        "date": entry.date,
        "why": entry.why,
        "bytes": entry.bytes,
        "facts": dict(entry.facts),
    }
    append_line(inside(run, FILE), line)


def retired_words(path: Path | str) -> str:
    """What to tell whoever looks for an episode's file that is not there; "" where nothing is known of it."""
    path = Path(path)
    if not path.stem.isdecimal():
        return ""
    try:
        entry = read_retired(path.parent.parent).get(int(path.stem))
    except OSError:
        return ""
    if entry is None:
        return ""
    return f"it was retired on {entry.date[:10]} ({entry.why}); its facts are in {path.parent.parent / FILE}"


def _parse(line: bytes) -> Retired | None:
    try:
        data = parse_json(line)
        entry = Retired(data["episode_id"], data["date"], data["why"], data["bytes"], data["facts"])
    except (ValueError, TypeError, KeyError):
        return None
    texts = (entry.date, entry.why, *entry.facts.values()) if isinstance(entry.facts, dict) else (None,)
    numbers = (entry.episode_id, entry.bytes)
    if not all(isinstance(t, str) for t in texts) or not all(type(n) is int and n >= 0 for n in numbers):
        return None
    return entry if entry.episode_id <= HIGHEST_EPISODE_ID else None
