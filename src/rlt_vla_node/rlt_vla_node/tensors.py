"""Hash of named tensors, independent of the file they are stored in, and the mean of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

HASH_DIGITS = 16


def tensors_hash(tensors: Mapping[str, Tensor], *facts: str) -> str:
    """First 16 hex digits of the sha256 over `facts` and, in name order, each name, type, shape and content."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact.encode() + b"\n")
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:HASH_DIGITS]


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, D), the mean of the tokens (B, M, D) where `mask` (B, M) is True; zeros where it nowhere is."""
    real = torch.where(mask[..., None], tokens, torch.zeros_like(tokens))
    return real.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
