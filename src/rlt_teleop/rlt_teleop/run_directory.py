"""The run directory as the episode manager needs it: ids in use, how episodes ended, relabels. Pure file work."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from rlt_common.atomic import fsync_folder, no_follow
from rlt_common.episode_file import EpisodeFileError, episode_metadata

EPISODES = "episodes"
RELABELS = "labels.jsonl"
_NAME = re.compile(r"^(\d+)\.mcap(\..*)?$")


@dataclass(frozen=True)
class Ledger:
    """What a run directory holds: the largest id in use (0: none), and how many episodes ended.

    `training_episodes`: those of purpose train that were not discarded.
    """

    last_episode_id: int
    episodes: int
    successes: int
    training_episodes: int
    unreadable: tuple[str, ...]


def episode_path(run: Path | str, episode_id: int) -> Path:
    """The file of an episode."""
    return Path(run) / EPISODES / f"{episode_id:06d}.mcap"


def scan(run: Path | str) -> Ledger:
    """Read the names in <run>/episodes, unfinished files included, and the labels inside the finished ones."""
    folder = Path(run) / EPISODES
    last = episodes = successes = training = 0
    unreadable = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NAME.match(path.name)
        if match is None:
            continue
        last = max(last, int(match[1]))
        if match[2]:
            continue
        try:
            facts = episode_metadata(path)
        except EpisodeFileError as error:
            unreadable.append(str(error))
            continue
        episodes += 1
        successes += facts.get("label") == "success"
        training += facts.get("purpose") == "train" and facts.get("label") != "discard"
    return Ledger(last, episodes, successes, training, tuple(unreadable))


def append_relabel(run: Path | str, episode_id: int, label: str) -> None:
    """Append a relabel of a finished episode to labels.jsonl, durably; the last line of an episode wins.

    Raises EpisodeFileError when the episode has no finished file or the line cannot be written.
    """
    if not episode_path(run, episode_id).is_file():
        raise EpisodeFileError(f"{episode_path(run, episode_id)}: no such episode")
    path = Path(run) / RELABELS
    line = json.dumps({"episode_id": episode_id, "label": label}) + "\n"
    try:
        with open(path, "a+b", opener=no_follow) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            torn = file.read(1) not in (b"", b"\n")
            file.write((("\n" if torn else "") + line).encode())
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(path.parent)
    except OSError as error:
        raise EpisodeFileError(f"{path}: {error.strerror}") from error
