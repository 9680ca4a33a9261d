"""Actor and critics: plain MLPs on standardised states and scaled actions (Sec. IV-B, App. B).

Actions and references are chunks, flattened row-major to C*d values, in units of the demonstrations' spread. States are
x = (z_rl, proprioception), standardised.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

STATE_CLIP = 5.0  # standardised states beyond this are outliers, e.g. a contact force never met in warm-up
STD_FLOOR = 1e-3  # of the standard deviations: a value that hardly varied in warm-up stays small, not noise
OUTPUT_SCALE = 0.1  # of the actor's last layer at the start: first actions near zero, not near a random policy


@dataclass(frozen=True)
class Layout:
    """Everything that decides the shape of the networks. Checkpoints and published actors carry it."""

    token_dim: int  # D, width of z_rl
    state_dim: int  # P, width of the proprioception
    action_dim: int  # d
    chunk_length: int  # C
    hidden: tuple[int, ...]
    use_rl_token: bool = True  # False: the ablation without z_rl
    use_reference: bool = True  # False: the ablation without pass-through

    @property
    def x_dim(self) -> int:
        """Width of x; z_rl has no place in it when it is ablated."""
        return self.state_dim + (self.token_dim if self.use_rl_token else 0)

    @property
    def chunk_dim(self) -> int:
        """C*d, values in an action chunk."""
        return self.chunk_length * self.action_dim

    @property
    def actor_widths(self) -> tuple[int, ...]:
        """Widths of the actor from input to output."""
        reference = self.chunk_dim if self.use_reference else 0
        return (self.x_dim + reference, *self.hidden, self.chunk_dim)

    @property
    def critic_widths(self) -> tuple[int, ...]:
        """Widths of each critic from input to output."""
        return (self.x_dim + self.chunk_dim, *self.hidden, 1)


class Standardiser(nn.Module):
    """Fixed mean and spread of x over the warm-up data."""

    def __init__(self, x_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(x_dim))
        self.register_buffer("std", torch.ones(x_dim))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation from x (N, X)."""
        self.mean.copy_(x.mean(0))
        self.std.copy_(x.std(0, correction=0).clamp(min=STD_FLOOR))

    def forward(self, x: Tensor) -> Tensor:
        """(B, X) to (B, X), clamped."""
        return ((x - self.mean) / self.std).clamp(-STATE_CLIP, STATE_CLIP)


class Actor(nn.Module):
    """mu(x, reference chunk), the mean of Eq. 4. Not squashed: the executor clips at the robot's limits."""

    def __init__(self, layout: Layout, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layout = layout
        widths = layout.actor_widths
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        with torch.no_grad():
            for layer in self.layers:
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
            self.layers[-1].weight.mul_(OUTPUT_SCALE)
            self.layers[-1].bias.zero_()

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """x (B, X) standardised and reference (B, C*d) to the mean chunk (B, C*d)."""
        value = torch.cat([x, reference], 1) if self.layout.use_reference else x
        for layer in self.layers[:-1]:
            value = functional.relu(layer(value))
        return self.layers[-1](value)


class Critics(nn.Module):
    """An ensemble of Q(x, a), evaluated together as one batched matrix product per layer."""

    def __init__(self, layout: Layout, count: int, layer_norm: bool, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        widths = layout.critic_widths
        for a, b in pairwise(widths):
            bound = a**-0.5
            self.weights.append(nn.Parameter(torch.empty(count, a, b).uniform_(-bound, bound, generator=generator)))
            self.biases.append(nn.Parameter(torch.empty(count, 1, b).uniform_(-bound, bound, generator=generator)))

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """x (B, X) standardised and action (B, C*d) to the values (count, B)."""
        value = torch.cat([x, action], 1).expand(self.weights[0].shape[0], -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            value = torch.baddbmm(bias, value, weight)
            if i < last:
                if self.layer_norm:
                    value = functional.layer_norm(value, value.shape[-1:])
                value = functional.relu(value)
        return value[..., 0]
