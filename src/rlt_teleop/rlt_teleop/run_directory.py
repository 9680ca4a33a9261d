"""The run directory as the episode manager needs it: ids in use, and how episodes ended. Pure file work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rlt_common.episode_file import EpisodeFileError
from rlt_common.relabels import EPISODES, corrected_labels, episode_facts

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
    """Read the names in <run>/episodes, unfinished files included, and the labels of the finished ones.

    Raises EpisodeFileError when the corrected labels cannot be read.
    """
    folder = Path(run) / EPISODES
    last = episodes = successes = training = 0
    unreadable = []
    corrected = corrected_labels(run)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NAME.match(path.name)
        if match is None:
            continue
        last = max(last, int(match[1]))
        if match[2]:
            continue
        try:
            facts = episode_facts(path, corrected)
        except EpisodeFileError as error:
            unreadable.append(str(error))
            continue
        episodes += 1
        successes += facts.get("label") == "success"
        training += facts.get("purpose") == "train" and facts.get("label") != "discard"
    return Ledger(last, episodes, successes, training, tuple(unreadable))
