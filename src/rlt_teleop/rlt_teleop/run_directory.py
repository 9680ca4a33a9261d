"""The run directory as the episode manager needs it: ids in use, and how episodes ended. Pure file work.

Episodes whose files were deleted to keep to a disk budget (`rlt_common.retired`) go on counting. The newest number that
left no file (the recorder could not, or nothing is recorded) is in `<run>/last_number.json`: a learner that has heard
of it would take in no other episode under it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlt_common.atomic import write_atomic
from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_common.episode_file import EpisodeFileError
from rlt_common.reading import read_json
from rlt_common.relabels import EPISODES, corrected_labels, episode_facts
from rlt_common.retired import read_retired
from rlt_common.run_files import inside
from rlt_teleop.episode_machine import COUNT_OF, COUNTS, Label

LAST_NUMBER = "last_number.json"
MAX_NUMBER_BYTES = 1024
_NAME = re.compile(r"^(\d+)\.mcap(\..*)?$")


@dataclass(frozen=True)
class Ledger:
    """What a run directory holds: the largest id in use (0: none), and how its finished episodes ended.

    `counts`: by the names in :data:`COUNTS`. `training_episodes`: those of purpose train that were not discarded.
    `unfinished`: ids of which there is but a part, which a recorder may still be writing.
    """

    last_episode_id: int
    counts: Mapping[str, int]
    training_episodes: int
    unreadable: tuple[str, ...]
    unfinished: frozenset[int]


def scan(run: Path | str) -> Ledger:
    """Read the names in <run>/episodes, unfinished files included, and the labels of the finished ones.

    Raises EpisodeFileError when the corrected labels, the list of retired episodes or LAST_NUMBER cannot be read.
    """
    folder = Path(run) / EPISODES
    found: list[Mapping[str, str]] = []
    unreadable = []
    parts, whole = set(), set()
    corrected, retired = corrected_labels(run), _retired(run)
    last = max([_last_number(run), *retired])
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NAME.match(path.name)
        if match is None:
            continue
        last = max(last, int(match[1]))
        (parts if match[2] else whole).add(int(match[1]))
        if match[2]:
            continue
        retired.pop(int(match[1]), None)
        try:
            found.append(episode_facts(path, corrected))
        except EpisodeFileError as error:
            unreadable.append(str(error))
    found += retired.values()
    counts, training = tally(found)
    return Ledger(last, counts, training, tuple(unreadable), frozenset(parts - whole))


def tally(found: Iterable[Mapping[str, str]]) -> tuple[dict[str, int], int]:
    """Counts by the names in :data:`COUNTS`, and the training episodes, of finished episodes with these facts."""
    counts, training = dict.fromkeys(COUNTS, 0), 0
    for facts in found:
        counts["episodes"] += 1
        label = facts.get("label", "").upper()
        if label in Label.__members__ and Label[label] in COUNT_OF:
            counts[COUNT_OF[Label[label]]] += 1
        counts["interventions"] += facts.get("intervened") == "true"
        training += facts.get("purpose") == "train" and facts.get("label") != "discard"
    return counts, training


def keep_number(run: Path | str, episode_id: int) -> None:
    """Note, durably, the number of the newest episode that left no file. Raises OSError when the disk refuses."""
    path = inside(run, LAST_NUMBER)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"episode_id": episode_id}).encode())


def _last_number(run: Path | str) -> int:
    path = Path(run) / LAST_NUMBER
    try:
        number = read_json(path, MAX_NUMBER_BYTES)["episode_id"]
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise EpisodeFileError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError):
        number = None
    if type(number) is not int or not 0 <= number <= HIGHEST_EPISODE_ID:
        raise EpisodeFileError(
            f'{path}: not {{"episode_id": <the newest number of this run>}}: write that, or delete it'
        )
    return number


def _retired(run: Path | str) -> dict[int, Mapping[str, str]]:
    try:
        return {episode_id: entry.facts for episode_id, entry in read_retired(run).items()}
    except OSError as error:
        raise EpisodeFileError(f"{error.filename or run}: {error.strerror}") from error
