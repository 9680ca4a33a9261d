"""Checkpoints of the learner: one folder, whole or not there, without anything that could run code.

    <name>/learner.safetensors   weights, targets, optimisers, statistics of x, random generator
    <name>/actor.safetensors     the actor alone, as the policy node takes it (evaluation and deployment need no more)
    <name>/state.json            counters, update debt, configuration, hashes, and the replay's episodes by sha256

The replay is rebuilt from the encoded episodes (`episode_store`), which never change once written, and the labels that
were corrected since; with the generator's state a resumed learner goes on to the same bits.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlt_common.atomic import fsync_folder, sha256_hex, temporary_path
from rlt_common.reading import read_json, read_limited
from rlt_rl_node import actor_codec, tensor_file
from rlt_rl_node.actor_codec import PolicyWeights
from rlt_rl_node.corrections import Progress
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.learner import Learner, LearnerConfig, TaskShape, progress_of, settings
from rlt_rl_node.records import EpisodeKey
from rlt_rl_node.tensor_file import TensorFileError

FORMAT = 5
_ONE_ROBOT = 4
"""Format of a learner that knew of one robot."""
MAX_BYTES = 2 * 1024**3
MAX_STATE_BYTES = 64 * 1024**2
STATE, LEARNER, ACTOR = "state.json", "learner.safetensors", "actor.safetensors"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_AUTOMATIC = re.compile(r"e\d{6}-u\d{9}(-\d+)?")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or does not fit; says which, why and what to do."""


def save(folder: Path, learner: Learner, store: EpisodeStore, name: str = "") -> Path:
    """Write `folder`/`name` and return its path; an empty name stands for the counts of episodes and updates.

    Where another learner had the same counts (an older checkpoint was gone on from, with other settings), a number is
    added to the name; a checkpoint that holds the very same is not written again. `serial` in the state says which was
    written last. Raises CheckpointError for a bad or taken name, or when the disk refuses.
    """
    automatic = not name
    name = name or f"e{learner.budget.episodes:06d}-u{learner.agent.updates:09d}"
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"checkpoint name {name!r}: use letters, digits, '-' and '_' only")
    target = folder / name
    if not automatic and target.exists():
        raise CheckpointError(f"checkpoint {target} is there already: choose another name")

    files = {
        LEARNER: tensor_file.dump(learner.arrays(), {}),
        ACTOR: actor_codec.pack(learner.policy()),
    }
    state = {
        "format": FORMAT,
        "counters": learner.counters(),
        "settings": settings(learner.config),
        "layout": asdict(learner.layout),
        "stride": learner.shape.stride,
        "spread": np.asarray(learner.shape.spread, np.float32).tolist(),
        "vla_hash": learner.shape.vla_hash,
        "torch": torch.__version__,
        "episodes": [[*key, store.sha256(key)] for key in learner.replay.episodes],
        "sha256": {file: sha256_hex(data) for file, data in files.items()},
    }
    state = json.loads(json.dumps(state))
    if automatic:
        target = _place(folder, name, state)
        if target.exists():
            return target
    files[STATE] = json.dumps({**state, "serial": 1 + _last_serial(folder)}, indent=1).encode()
    try:
        _write_folder(target, files)
    except OSError as error:
        raise CheckpointError(f"checkpoint {target}: {error.strerror}") from error
    return target


def latest(folder: Path) -> Path | None:
    """The checkpoint in `folder` that was written last; None when there is none. Raises CheckpointError."""
    return max(((_order(path), path) for path in _checkpoints(folder)), default=(None, None))[1]


def prune(folder: Path, keep: int) -> None:
    """Delete all but the last `keep` checkpoints that were named automatically; none that cannot be read.

    Raises CheckpointError.
    """
    found = []
    for path in _checkpoints(folder):
        if _AUTOMATIC.fullmatch(path.name) and not path.is_symlink():
            with contextlib.suppress(CheckpointError):
                found.append((_order(path), path))
    try:
        for _, path in sorted(found)[:-keep]:
            shutil.rmtree(path)
    except OSError as error:
        raise CheckpointError(f"{folder}: old checkpoints cannot be deleted: {error.strerror}") from error


