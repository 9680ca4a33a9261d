"""Transformer parts shared by the built-in VLA and the RL token."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

KeyValues = tuple[Tensor, Tensor]
"""Keys and values, each (B, heads, N, D / heads)."""


class Attention(nn.Module):
    """Multi-head attention whose keys and values may be computed once and used again.

    It uses torch's scaled_dot_product_attention: on the CPU that is as fast as written-out products at these sizes,
    repeats bit for bit for the same shapes, and is the fused kernel on a GPU.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def key_values(self, context: Tensor) -> KeyValues:
        """Keys and values of `context` (B, N, D)."""
        batch, length, width = context.shape
        both = self.key_value(context).view(batch, length, 2, self.heads, width // self.heads)
        keys, values = both.permute(2, 0, 3, 1, 4).unbind(0)
        return keys, values

    def forward(self, x: Tensor, key_values: KeyValues, mask: Tensor | None = None) -> Tensor:
        """Attend from `x` (B, N, D); `mask` broadcasts to (B, heads, N, keys), True where a key may be seen."""
        batch, length, width = x.shape
        query = self.query(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, *key_values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optionally cross-attention, then a 4x wide GELU network."""

    def __init__(self, width: int, heads: int, cross: bool = False) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross_attention = Attention(width, heads) if cross else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None, context: KeyValues | None = None) -> Tensor:
        """`x` (B, N, D) -> (B, N, D); `mask` as in :class:`Attention`, `context` for a cross-attending block."""
        y = self.self_norm(x)
        x = x + self.self_attention(y, self.self_attention.key_values(y), mask)
        if self.cross_attention is not None:
            x = x + self.cross_attention(self.cross_norm(x), context)
        return x + self.mlp(self.mlp_norm(x))


class TimeEmbedding(nn.Module):
    """Flow time in [0, 1] to a vector: sines of 16 frequencies from 1 down to 0.01 turns, then a small network."""

    FREQUENCIES = 16

    def __init__(self, width: int) -> None:
        super().__init__()
        turns = torch.exp(torch.arange(self.FREQUENCIES) * (-math.log(100.0) / (self.FREQUENCIES - 1)))
        self.register_buffer("angular", 2.0 * math.pi * turns, persistent=False)
        self.network = nn.Sequential(nn.Linear(2 * self.FREQUENCIES, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        angle = time[:, None] * self.angular
        return self.network(torch.cat([angle.sin(), angle.cos()], dim=1))
