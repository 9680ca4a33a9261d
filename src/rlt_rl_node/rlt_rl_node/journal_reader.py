"""Episodes out of their journals (`<run>/episodes/<id>.mcap`), as the learner takes them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from rlt_common.codecs import CodecError
from rlt_common.episode_file import EpisodeFileError
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.records import EpisodeData, EpisodeKey, Label
from rlt_rl_node.robot_run import RobotRun


class JournalReader:
    """Reads finished episode files.

    Args:
        runs: what each robot leaves for the learner, as in RunSession.
        new_assembly: makes an empty assembly.
        config_hash: of the learner's robot and task; a file of others is refused.
        warn: gets, in words, what an episode lacks that is taken in all the same.
        refuse: gets, in words, why one is not.
    """

    def __init__(
        self,
        runs: Mapping[str, RobotRun],
        new_assembly: Callable[[], EpisodeAssembly],
        config_hash: str,
        warn: Callable[[str], None],
        refuse: Callable[[str], None],
    ) -> None:
        self._runs, self._new_assembly, self._config_hash = runs, new_assembly, config_hash
        self._warn, self._refuse = warn, refuse

    def episode(self, key: EpisodeKey, label: Label | None = None) -> EpisodeData | None:
        """A training episode, with the label that it ended with. None when there is none.

        `label`: the one that it was given since, which says whether it is to be trained on; None: none.
        """
        run, assembly = self._runs[key.robot], self._new_assembly()
        try:
            if run.journal(key.episode_id) is None:
                return None
            run.collect(key.episode_id, assembly, self._config_hash)
            if key.episode_id not in assembly.labelled():
                return None
            ended = assembly.label(key.episode_id)
            if label is not None:
                assembly.relabel(key.episode_id, label)
            if not assembly.wanted(key.episode_id):
                return None
            if missing := assembly.missing(key.episode_id):
                self._warn(f"{key} is taken in without {missing}")
            return replace(assembly.take(key.episode_id, key.robot), label=ended)
        except (EpisodeFileError, CodecError, ValueError) as error:
            self._refuse(f"{key}: its journal: {error}")
            return None
