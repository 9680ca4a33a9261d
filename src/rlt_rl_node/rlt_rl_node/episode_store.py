"""Encoded episodes on disk, `<run>/encoded/<id>.safetensors`: exactly what the learner took in, one atomic file each.

They are derived data: the journal of an episode holds the observations behind them. A checkpoint names the ones in its
replay by their sha256, so a resumed learner has the same replay to the last bit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from rlt_common.atomic import sha256_hex, write_atomic
from rlt_common.reading import read_limited
from rlt_rl_node import tensor_file
from rlt_rl_node.records import EpisodeData, Label, RecordError
from rlt_rl_node.tensor_file import TensorFileError

MAX_BYTES = 4 * 1024**3
_DTYPES = {
    "steps": np.int64,
    "sources": np.uint8,
    "actions": np.float32,
    "encoded_steps": np.int64,
    "boundary": np.bool_,
    "rl_tokens": np.float32,
    "rl_states": np.float32,
    "references": np.float32,
}


class EpisodeStore:
    """A folder of encoded episodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sha256: dict[int, str] = {}

    def path(self, episode_id: int) -> Path:
        """Where an episode lies or would lie; demonstrations have negative ids and names of their own."""
        name = f"{episode_id:06d}" if episode_id >= 0 else f"demonstration-{-episode_id:06d}"
        return self.folder / f"{name}.safetensors"

    def save(self, episode: EpisodeData) -> None:
        """Write it, atomically and durably, over an older version of the same episode."""
        arrays = {name: getattr(episode, name).astype(dtype, copy=False) for name, dtype in _DTYPES.items()}
        facts = {"episode_id": episode.episode_id, "label": episode.label.name, "delay": episode.delay}
        data = tensor_file.dump(arrays, facts)
        write_atomic(self.path(episode.episode_id), data)
        self._sha256[episode.episode_id] = sha256_hex(data)

    def load(self, episode_id: int, sha256: str | None = None) -> EpisodeData:
        """Read it. Raises TensorFileError naming the file when it is missing, torn or not the one with `sha256`."""
        path = self.path(episode_id)
        try:
            data = read_limited(path, MAX_BYTES)
        except OSError as error:
            raise TensorFileError(f"{path}: {error.strerror}") from error
        digest = sha256_hex(data)
        if sha256 is not None and digest != sha256:
            raise TensorFileError(f"{path}: changed since the checkpoint was written (sha256 {digest[:16]})")
        try:
            arrays, facts = tensor_file.parse(data, MAX_BYTES)
            for name, dtype in _DTYPES.items():
                tensor_file.expect(arrays, {name: (None,) * arrays[name].ndim} if name in arrays else {name: ()}, dtype)
            episode = EpisodeData(
                episode_id=int(facts["episode_id"]),
                label=Label[facts["label"]],
                delay=int(facts["delay"]),
                **{name: arrays[name] for name in _DTYPES},
            )
        except (KeyError, TypeError, TensorFileError, RecordError) as error:
            raise TensorFileError(f"{path}: not an encoded episode: {error}") from error
        if episode.episode_id != episode_id:
            raise TensorFileError(f"{path}: holds episode {episode.episode_id}")
        self._sha256[episode_id] = digest
        return episode

    def sha256(self, episode_id: int) -> str:
        """Of the file of an episode that was saved or loaded here. KeyError otherwise."""
        return self._sha256[episode_id]

    def newer_than(self, episode_id: int) -> list[int]:
        """Ids of the run's stored episodes above `episode_id`, rising."""
        ids = (int(path.stem) for path in self.folder.glob("*.safetensors") if path.stem.isdecimal())
        return sorted(i for i in ids if i > episode_id)


def trimmed(episode: EpisodeData, chunk_length: int) -> EpisodeData:
    """The episode with only the reference rows that transitions use, 0 .. d + C - 1."""
    rows = episode.delay + chunk_length
    return dataclasses.replace(episode, references=np.ascontiguousarray(episode.references[:, :rows]))
