"""The RL token (Sec. IV-A): a small encoder-decoder transformer that squeezes a VLA's embeddings into one vector.

Eq. 1: z_rl = g([z_1..M, e_rl])_{M+1}, with a learned embedding e_rl appended last and the output read at its place.
Eq. 2: a causal decoder with a linear head reconstructs each z_i from [z_rl, z_1..i-1]; targets and decoder inputs are
behind a stop-gradient, so the loss trains the token alone and never the VLA.

Deviations: z_rl passes a linear layer, so its width is free; the loss is the mean over tokens and dimensions where the
paper sums over tokens (a constant factor).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlt_common.parameters import ParameterError, param, validate
from rlt_vla_node.backend import ObservationBatch, Prefix
from rlt_vla_node.layers import Block
from rlt_vla_node.tensors import tensors_hash


@dataclass(frozen=True)
class RlTokenConfig:
    """Shape of the RL token transformer."""

    embed_dim: int = param(description="D, width of the VLA's embeddings", minimum=1, maximum=65_536)
    max_tokens: int = param(description="largest M", minimum=1, maximum=65_536)
    token_dim: int = param(64, "width of z_rl", minimum=1, maximum=65_536)
    encoder_blocks: int = param(1, "transformer blocks of the encoder", minimum=1, maximum=64)
    decoder_blocks: int = param(1, "transformer blocks of the decoder", minimum=1, maximum=64)
    heads: int = param(4, "attention heads", minimum=1, maximum=256)

    def __post_init__(self) -> None:
        validate(self)
        if self.embed_dim % self.heads:
            raise ParameterError(f"embed_dim {self.embed_dim} is not a multiple of {self.heads} heads")


@dataclass(frozen=True)
class TokenHealth:
    """Does the decoder use z_rl? Teacher forcing lets it live off the earlier embeddings instead."""

    reconstruction_loss: float
    """With each row's own z_rl."""
    shuffled_loss: float
    """With another row's z_rl. Near the other: z_rl holds little that the decoder needs."""


class RlToken(nn.Module):
    """Encoder g, decoder d and head h of Eq. 1 and 2."""

    def __init__(self, config: RlTokenConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.readout = nn.Parameter(0.1 * torch.randn(width))
        self.encoder_position = nn.Parameter(0.1 * torch.randn(config.max_tokens, width))
        self.encoder = nn.ModuleList([Block(width, config.heads) for _ in range(config.encoder_blocks)])
        self.encoder_norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, config.token_dim)
        self.up = nn.Linear(config.token_dim, width)
        self.decoder_position = nn.Parameter(0.1 * torch.randn(config.max_tokens, width))
        self.decoder = nn.ModuleList([Block(width, config.heads) for _ in range(config.decoder_blocks)])
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, width)

    @property
    def width(self) -> int:
        """D, width of z_rl."""
        return self.config.token_dim

    def represent(self, observation: ObservationBatch, prefix: Prefix) -> Tensor:
        """z_rl (B, D) of B observations, from their embeddings alone."""
        return self.encode(*self._here(prefix.tokens, prefix.token_mask()))

    def encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """z_rl (B, token_dim) of Eq. 1. `tokens` (B, M, D) with M <= max_tokens, `mask` (B, M) True where real."""
        tokens = self._clean(tokens, mask)
        batch, length, _ = tokens.shape
        x = tokens + self.encoder_position[:length]
        x = torch.cat([x, self.readout.expand(batch, 1, -1)], dim=1)
        seen = torch.cat([mask, mask.new_ones(batch, 1)], dim=1)[:, None, None, :]
        for block in self.encoder:
            x = block(x, mask=seen)
        return self.down(self.encoder_norm(x[:, -1]))

    def reconstruct(self, rl_token: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """(B, M, D): row i is made from z_rl and the rows of `context` before i (Eq. 2)."""
        context = self._clean(context, mask)
        batch, length, _ = context.shape
        x = torch.cat([self.up(rl_token).unsqueeze(1), context[:, :-1]], dim=1) + self.decoder_position[:length]
        seen = torch.cat([mask.new_ones(batch, 1), mask[:, :-1]], dim=1)
        earlier = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        allowed = earlier[None, None] & seen[:, None, None, :]
        for block in self.decoder:
            x = block(x, mask=allowed)
        return self.head(self.decoder_norm(x))

    def reconstruction_loss(
        self,
        tokens: Tensor,
        mask: Tensor,
        *,
        context_dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """L_ro of Eq. 2, mean over real tokens and dimensions. No gradient reaches `tokens`.

        `context_dropout` hides each earlier embedding from the decoder with that probability (drawn from `generator`),
        which keeps it from ignoring z_rl; 0 is the paper's form.
        """
        tokens, mask = self._here(tokens.detach(), mask)
        context = tokens
        if context_dropout > 0.0:
            draw = torch.rand(tokens.shape[:2], generator=generator, device=tokens.device)
            context = tokens * (draw >= context_dropout)[..., None]
        return self._loss(self.encode(tokens, mask), context, tokens, mask)

    @torch.no_grad()
    def health(self, tokens: Tensor, mask: Tensor, generator: torch.Generator) -> TokenHealth:
        """Reconstruction with the right z_rl and with z_rl exchanged between the rows (at least 2) of the batch."""
        if tokens.shape[0] < 2:
            raise ValueError("the shuffled-token figure needs at least 2 rows")
        tokens, mask = self._here(tokens, mask)
        rl_token = self.encode(tokens, mask)
        order = torch.randperm(tokens.shape[0], generator=generator)
        other = torch.empty_like(rl_token)
        other[order] = rl_token[order.roll(1)]
        return TokenHealth(
            reconstruction_loss=float(self._loss(rl_token, tokens, tokens, mask)),
            shuffled_loss=float(self._loss(other, tokens, tokens, mask)),
        )

    def _loss(self, rl_token: Tensor, context: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        error = (self.reconstruct(rl_token, context, mask) - self._clean(target, mask)).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def _here(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """On this token's device, whatever that of the VLA is: a policy server's embeddings come in main memory."""
        return tokens.to(self.readout.device), mask.to(self.readout.device)

    def _clean(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Zeros in the place of padding, whatever it held."""
        if tokens.shape[1] > self.config.max_tokens or tokens.shape[2] != self.config.embed_dim:
            raise ValueError(
                f"embeddings of shape {tuple(tokens.shape)}: this RL token takes at most {self.config.max_tokens} "
                f"tokens of width {self.config.embed_dim}"
            )
        return torch.where(mask[..., None], tokens, torch.zeros_like(tokens))


def token_hash(token: RlToken) -> str:
    """Names an RL token: its weights and shape, whatever VLA it belongs to."""
    return tensors_hash(token.state_dict(), json.dumps(dataclasses.asdict(token.config), sort_keys=True))


def token_bytes(config: RlTokenConfig) -> int:
    """What the weights of an RL token of this shape take up; none are made."""
    with torch.device("meta"):
        return sum(tensor.nbytes for tensor in RlToken(config).state_dict().values())


def build_rl_token(config: RlTokenConfig, seed: int) -> RlToken:
    """A randomly initialised RL token; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RlToken(config)
