"""How good an adapted VLA and its RL token are on frames they were not trained on: figures for metrics.json."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlt_vla_node.builtin import BuiltinVla
from rlt_vla_node.rl_token import RlToken
from rlt_vla_node.trainer import AuxiliaryHead

CHUNK_ROWS = 10
RIDGE = 1e-3
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class EncodedFrames:
    """Frames after the models: tokens z (N, M, D), rl_token (N, Z), and the state, actions and target they go with."""

    tokens: Tensor
    rl_token: Tensor
    state: Tensor
    actions: Tensor
    target: Tensor


@torch.no_grad()
def encode_frames(
    vla: BuiltinVla, token: RlToken, features: Tensor, state: Tensor, actions: Tensor, target: Tensor
) -> EncodedFrames:
    """Run the models on cached features (N, T, D)."""
    tokens, rl_tokens = [], []
    for part, values in zip(features.split(EVALUATION_BATCH), state.split(EVALUATION_BATCH), strict=True):
        z = vla.mix(part, vla.standardise(values))
        tokens.append(z)
        rl_tokens.append(token.encode(z, torch.ones(z.shape[:2], dtype=torch.bool)))
    return EncodedFrames(torch.cat(tokens), torch.cat(rl_tokens), state, actions, target)


@torch.no_grad()
def evaluate(
    vla: BuiltinVla,
    token: RlToken,
    auxiliary: AuxiliaryHead | None,
    train: EncodedFrames,
    held_out: EncodedFrames,
    seed: int,
) -> dict[str, object]:
    """Figures on the held-out frames, plain JSON values.

    flow_loss: L_vla with fixed noise.
    chunk_error: root mean square of (sampled - demonstrated) over the first rows, in spread units.
    reconstruction_loss, shuffled_loss: see TokenHealth.
    auxiliary_error: mean absolute error of the head per component, SI units.
    probe_*: the same for a linear probe of z_rl, of the proprioception, and of both, fitted on the training frames.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(held_out.state), generator=generator)[: 4 * EVALUATION_BATCH]
    tokens, actions = held_out.tokens[rows], held_out.actions[rows]
    noise = torch.randn(actions.shape, generator=generator)
    time = torch.rand(len(rows), generator=generator)
    sampled = vla.flow(tokens, noise, steps=5)
    wrong = ((sampled - actions) / vla.action_spread)[:, :CHUNK_ROWS]
    figures: dict[str, object] = {
        "frames": len(held_out.state),
        "flow_loss": float(vla.flow_loss(tokens, actions, noise, time)),
        "chunk_error": float(wrong.square().mean().sqrt()),
        "embedding_variance": float(tokens.var(dim=0).mean()),
    }
    if len(rows) >= 2:
        health = token.health(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), generator)
        figures["reconstruction_loss"] = health.reconstruction_loss
        figures["shuffled_loss"] = health.shuffled_loss
    fitted, tested = _known(train.target), _known(held_out.target)
    if auxiliary is not None and bool(fitted.any()) and bool(tested.any()):
        error = (auxiliary.estimate(held_out.tokens[tested]) - held_out.target[tested]).abs().mean(dim=0)
        figures["auxiliary_error"] = error.tolist()
        for name, inputs in (
            ("probe_rl_token", lambda frames: frames.rl_token),
            ("probe_proprioception", lambda frames: frames.state),
            ("probe_both", lambda frames: torch.cat([frames.rl_token, frames.state], dim=1)),
        ):
            figures[name] = _probe(
                inputs(train)[fitted], train.target[fitted], inputs(held_out)[tested], held_out.target[tested]
            )
    return figures


def _known(target: Tensor) -> Tensor:
    return torch.isfinite(target).all(dim=1) & (target.shape[1] > 0)


def _probe(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> list[float]:
    """Mean absolute error per column of a ridge regression fitted on x, y."""
    mean, std = x.mean(dim=0), x.std(dim=0).clamp_min(1e-9)

    def design(values: Tensor) -> Tensor:
        return torch.cat([(values - mean) / std, torch.ones(len(values), 1)], dim=1).double()

    a = design(x)
    weights = torch.linalg.solve(a.T @ a + RIDGE * len(a) * torch.eye(a.shape[1]).double(), a.T @ y.double())
    return (design(x_test) @ weights - y_test.double()).abs().mean(dim=0).tolist()
