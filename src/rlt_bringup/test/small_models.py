"""An untrained VLA for tests of graphs: the real checkpoint format and the real networks, only small."""

from __future__ import annotations

from pathlib import Path

import torch

from rlt_common.config import RobotConfig, TaskConfig
from rlt_vla_node.builtin import BuiltinConfig, build_vla
from rlt_vla_node.checkpoint import FrozenModel, load_checkpoint, save_checkpoint
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token


def small_vla(folder: Path, robot: RobotConfig, task: TaskConfig) -> FrozenModel:
    """Save an untrained VLA with its RL token, small enough for any test, and load it as the nodes do."""
    vla = build_vla(
        BuiltinConfig(
            cameras=tuple(camera.name for camera in robot.cameras),
            image_height=64,
            image_width=64,
            state_dim=sum(robot.block_sizes[name] for name in task.vla_state),
            action_dim=robot.action_dim,
            control_hz=robot.control_hz,
            horizon=task.horizon,
            width=16,
            heads=2,
            camera_tokens=2,
            stem_channels=(4, 4),
        ),
        seed=0,
    )
    vla.action_spread.copy_(torch.linspace(1e-3, 4e-3, robot.action_dim))
    token = build_rl_token(RlTokenConfig(embed_dim=16, max_tokens=vla.config.tokens, token_dim=8, heads=2), seed=1)
    vla_state = [(name, robot.block_sizes[name]) for name in task.vla_state]
    statistics = {"action_spread": vla.action_spread.tolist()}
    save_checkpoint(folder, vla, token, vla_state, {"statistics": statistics}, {})
    return load_checkpoint(folder)
