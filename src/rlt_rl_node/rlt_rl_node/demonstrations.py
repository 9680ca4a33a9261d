"""Encoded demonstrations (the VLA package's `encode` writes them) as episodes for the replay.

To the replay a demonstration is an episode in which a human drove all the time: action and reference are the human's
(Sec. V), and it ended in success. It has a negative id, so that it never meets an episode of the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from rlt_common.codecs import CodecError
from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.episode_file import EpisodeFileError, episode_metadata
from rlt_rl_node import messages
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.records import EpisodeData, Label, RecordError

FOLDER = "demonstrations"
"""In the folder of the VLA's checkpoint."""


class DemonstrationsError(RuntimeError):
    """Encoded demonstrations that are torn, of another VLA or another RL state; says which file and what to do."""


@dataclasses.dataclass(frozen=True)
class DemonstrationSource:
    """Where demonstrations come from, and what they must fit."""

    folder: Path
    count: int
    """At most so many, in name order."""
    vla_hash: str
    rl_state: tuple[str, ...]
    """The blocks of the RL state, in order."""
    period_ns: int
    stride: int
    delay: int

    @classmethod
    def of(cls, folder: Path, count: int, vla_hash: str, robot: RobotConfig, task: TaskConfig) -> DemonstrationSource:
        """At most `count` of those encoded in `folder`, for a robot and task."""
        period_ns = round(1e9 * robot.period_s)
        return cls(folder, count, vla_hash, task.rl_state, period_ns, task.stride, task.prefetch_steps)

    def read(self, log: Callable[[str], None]) -> Iterator[EpisodeData]:
        """Each with its critical phase; ids -1, -2, ... A missing folder is only logged. Raises DemonstrationsError."""
        paths = sorted(self.folder.glob("*.mcap"))[: self.count]
        if self.count and not paths:
            log(
                f"{self.folder} holds no encoded demonstrations: the replay begins without; the VLA package's `encode` "
                "makes them, and `demonstrations: 0` wants none"
            )
        for number, path in enumerate(paths, start=1):
            try:
                yield self._episode(path, -number)
            except (EpisodeFileError, CodecError, RecordError, KeyError, ValueError) as error:
                raise DemonstrationsError(f"{path}: {error}: encode the demonstrations again") from error

    def _episode(self, path: Path, episode_id: int) -> EpisodeData:
        facts = episode_metadata(path)
        if facts.get("vla_hash") != self.vla_hash:
            raise DemonstrationsError(
                f"{path}: encoded by VLA {facts.get('vla_hash')}, this learner's is {self.vla_hash}: run `encode` again"
            )
        if (state := facts.get("rl_state", "")) != ",".join(self.rl_state):
            raise DemonstrationsError(
                f"{path}: encoded with the RL state {state or 'of an earlier version'}, the task's rl_state is "
                f"{','.join(self.rl_state)}: run `encode` again"
            )
        own_id = int(facts["episode_id"])
        assembly = EpisodeAssembly(self.period_ns, self.stride, self.delay)
        assembly.set_state(own_id, 0, True, Label[facts["label"].upper()], int(facts["handoff_step"]))
        messages.collect_journal(assembly, path, own_id)
        return dataclasses.replace(assembly.take(own_id), episode_id=episode_id)