def _checkpoints(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [path for path in paths if not path.name.startswith(".") and (path / STATE).is_file()]


def _order(path: Path) -> tuple[int, int, int]:
    """Later is larger; checkpoints of before there were serial numbers are told apart by their counts."""
    state = read_state(path)
    try:
        counters = state["counters"]
        return int(state.get("serial", 0)), int(counters["budget"]["episodes"]), int(counters["updates"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: {STATE}: counters: {error!r}: remove the folder") from error


def _last_serial(folder: Path) -> int:
    serials = [0]
    for path in _checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            serials.append(_order(path)[0])
    return max(serials)


def _place(folder: Path, name: str, state: dict[str, Any]) -> Path:
    """The one of `name`, `name`-2, ... that holds just this, else the first behind all that are there."""
    numbered = re.compile(re.escape(name) + r"(?:-(\d+))?")
    there = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := numbered.fullmatch(path.name):
            there[int(match[1] or 1)] = path
    for path in there.values():
        if _holds(path, state):
            return path
    return folder / (f"{name}-{max(there) + 1}" if there else name)


def _holds(path: Path, state: dict[str, Any]) -> bool:
    if path.is_symlink():
        return False
    try:
        found = read_state(path)
        found.pop("serial", None)
        for file in state["sha256"]:
            read_part(path, file, found)
    except CheckpointError:
        return False
    return found == state


def read_state(path: Path) -> dict[str, Any]:
    """The plain part of a checkpoint. Raises CheckpointError."""
    try:
        state = read_json(path / STATE, MAX_STATE_BYTES)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: {STATE}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: {STATE} is not JSON: {error}") from error
    if not isinstance(state, dict) or state.get("format") not in (_ONE_ROBOT, FORMAT):
        raise CheckpointError(f"checkpoint {path}: {STATE} is not of format {FORMAT}, nor of {_ONE_ROBOT}")
    if not isinstance(state.get("counters"), dict) or not isinstance(state.get("sha256"), dict):
        raise CheckpointError(f"checkpoint {path}: {STATE} has no counters or no hashes: the folder is damaged")
    try:
        return _brought_up(state) if state["format"] == _ONE_ROBOT else state
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: {STATE}: {error!r}: the folder is damaged") from error


def _brought_up(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a learner that knew of one robot, as this format has it."""
    counters = dict(state["counters"])
    progress = {key: counters.pop(key) for key in Progress().state()}
    episodes = [[*EpisodeKey(int(episode_id)), digest] for episode_id, digest in state["episodes"]]
    return {**state, "format": FORMAT, "episodes": episodes, "counters": {**counters, "robots": {"": progress}}}


def load_actor(path: Path) -> PolicyWeights:
    """The actor of a checkpoint. Raises CheckpointError."""
    state = read_state(path)
    try:
        return actor_codec.unpack(read_part(path, ACTOR, state), state["sha256"][ACTOR])
    except (KeyError, TensorFileError) as error:
        raise CheckpointError(f"checkpoint {path}: {ACTOR}: {error}") from error


@dataclass(frozen=True)
class TrainedActor:
    """The actor of a checkpoint, and the critic updates behind it."""

    path: Path
    weights: PolicyWeights
    updates: int


def trained_actor(folder: Path, start_from: Path | None, vla_hash: str) -> TrainedActor | None:
    """The actor of the checkpoint `start_from`, else of the newest in `folder`; None when that holds none.

    Raises CheckpointError, also when `start_from` holds no trained actor, or the VLA is another.
    """
    found = start_from or latest(folder)
    weights = load_actor(found) if found else None
    if weights is None or weights.version == 0:
        if start_from:
            raise CheckpointError(f"checkpoint {found} was written in warm-up: it holds no trained actor")
        return None
    if weights.vla_hash != vla_hash:
        raise CheckpointError(f"checkpoint {found} was trained on VLA {weights.vla_hash}, this run's is {vla_hash}")
    return TrainedActor(found, weights, int(read_state(found)["counters"]["updates"]))


def load(path: Path, shape: TaskShape, config: LearnerConfig, store: EpisodeStore) -> tuple[Learner, list[str]]:
    """A learner that goes on where the checkpoint was written, and the settings that changed since, in words.

    Raises CheckpointError when VLA, statistics, units or the networks' shape differ, or a file is torn.
    """
    state = read_state(path)
    try:
        _check_fit(path, state, shape, config)
        arrays, _ = tensor_file.parse(read_part(path, LEARNER, state), MAX_BYTES)
        learner = Learner(shape, config)
        robots = progress_of(state["counters"])
        for episode_id, robot, digest in state["episodes"]:
            episode = store.load(EpisodeKey(int(episode_id), str(robot)), digest)
            labels = robots[episode.robot].labels if episode.robot in robots else {}
            learner.replay.add(replace(episode, label=labels.get(episode.episode_id, episode.label)))
        learner.restore(arrays, state["counters"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    return learner, _changes(state["settings"], json.loads(json.dumps(settings(config))))


def _check_fit(path: Path, state: dict[str, Any], shape: TaskShape, config: LearnerConfig) -> None:
    spread = np.asarray(state["spread"], np.float32)
    agent = state["settings"]["agent"]
    for name, theirs, ours in (
        ("VLA hash", state["vla_hash"], shape.vla_hash),
        ("action spread", spread.tolist(), np.asarray(shape.spread, np.float32).tolist()),
        ("stride", state["stride"], shape.stride),
        ("layout", state["layout"], json.loads(json.dumps(asdict(shape.layout(config.agent))))),
        ("number of critics", agent["critics"], config.agent.critics),
        ("critic LayerNorm", agent["critic_layer_norm"], config.agent.critic_layer_norm),
    ):
        if theirs != ours:
            raise CheckpointError(
                f"checkpoint {path} does not fit: its {name} is {theirs}, this run's is {ours}. "
                "Use the VLA checkpoint and task it was trained with, or start a new run directory."
            )


def _changes(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> list[str]:
    words = []
    for key, value in ours.items():
        if isinstance(value, dict):
            words += _changes(theirs.get(key, {}), value, f"{prefix}{key}.")
        elif theirs.get(key) != value:
            words.append(f"{prefix}{key}: {theirs.get(key)} -> {value}")
    return words


def read_part(path: Path, file: str, state: dict[str, Any]) -> bytes:
    """The bytes of one of its files. Raises CheckpointError when it does not match the sha256 in `state`."""
    try:
        data = read_limited(path / file, MAX_BYTES)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: {file}: {error.strerror}") from error
    if sha256_hex(data) != state["sha256"].get(file):
        raise CheckpointError(f"checkpoint {path}: {file} does not match its sha256: the folder is damaged")
    return data


def _write_folder(target: Path, files: dict[str, bytes]) -> None:
    temporary = temporary_path(target)
    if temporary.exists():
        shutil.rmtree(temporary)
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            with open(temporary / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        fsync_folder(temporary)
        os.rename(temporary, target)
        fsync_folder(target.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
