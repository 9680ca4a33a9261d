"""Every number of the adaptation of a VLA that a VLA file describes, with its range."""

from __future__ import annotations

from dataclasses import dataclass

from rlt_common.parameters import param, validate

FULL, LORA, FROZEN = "full", "lora", "frozen"


@dataclass(frozen=True)
class VlaAdaptConfig:
    """How a VLA is adapted and its RL token trained: L_ro + alpha * L_vla (Sec. IV-A, Algorithm 1 lines 1 to 3)."""

    train: str = param(
        FULL,
        "full: all weights that the policy trains; lora: adapters in its linear layers; frozen: the RL token alone, "
        "which is all that can be done with a policy server",
        choices=(FULL, LORA, FROZEN),
    )
    steps: int = param(5000, "optimiser steps; the paper: 2,000 to 10,000 (App. B)", minimum=1, maximum=10_000_000)
    batch: int = param(16, "observations per step and process", minimum=1, maximum=4096)
    accumulate: int = param(1, "batches whose gradients make one step", minimum=1, maximum=1024)
    learning_rate: float = param(2.5e-5, "AdamW, of the VLA's weights, cosine schedule", minimum=1e-9, maximum=1.0)
    token_learning_rate: float = param(3e-4, "AdamW, of the RL token", minimum=1e-9, maximum=1.0)
    warmup_steps: int = param(500, "steps of linear warm-up", minimum=0, maximum=1_000_000)
    weight_decay: float = param(1e-4, "AdamW", minimum=0.0, maximum=1.0)
    gradient_norm: float = param(1.0, "gradients are clipped to this norm", minimum=1e-3, maximum=1e3)
    alpha: float = param(1.0, "weight of L_vla", minimum=0.0, maximum=1e3)
    context_dropout: float = param(
        0.0, "share of earlier embeddings hidden from the RL token's decoder", minimum=0.0, maximum=1.0
    )
    token_dim: int = param(0, "width of z_rl; 0: the VLA's own, as in the paper", minimum=0, maximum=65_536)
    encoder_blocks: int = param(2, "transformer blocks of the RL token's encoder", minimum=1, maximum=64)
    decoder_blocks: int = param(2, "transformer blocks of its decoder", minimum=1, maximum=64)
    heads: int = param(8, "attention heads of both", minimum=1, maximum=256)
    lora_rank: int = param(16, "rank of the adapters", minimum=1, maximum=4096)
    lora_alpha: float = param(32.0, "their scale, over the rank", minimum=1e-3, maximum=1e4)
    precision: str = param(
        "float32",
        "of the products in training. float32: in the numbers that the policy was opened in, even where these are "
        "bfloat16; bfloat16: all in bfloat16 (autocast). Weights keep their numbers; trained ones in bfloat16 have "
        "float32 masters: gradient steps, moments and averages are always float32",
        choices=("float32", "bfloat16"),
    )
    gradient_checkpointing: bool = param(False, "compute activations again in the backward pass, to save memory")
    ema: float = param(
        0.0, "decay of the averaged weights that are kept in the end; 0: the last weights", minimum=0.0, maximum=0.99999
    )
    validation_share: float = param(0.1, "share of episodes kept for validation", minimum=0.0, maximum=0.5)
    validation_steps: int = param(500, "steps between two validations", minimum=1, maximum=1_000_000)
    validation_frames: int = param(256, "frames of a validation at most", minimum=2, maximum=1_000_000)
    checkpoint_steps: int = param(500, "steps between two resumable checkpoints", minimum=1, maximum=1_000_000)
    report_steps: int = param(20, "steps between two progress lines", minimum=1, maximum=1_000_000)
    workers: int = param(2, "processes that read samples, beside each process that trains", minimum=0, maximum=256)

    def __post_init__(self) -> None:
        validate(self)
