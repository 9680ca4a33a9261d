"""The frozen VLA and RL token on disk: safetensors for tensors, JSON for facts, nothing that can run code.

A checkpoint is a folder: `model.safetensors` (weights and statistics), `config.json` (shapes, block layout, task,
statistics, hashes) and `metrics.json`. `config.json` is written last and names the sha256 of the tensors' file, so a
crash in between cannot leave two halves that pass for one whole.

Of a VLA other than the built-in one, `model.safetensors` holds the RL token alone: `config.json` has its VLA file and
the fingerprint of its weights, which lie where the VLA file says (a frozen policy, or a server) or, adapted, in
`policy/`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from rlt_common.atomic import sha256_hex, write_atomic
from rlt_common.parameters import ParameterError
from rlt_common.vla_config import VlaConfig
from rlt_vla_node.backend import BackendError
from rlt_vla_node.backends import find_backend, open_backend, with_policy
from rlt_vla_node.builtin import NAME, BuiltinBackend, BuiltinConfig, BuiltinVla, layout_of
from rlt_vla_node.checkpoint_files import (
    CONFIG_FILE,
    FILES,
    FORMAT,
    METRICS_FILE,
    MODEL_FILE,
    POLICY_FOLDER,
    CheckpointError,
    fill,
    read_config,
    restored,
    token_of,
)
from rlt_vla_node.handoff import remove_head
from rlt_vla_node.inference import FrozenModel
from rlt_vla_node.layout import FileLayout
from rlt_vla_node.remote_backend import served_by
from rlt_vla_node.rl_token import RlToken
from rlt_vla_node.sealed_files import json_bytes
from rlt_vla_node.tensors import tensors_hash


def save_checkpoint(
    folder: Path | str,
    vla: BuiltinVla,
    token: RlToken,
    vla_state: Sequence[tuple[str, int]],
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    """Write a checkpoint of the built-in VLA and return its hash.

    Args:
        folder: made when missing; files of an older checkpoint in it are replaced, its hand-off head is removed.
        vla, token: the models.
        vla_state: proprioception blocks the VLA takes, with their sizes.
        facts: further facts for config.json (task, robot, seeds, statistics); plain JSON values.
        metrics: for metrics.json; plain JSON values.
    """
    shape = {
        "backend": NAME,
        "vla": dataclasses.asdict(vla.config),
        "token": dataclasses.asdict(token.config),
        "vla_state": [[name, size] for name, size in vla_state],
    }
    return _save(Path(folder), {"vla.": vla, "token.": token}, shape, shape, facts, metrics)


def save_vla_checkpoint(
    folder: Path | str,
    config: VlaConfig,
    fingerprint: str,
    token: RlToken,
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    adapted: bool,
) -> str:
    """Write a checkpoint of a VLA that a VLA file describes, and return its hash. Arguments as of save_checkpoint.

    Args:
        config: the VLA file, with its instruction filled in.
        fingerprint: of the VLA's weights, as its backend says it.
        adapted: whether the weights lie in `folder`/policy, where they were written before.
    """
    if not config.instruction:
        raise ValueError("the VLA file of a checkpoint needs its instruction filled in")
    folder = Path(folder)
    named = {**dataclasses.asdict(config), "source": POLICY_FOLDER if adapted else config.source}
    shape = {
        "backend": config.backend,
        "vla": _portable(named),
        "token": dataclasses.asdict(token.config),
        "fingerprint": fingerprint,
    }
    kept = {**shape, "vla": _plain(named), "adapted": adapted}
    return _save(folder, {"token.": token}, shape, kept, facts, metrics)


def _save(
    folder: Path,
    modules: Mapping[str, nn.Module],
    shape: Mapping[str, Any],
    kept: Mapping[str, Any],
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(modules)
    digest = model_hash(tensors, shape)
    data = save(tensors)
    config = {"format": FORMAT, "hash": digest, "file_sha256": sha256_hex(data), **kept, **facts}
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    remove_head(folder)
    write_atomic(folder / MODEL_FILE, data)
    write_atomic(folder / METRICS_FILE, json_bytes(metrics))
    write_atomic(folder / CONFIG_FILE, json_bytes(config))
    return digest


def load_checkpoint(folder: Path | str) -> FrozenModel:
    """Read a checkpoint, and open its VLA. Raises CheckpointError; never gives weights that are not the ones saved."""
    folder = Path(folder)
    config = read_config(folder)
    data = FILES.read_tensors(folder, config)
    try:
        tensors = load(data)
        token = token_of(folder, config, tensors)
        model = (
            _builtin(folder, config, tensors, token) if config["backend"] == NAME else _opened(folder, config, token)
        )
    except (SafetensorError, ParameterError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a checkpoint of this version: {error}") from error
    if model.hash != config["hash"]:
        raise CheckpointError(f"{folder}: {CONFIG_FILE} says hash {config['hash']}, its contents have {model.hash}")
    token.eval().requires_grad_(False)
    return model


def _builtin(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], token: RlToken) -> FrozenModel:
    vla = BuiltinVla(restored(BuiltinConfig, config["vla"], folder))
    fill(vla, "vla.", tensors, folder / MODEL_FILE)
    layout = layout_of(vla.config, config["vla_state"])
    shape = {key: config[key] for key in ("backend", "vla", "token", "vla_state")}
    digest = model_hash(_tensors({"vla.": vla, "token.": token}), shape)
    vla.eval().requires_grad_(False)
    return FrozenModel(backend=BuiltinBackend(vla), token=token, layout=layout, hash=digest)


def _opened(folder: Path, config: Mapping[str, Any], token: RlToken) -> FrozenModel:
    find_backend(str(config["backend"]))
    vla = restored(VlaConfig, config["vla"], folder)
    try:
        backend = open_backend(with_policy(vla, folder / POLICY_FOLDER) if config["adapted"] else vla)
    except BackendError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if backend.spec.fingerprint != config["fingerprint"]:
        raise CheckpointError(
            f"{folder}: the RL token was trained on a VLA with fingerprint {config['fingerprint']}, {vla.backend} at "
            f"{vla.source} has {backend.spec.fingerprint}: give the VLA that belongs to it, or adapt again"
        )
    shape = {**{key: config[key] for key in ("backend", "token", "fingerprint")}, "vla": _portable(config["vla"])}
    digest = model_hash(_tensors({"token.": token}), shape)
    encoder = served_by(backend, token.to(backend.device))
    return FrozenModel(backend=backend, token=encoder, layout=FileLayout(vla), hash=digest)


def model_hash(tensors: Mapping[str, Tensor], shape: Mapping[str, Any]) -> str:
    """The hash that names a frozen model: weights, statistics, shapes and block layout."""
    return tensors_hash(tensors, json.dumps(shape, sort_keys=True))


def _portable(vla: Mapping[str, Any]) -> dict[str, Any]:
    """What of a VLA file makes the model: not where its weights lie, and how fast or where they are run."""
    return {key: value for key, value in _plain(vla).items() if key not in ("source", "folder", "options")}


def _plain(vla: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(vla))


def _tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        prefix + name: tensor.detach().cpu().contiguous()
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
