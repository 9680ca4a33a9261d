"""Labels that were corrected after an episode's file was closed: `<run>/labels.jsonl`, append-only, the last line wins.

Whoever reads the label of an episode in `<run>/episodes` reads it through here: :func:`episode_facts`. One line is one
correction; its sequence number is its line's, so that a reader knows which ones it has applied already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlt_common.atomic import append_line
from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_common.episode_file import EpisodeFileError, episode_metadata
from rlt_common.reading import parse_json, read_limited
from rlt_common.retired import read_retired
from rlt_common.run_files import inside

EPISODES = "episodes"
FILE = "labels.jsonl"
LABELS = ("success", "failure", "discard")
"""Those that an operator may give."""
RECORDED_LABEL = "recorded_label"
"""Key of :func:`episode_facts`: the label inside the file, where it was corrected since."""
MAX_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class Relabel:
    """One correction. `after_episode`: the newest episode that had ended when it was made (0: not known).

    Of an episode that was given up before its file came: the one before it, for nobody took it in.
    """

    sequence: int
    episode_id: int
    label: str
    after_episode: int = 0


def read_relabels(run: Path | str) -> tuple[list[Relabel], list[str]]:
    """The corrections of a run in their order, and in words what in the file is none (a torn line, for example).

    Raises EpisodeFileError when the file is there and cannot be read, or is larger than any run makes it.
    """
    path = Path(run) / FILE
    try:
        lines = read_limited(path, MAX_BYTES).split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise EpisodeFileError(f"{path}: {error.strerror}") from error
    found, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            found.append(_parse(number, line))
        except ValueError as error:
            problems.append(f"{path}: line {number} is left out: {error}")
    return found, problems


def corrected_labels(run: Path | str) -> dict[int, str]:
    """Episode id -> label, for the corrected ones alone. Raises EpisodeFileError."""
    return {relabel.episode_id: relabel.label for relabel in read_relabels(run)[0]}


def append_relabel(run: Path | str, episode_id: int, label: str, after_episode: int = 0) -> Relabel:
    """Append a correction, durably, and return it. Raises EpisodeFileError when the line cannot be written."""
    facts = {"episode_id": episode_id, "label": label, "after_episode": after_episode}
    path = Path(run) / FILE
    try:
        file = inside(run, FILE)
        before = read_limited(file, MAX_BYTES) if file.exists() else b""
        append_line(file, facts)
    except OSError as error:
        raise EpisodeFileError(f"{path}: {error.strerror}") from error
    torn = bool(before) and not before.endswith(b"\n")
    return Relabel(before.count(b"\n") + torn + 1, episode_id, label, after_episode)


def episode_path(run: Path | str, episode_id: int) -> Path:
    """The file of an episode of a run."""
    return Path(run) / EPISODES / f"{episode_id:06d}.mcap"


def finished_episodes(run: Path | str) -> dict[int, Mapping[str, str]]:
    """The facts of every finished episode of a run, by id, rising; those whose files were retired too.

    Raises EpisodeFileError for a file that is torn, and for a list that cannot be read.
    """
    corrected = corrected_labels(run)
    try:
        found: dict[int, Mapping[str, str]] = {i: entry.facts for i, entry in read_retired(run).items()}
    except OSError as error:
        raise EpisodeFileError(f"{error.filename or run}: {error.strerror}") from error
    for path in (Path(run) / EPISODES).glob("*.mcap"):
        if path.stem.isdecimal():
            found[int(path.stem)] = episode_facts(path, corrected)
    return dict(sorted(found.items()))


def episode_facts(path: Path | str, corrected: Mapping[int, str] | None = None) -> dict[str, str]:
    """An episode file's metadata with the label that counts now.

    Only files in a folder `episodes` are looked up, in the `labels.jsonl` beside that folder: demonstrations have ids
    of their own. `corrected`: that file's content, for a caller that reads many. Raises EpisodeFileError.
    """
    path = Path(path)
    facts = episode_metadata(path)
    if path.parent.name != EPISODES:
        return facts
    if corrected is None:
        corrected = corrected_labels(path.parent.parent)
    label = corrected.get(int(path.stem)) if path.stem.isdecimal() else None
    if label is None or label == facts.get("label"):
        return facts
    return {**facts, "label": label, RECORDED_LABEL: facts.get("label", "")}


def _parse(number: int, line: bytes) -> Relabel:
    data = parse_json(line)
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    episode_id, label, after = data.get("episode_id"), data.get("label"), data.get("after_episode", 0)
    for name, value in (("episode_id", episode_id), ("after_episode", after)):
        if type(value) is not int or not 0 <= value <= HIGHEST_EPISODE_ID:
            raise ValueError(f"{name} is {str(value)[:40]!r}")
    if label not in LABELS:
        raise ValueError(f"label is {str(label)[:40]!r}, not one of {', '.join(LABELS)}")
    return Relabel(number, episode_id, label, after)
