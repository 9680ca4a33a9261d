"""The frozen VLA and RL token on disk: safetensors for tensors, JSON for facts, nothing that can run code.

A checkpoint is a folder: `model.safetensors` (weights and statistics), `config.json` (shapes, block layout, task,
statistics, hashes) and `metrics.json`. `config.json` is written last and names the sha256 of the tensors' file, so a
crash in between cannot leave two halves that pass for one whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from rlt_common.atomic import sha256_hex, write_atomic
from rlt_common.parameters import ParameterError, from_mapping
from rlt_vla_node.builtin import NAME, BuiltinBackend, BuiltinConfig, BuiltinVla
from rlt_vla_node.handoff import remove_head
from rlt_vla_node.inference import FrozenModel
from rlt_vla_node.rl_token import RlToken, RlTokenConfig
from rlt_vla_node.sealed_files import SealedFiles, json_bytes
from rlt_vla_node.tensors import tensors_hash

FORMAT = 1
MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, torn, foreign or does not fit; says which and what to do."""


FILES = SealedFiles(
    what="VLA checkpoint",
    kind="checkpoint",
    facts=CONFIG_FILE,
    tensors=MODEL_FILE,
    needed=("format", "hash", "file_sha256", "backend", "vla", "token", "vla_state"),
    max_bytes=1 << 30,
    absent=f"no VLA checkpoint here: give the folder that `adapt` wrote (it ends with writing {CONFIG_FILE})",
    remedy="copy the whole checkpoint folder, or adapt again",
    error=CheckpointError,
)


def save_checkpoint(
    folder: Path | str,
    vla: BuiltinVla,
    token: RlToken,
    vla_state: Sequence[tuple[str, int]],
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    """Write a checkpoint and return its hash.

    Args:
        folder: made when missing; files of an older checkpoint in it are replaced, its hand-off head is removed.
        vla, token: the models.
        vla_state: proprioception blocks the VLA takes, with their sizes.
        facts: further facts for config.json (task, robot, seeds, statistics); plain JSON values.
        metrics: for metrics.json; plain JSON values.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(vla, token)
    shape = {
        "backend": NAME,
        "vla": dataclasses.asdict(vla.config),
        "token": dataclasses.asdict(token.config),
        "vla_state": [[name, size] for name, size in vla_state],
    }
    digest = model_hash(tensors, shape)
    data = save(tensors)
    config = {"format": FORMAT, "hash": digest, "file_sha256": sha256_hex(data), **shape, **facts}
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    remove_head(folder)
    write_atomic(folder / MODEL_FILE, data)
    write_atomic(folder / METRICS_FILE, json_bytes(metrics))
    write_atomic(folder / CONFIG_FILE, json_bytes(config))
    return digest


def load_checkpoint(folder: Path | str) -> FrozenModel:
    """Read a checkpoint. Raises CheckpointError; never returns weights that are not the ones saved."""
    folder = Path(folder)
    config = read_config(folder)
    path = folder / MODEL_FILE
    data = FILES.read_tensors(folder, config)
    try:
        tensors = load(data)
        vla = BuiltinVla(_restored(BuiltinConfig, config["vla"], folder))
        token = RlToken(_restored(RlTokenConfig, config["token"], folder))
        _fill(vla, "vla.", tensors, path)
        _fill(token, "token.", tensors, path)
        vla_state = tuple((str(name), int(size)) for name, size in config["vla_state"])
    except (SafetensorError, ParameterError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a checkpoint of this version: {error}") from error
    shape = {key: config[key] for key in ("backend", "vla", "token", "vla_state")}
    digest = model_hash(_tensors(vla, token), shape)
    if digest != config["hash"]:
        raise CheckpointError(f"{folder}: {CONFIG_FILE} says hash {config['hash']}, its contents have {digest}")
    for module in (vla, token):
        module.eval().requires_grad_(False)
    return FrozenModel(backend=BuiltinBackend(vla), token=token, vla_state=vla_state, hash=digest)


def read_config(folder: Path | str) -> dict[str, Any]:
    """config.json of a checkpoint, checked for format and needed keys. Raises CheckpointError."""
    config = FILES.read_facts(folder)
    if config["format"] != FORMAT or config["backend"] != NAME:
        raise CheckpointError(
            f"{Path(folder) / CONFIG_FILE}: format {config['format']} of backend {config['backend']!r}: "
            f"this version reads format {FORMAT} of {NAME!r}"
        )
    return config


def model_hash(tensors: Mapping[str, Tensor], shape: Mapping[str, Any]) -> str:
    """The hash that names a frozen model: weights, statistics, shapes and block layout."""
    return tensors_hash(tensors, json.dumps(shape, sort_keys=True))


def _tensors(vla: BuiltinVla, token: RlToken) -> dict[str, Tensor]:
    named = [("vla.", vla), ("token.", token)]
    return {
        prefix + name: tensor.detach().cpu().contiguous()
        for prefix, module in named
        for name, tensor in module.state_dict().items()
    }


def _fill(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: tensors do not fit the shapes in {CONFIG_FILE}: {error}") from error
    bad = [name for name, tensor in own.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(f"{path}: {prefix}{bad[0]} holds values that are not finite: adapt again")


def _restored(cls: type, values: Any, folder: Path) -> Any:
    return from_mapping(cls, values, str(folder / CONFIG_FILE))
