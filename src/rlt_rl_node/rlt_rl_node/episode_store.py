"""Encoded episodes on disk, one atomic file each: exactly what the learner took in.

    <run>/encoded/<id>.safetensors          of the only robot
    <run>/encoded/<robot>/<id>.safetensors  of one of several

They are derived data: the journal of an episode holds the observations behind them. A checkpoint names the ones in its
replay by their sha256, so a resumed learner has the same replay to the last bit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from rlt_common.atomic import sha256_hex, write_atomic
from rlt_common.reading import read_limited
from rlt_common.run_files import inside
from rlt_rl_node import tensor_file
from rlt_rl_node.records import EpisodeData, EpisodeKey, Label, RecordError
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
        self._sha256: dict[EpisodeKey, str] = {}

    def path(self, key: EpisodeKey) -> Path:
        """Where an episode lies or would lie; demonstrations have negative ids and names of their own."""
        name = f"{key.episode_id:06d}" if key.episode_id >= 0 else f"demonstration-{-key.episode_id:06d}"
        return inside(self.folder, key.robot, f"{name}.safetensors")

    def save(self, episode: EpisodeData) -> None:
        """Write it, atomically and durably, over an older version of the same episode."""
        arrays = {name: getattr(episode, name).astype(dtype, copy=False) for name, dtype in _DTYPES.items()}
        facts = {"episode_id": episode.episode_id, "label": episode.label.name, "delay": episode.delay}
        if episode.robot:
            facts["robot"] = episode.robot
        data = tensor_file.dump(arrays, facts)
        path = self.path(episode.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        self._sha256[episode.key] = sha256_hex(data)

    def load(self, key: EpisodeKey, sha256: str | None = None) -> EpisodeData:
        """Read it. Raises TensorFileError naming the file when it is missing, torn or not the one with `sha256`."""
        path = self.path(key)
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
                robot=str(facts.get("robot", "")),
                **{name: arrays[name] for name in _DTYPES},
            )
        except (KeyError, TypeError, TensorFileError, RecordError) as error:
            raise TensorFileError(f"{path}: not an encoded episode: {error}") from error
        if episode.key != key:
            raise TensorFileError(f"{path}: holds {episode.key}")
        self._sha256[key] = digest
        return episode

    def sha256(self, key: EpisodeKey) -> str:
        """Of the file of an episode that was saved or loaded here. KeyError otherwise."""
        return self._sha256[key]

    def newer_than(self, key: EpisodeKey) -> list[int]:
        """Ids of the robot's stored episodes above the one of `key`, rising."""
        folder = inside(self.folder, key.robot)
        ids = (int(path.stem) for path in folder.glob("*.safetensors") if path.stem.isdecimal())
        return sorted(i for i in ids if i > key.episode_id)


def trimmed(episode: EpisodeData, chunk_length: int) -> EpisodeData:
    """The episode with only the reference rows that transitions use, 0 .. d + C - 1."""
    rows = episode.delay + chunk_length
    return dataclasses.replace(episode, references=np.ascontiguousarray(episode.references[:, :rows]))
