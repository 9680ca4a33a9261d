"""The files of a VLA checkpoint, and the RL token in them. What is in them: see `checkpoint`.

Needs torch and safetensors alone, since policy servers read the token too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from rlt_common.parameters import ParameterError, from_mapping
from rlt_vla_node.rl_token import RlToken, RlTokenConfig, token_bytes
from rlt_vla_node.sealed_files import SealedFiles

FORMAT = 1
MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"
POLICY_FOLDER = "policy"
MAX_TENSORS_BYTES = 16 << 30
"""Largest file of tensors that is read: an RL token of 2 + 2 blocks for embeddings of width 8192 fits."""


_HEADER_BYTES = 1 << 20
"""Room for the names of the tensors in the file; an RL token of the most blocks takes a fifth of it."""


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, torn, foreign or does not fit; says which and what to do."""


FILES = SealedFiles(
    what="VLA checkpoint",
    kind="checkpoint",
    facts=CONFIG_FILE,
    tensors=MODEL_FILE,
    needed=("format", "hash", "file_sha256", "backend", "vla", "token"),
    max_bytes=MAX_TENSORS_BYTES,
    absent=f"no VLA checkpoint here: give the folder that `adapt` wrote (it ends with writing {CONFIG_FILE})",
    remedy="copy the whole checkpoint folder, or adapt again",
    error=CheckpointError,
)


def read_config(folder: Path | str) -> dict[str, Any]:
    """config.json of a checkpoint, checked for format and needed keys. Raises CheckpointError."""
    config = FILES.read_facts(folder)
    if config["format"] != FORMAT:
        raise CheckpointError(
            f"{Path(folder) / CONFIG_FILE}: format {config['format']}: this version reads format {FORMAT}"
        )
    return config


def load_token(folder: Path | str) -> tuple[RlToken, dict[str, Any]]:
    """The frozen RL token of a checkpoint, and its config.json; the VLA is not opened. Raises CheckpointError."""
    folder = Path(folder)
    config = read_config(folder)
    data = FILES.read_tensors(folder, config)
    try:
        token = token_of(folder, config, load(data))
    except (SafetensorError, ParameterError) as error:
        raise CheckpointError(f"{folder}: not a checkpoint of this version: {error}") from error
    return token.eval().requires_grad_(False), config


def check_token_size(config: RlTokenConfig) -> None:
    """Raise ParameterError for an RL token that would be too large to be read from its checkpoint."""
    size = token_bytes(config)
    if size > MAX_TENSORS_BYTES - _HEADER_BYTES:
        raise ParameterError(
            f"an RL token of {config.encoder_blocks} + {config.decoder_blocks} blocks for {config.max_tokens} "
            f"embeddings of width {config.embed_dim} takes {size / 2**30:.3g} GiB, checkpoints of at most "
            f"{MAX_TENSORS_BYTES / 2**30:.3g} GiB are read: lower encoder_blocks and decoder_blocks"
        )


def token_of(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> RlToken:
    """The RL token from a checkpoint's config.json and tensors. Raises CheckpointError or ParameterError."""
    token = RlToken(restored(RlTokenConfig, config["token"], folder))
    fill(token, "token.", tensors, folder / MODEL_FILE)
    return token


def fill(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors under `prefix` into a module, every one of them. Raises CheckpointError."""
    own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: tensors do not fit the shapes in {CONFIG_FILE}: {error}") from error
    bad = [name for name, tensor in own.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(f"{path}: {prefix}{bad[0]} holds values that are not finite: adapt again")


def restored(cls: type, values: Any, folder: Path) -> Any:
    """A dataclass from config.json. Raises ParameterError."""
    return from_mapping(cls, values, str(folder / CONFIG_FILE))
