"""The hand-off head: tells from the frozen VLA's embeddings whether the critical phase has begun.

The paper's last step (Sec. V): the VLA learns to predict the hand-over from the operator's hand-offs, so that at test
time nobody has to press. Here the VLA stays frozen and a small head reads the masked mean of its final-layer
embeddings and the proprioception it takes: nothing but what every backend gives.

On disk, beside the VLA checkpoint: `handoff.safetensors` (weights and input statistics) and `handoff.json` (shape,
threshold, hash of the VLA it belongs to, report), written last and naming the sha256 of the tensors' file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from rlt_common.atomic import sha256_hex, write_atomic
from rlt_common.parameters import ParameterError, from_mapping, param, validate
from rlt_vla_node.sealed_files import SealedFiles, json_bytes
from rlt_vla_node.tensors import masked_mean

FORMAT = 1
TENSORS_FILE = "handoff.safetensors"
FACTS_FILE = "handoff.json"
STD_FLOOR = 1e-3


class HandoffError(RuntimeError):
    """A hand-off head that is missing, torn, foreign or does not fit; says which and what to do."""


FILES = SealedFiles(
    what="hand-off head",
    kind="head",
    facts=FACTS_FILE,
    tensors=TENSORS_FILE,
    needed=("format", "vla_hash", "file_sha256", "head", "threshold"),
    max_bytes=1 << 28,
    absent="there is no hand-off head: train one with `handoff` from episodes in which the operator handed off, or "
    "start with auto_handoff:=false and let the operator press",
    remedy="copy the whole folder, or train the head again",
    error=HandoffError,
)


@dataclass(frozen=True)
class HeadConfig:
    """Shape of the head."""

    embed_dim: int = param(description="D, width of the VLA's embeddings", minimum=1, maximum=65_536)
    state_dim: int = param(description="S, proprioception values the VLA takes", minimum=1, maximum=10_000)
    hidden: int = param(64, "width of the hidden layer", minimum=1, maximum=4096)

    def __post_init__(self) -> None:
        validate(self)

    @property
    def inputs(self) -> int:
        """F, values that the head reads."""
        return self.embed_dim + self.state_dim


class HandoffHead(nn.Module):
    """One hidden layer on standardised inputs; the logit of "the critical phase has begun".

    `threshold`, in 0 to 1: the probability from which on the head calls for the hand-off.
    """

    def __init__(self, config: HeadConfig, threshold: float = 0.5) -> None:
        super().__init__()
        self.config = config
        self.threshold = threshold
        self.register_buffer("mean", torch.zeros(config.inputs))
        self.register_buffer("std", torch.ones(config.inputs))
        self.layers = nn.Sequential(nn.Linear(config.inputs, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1))

    def set_statistics(self, inputs: Tensor) -> None:
        """Standardise by mean and standard deviation of these inputs (N, F)."""
        self.mean.copy_(inputs.mean(dim=0))
        self.std.copy_(inputs.std(dim=0, correction=0).clamp_min(STD_FLOOR))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B,) of inputs (B, F)."""
        return self.layers((inputs - self.mean) / self.std).squeeze(-1)

    def probability(self, tokens: Tensor, mask: Tensor, state: Tensor) -> Tensor:
        """(B,) in 0 to 1. Arguments as of :func:`head_inputs`."""
        return torch.sigmoid(self(head_inputs(tokens, mask, state)))


def head_inputs(tokens: Tensor, mask: Tensor, state: Tensor) -> Tensor:
    """What the head reads, (B, D + S): mean of the real tokens, and proprioception.

    Args:
        tokens: (B, M, D) final-layer embeddings.
        mask: (B, M) bool, True where a token is to be read.
        state: (B, S) proprioception, SI units, on whatever device.
    """
    return torch.cat([masked_mean(tokens, mask), state.to(tokens.device)], dim=1)


def build_head(config: HeadConfig, seed: int) -> HandoffHead:
    """A randomly initialised head; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HandoffHead(config)


def save_head(folder: Path | str, head: HandoffHead, vla_hash: str, facts: Mapping[str, Any]) -> None:
    """Write the head beside the VLA checkpoint in `folder`; an older head is replaced.

    Args:
        vla_hash: hash of the frozen model whose embeddings it was trained on.
        facts: further facts for handoff.json (report, seed); plain JSON values.
    """
    folder = Path(folder)
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()})
    document = {
        "format": FORMAT,
        "vla_hash": vla_hash,
        "file_sha256": sha256_hex(data),
        "head": dataclasses.asdict(head.config),
        "threshold": head.threshold,
        **facts,
    }
    remove_head(folder)
    write_atomic(folder / TENSORS_FILE, data)
    write_atomic(folder / FACTS_FILE, json_bytes(document))


def remove_head(folder: Path | str) -> None:
    """Take the head away, if there is one: the VLA it belongs to is about to be replaced."""
    (Path(folder) / FACTS_FILE).unlink(missing_ok=True)
    (Path(folder) / TENSORS_FILE).unlink(missing_ok=True)


def has_head(folder: Path | str) -> bool:
    """Whether a head lies in `folder`, fitting or not."""
    return (Path(folder) / FACTS_FILE).exists()


def load_head(
    folder: Path | str, vla_hash: str, embed_dim: int, state_dim: int, device: torch.device | str = "cpu"
) -> HandoffHead:
    """Read the head of exactly this frozen model, in evaluation mode.

    Args:
        folder: the VLA checkpoint.
        vla_hash, embed_dim, state_dim: of the frozen model.
        device: where the model's embeddings are, and so the head.

    Raises HandoffError.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    data = FILES.read_tensors(folder, facts)
    path = folder / FACTS_FILE
    try:
        config = from_mapping(HeadConfig, facts["head"], str(path))
        threshold = float(facts["threshold"])
        tensors = load(data)
    except (ParameterError, SafetensorError, ValueError, TypeError) as error:
        raise HandoffError(f"{path}: not a hand-off head of this version: {error}") from error
    if facts["vla_hash"] != vla_hash:
        raise HandoffError(
            f"{path}: the hand-off head belongs to VLA {facts['vla_hash']}, this one is {vla_hash}: train it again "
            "with `handoff`, or remove the file"
        )
    if (config.embed_dim, config.state_dim) != (embed_dim, state_dim):
        raise HandoffError(
            f"{path}: the hand-off head reads embeddings of width {config.embed_dim} and {config.state_dim} "
            f"proprioception values, the VLA gives {embed_dim} and {state_dim}: train it again with `handoff`"
        )
    if not 0.0 < threshold < 1.0:
        raise HandoffError(f"{path}: threshold {threshold} is not between 0 and 1: train it again with `handoff`")
    head = HandoffHead(config, threshold)
    try:
        head.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise HandoffError(f"{folder / TENSORS_FILE}: does not fit the shape in {FACTS_FILE}: {error}") from error
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad or not bool((head.std > 0).all()):
        raise HandoffError(f"{folder / TENSORS_FILE}: {(bad or ['std'])[0]} holds unusable values: train it again")
    return head.to(device).eval().requires_grad_(False)


def read_facts(folder: Path | str) -> dict[str, Any]:
    """handoff.json, checked for format and needed keys. Raises HandoffError."""
    facts = FILES.read_facts(folder)
    if facts["format"] != FORMAT:
        path = Path(folder) / FACTS_FILE
        raise HandoffError(f"{path}: format {facts['format']}: this version reads format {FORMAT}")
    return facts
