"""Every number of the adaptation, with its range."""

from __future__ import annotations

from dataclasses import dataclass

from rlt_common.parameters import param, validate


@dataclass(frozen=True)
class AdaptConfig:
    """How the built-in VLA is adapted and the RL token trained (Sec. IV-A, Algorithm 1 lines 1 to 3).

    Stage 0 stands for a VLA's pre-training: it teaches stems and encoder the relative pose in the pre-training images
    and the demonstrations. It is left out where no targets are known. Stage 1 freezes the stems and minimises L_ro +
    alpha * L_vla (+ auxiliary_weight * the auxiliary loss) on the demonstrations.
    """

    pretraining_steps: int = param(2500, "steps of stage 0", minimum=0, maximum=1_000_000)
    pretraining_batch: int = param(
        64, "images per step of stage 0, half of them demonstrations", minimum=2, maximum=4096
    )
    steps: int = param(2000, "steps of stage 1; the paper: 2,000 to 10,000 (App. B)", minimum=1, maximum=1_000_000)
    batch: int = param(64, "observations per step of stage 1", minimum=1, maximum=4096)
    pose_batch: int = param(32, "pre-training images added to each step of stage 1", minimum=0, maximum=4096)
    learning_rate: float = param(1e-3, "AdamW, cosine schedule", minimum=1e-7, maximum=1.0)
    warmup_steps: int = param(100, "steps of linear warm-up in each stage", minimum=0, maximum=100_000)
    weight_decay: float = param(1e-4, "AdamW", minimum=0.0, maximum=1.0)
    gradient_norm: float = param(1.0, "gradients are clipped to this norm", minimum=1e-3, maximum=1e3)
    alpha: float = param(1.0, "weight of L_vla; 0 keeps the VLA as it is after stage 0", minimum=0.0, maximum=1e3)
    auxiliary_weight: float = param(2.0, "weight of the auxiliary loss in stage 1", minimum=0.0, maximum=1e3)
    auxiliary_scale: tuple[float, ...] = param(
        (0.02, 0.02, 0.02, 0.1, 0.1, 0.1),
        "unit of each auxiliary target value in its loss; the default is for a pose (m, rad)",
        minimum=1e-6,
        maximum=1e6,
    )
    context_dropout: float = param(
        0.0, "share of earlier embeddings hidden from the RL token's decoder", minimum=0.0, maximum=1.0
    )
    flow_samples: int = param(2, "flow samples per observation and step", minimum=1, maximum=64)
    state_noise: float = param(0.03, "noise on proprioception, in its standard deviations", minimum=0.0, maximum=1.0)
    image_noise: float = param(0.02, "noise on pixels in stage 0, of the full range", minimum=0.0, maximum=1.0)
    image_gain: float = param(0.15, "width of the random brightness in stage 0", minimum=0.0, maximum=1.0)
    token_dim: int = param(64, "width of z_rl", minimum=1, maximum=4096)
    frame_stride: int = param(4, "control steps between the observations used", minimum=1, maximum=1000)
    validation_share: float = param(0.08, "share of episodes kept for validation", minimum=0.0, maximum=0.5)
    checkpoint_steps: int = param(200, "steps between two resumable checkpoints", minimum=1, maximum=1_000_000)
    report_steps: int = param(50, "steps between two progress lines", minimum=1, maximum=1_000_000)

    def __post_init__(self) -> None:
        validate(self)
