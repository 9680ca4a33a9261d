"""Actor and critics: plain MLPs on standardised states and scaled actions (Sec. IV-B, App. B).

Actions and references are chunks, flattened row-major to C*d values, in units of the demonstrations' spread. States are
x = (z_rl, proprioception), standardised.

Gradients are written out by hand instead of left to autograd: on a CPU these networks are so small that autograd's own
work weighs, and an optimiser step per parameter too; and only so can the critics' gradient stop at the action instead
of running through the whole of x. `forward` keeps what `backward` needs when it is handed a tape (a list). The tests
hold every gradient against autograd's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

STATE_CLIP = 5.0  # standardised states beyond this are outliers, e.g. a contact force never met in warm-up
STD_FLOOR = 1e-3  # of the standard deviations: a value that hardly varied in warm-up stays small, not noise
OUTPUT_SCALE = 0.1  # of the actor's last layer at the start: first actions near zero, not near a random policy
_ALIGNMENT = 16  # values; every parameter begins at a cache line
_EPSILON = 1e-5  # of LayerNorm

_N = TypeVar("_N", bound="Network")


def processor_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own (AVX512-BF16 or AMX)."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


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
    squash: bool = False  # True: tanh at the actor's output, TD3's way

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


class Network(nn.Module):
    """Parameters as views of one vector `flat`, their gradients as views of `flat_gradient`.

    So one optimiser step, and one step of a target network, are one operation each. With `bfloat16` the factors of
    every matrix product are rounded to bfloat16; weights, activations and moments stay float32.
    """

    def __init__(self, bfloat16: bool) -> None:
        super().__init__()
        self.bfloat16 = bfloat16

    def gather(self) -> None:
        """Move the parameters into one vector. Called when they exist, and again after a deep copy."""
        parameters = list(self.parameters())
        starts, size = [], 0
        for parameter in parameters:
            starts.append(size)
            size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        self.flat, self.flat_gradient = torch.zeros(size), torch.zeros(size)
        self.gradients: list[Tensor] = []
        for parameter, start in zip(parameters, starts, strict=True):
            piece = slice(start, start + parameter.numel())
            self.flat[piece] = parameter.detach().reshape(-1)
            parameter.requires_grad_(False)
            parameter.data = self.flat[piece].view(parameter.shape)
            self.gradients.append(self.flat_gradient[piece].view(parameter.shape))

    def clone(self: _N) -> _N:
        """A copy with a vector of its own."""
        twin = copy.deepcopy(self)
        twin.gather()
        return twin

    def optimiser(self, lr: float) -> torch.optim.Adam:
        """Adam on `flat`, stepping by `flat_gradient`."""
        self.flat.grad = self.flat_gradient
        return torch.optim.Adam([self.flat], lr, fused=True)

    def follow(self, source: Network, tau: float) -> None:
        """self <- (1 - tau) * self + tau * source, as target networks do."""
        self.flat.lerp_(source.flat, tau)

    def _factor(self, tensor: Tensor) -> Tensor:
        return tensor.bfloat16() if self.bfloat16 else tensor

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        """a @ b in float32, whatever the factors."""
        return torch.matmul(a, b).float()


class Actor(Network):
    """mu(x, reference chunk), the mean of Eq. 4.

    Linear in its last layer, as the executor clips at the robot's limits; with `layout.squash`, TD3's way, tanh brings
    every value within `limit`.
    """

    def __init__(
        self,
        layout: Layout,
        generator: torch.Generator | None = None,
        limit: Tensor | None = None,
        bfloat16: bool = False,
    ) -> None:
        """`limit` (C*d,): the largest values, spread units; needed when squashed."""
        super().__init__(bfloat16)
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
        if layout.squash:
            self.register_buffer("limit", torch.ones(layout.chunk_dim) if limit is None else limit.clone())
        self.gather()

    def forward(self, x: Tensor, reference: Tensor, tape: list[Tensor] | None = None) -> Tensor:
        """x (B, X) standardised and reference (B, C*d) to the mean chunk (B, C*d)."""
        value = self._factor(torch.cat([x, reference], 1) if self.layout.use_reference else x)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            if tape is not None:
                tape.append(value)
            value = self._linear(layer, value)
            if i < last:
                value = self._factor(value.relu_())
        if self.layout.squash:
            value = value.tanh_()
            if tape is not None:
                tape.append(value)
            value = value * self.limit
        return value

    def _linear(self, layer: nn.Linear, value: Tensor) -> Tensor:
        if self.bfloat16:
            return self._product(value, layer.weight.bfloat16().t()).add_(layer.bias)
        return torch.addmm(layer.bias, value, layer.weight.t())

    def backward(self, tape: list[Tensor], gradient: Tensor) -> None:
        """Write d loss / d parameters into `gradients`, from d loss / d mean chunk (B, C*d) and `forward`'s tape."""
        if self.layout.squash:
            gradient = gradient * self.limit * (1.0 - tape.pop().square())
        for i in reversed(range(len(self.layers))):
            value = tape.pop()
            factor = self._factor(gradient)
            if self.bfloat16:
                self.gradients[2 * i].copy_(factor.t() @ value)
            else:
                torch.mm(factor.t(), value, out=self.gradients[2 * i])
            torch.sum(gradient, 0, out=self.gradients[2 * i + 1])
            if i:
                gradient = self._product(factor, self._factor(self.layers[i].weight))
                gradient = torch.ops.aten.threshold_backward(gradient, value, 0)


class Critics(Network):
    """An ensemble of Q(x, a), evaluated together as one batched matrix product per layer."""

    def __init__(
        self,
        layout: Layout,
        count: int,
        layer_norm: bool,
        generator: torch.Generator | None = None,
        bfloat16: bool = False,
    ) -> None:
        super().__init__(bfloat16)
        self.layout, self.layer_norm = layout, layer_norm
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        widths = layout.critic_widths
        for a, b in pairwise(widths):
            bound = a**-0.5
            self.weights.append(nn.Parameter(torch.empty(count, a, b).uniform_(-bound, bound, generator=generator)))
            self.biases.append(nn.Parameter(torch.empty(count, 1, b).uniform_(-bound, bound, generator=generator)))
        self.gather()

    def __len__(self) -> int:
        return self.weights[0].shape[0]

    def forward(
        self, x: Tensor, action: Tensor, tape: list[Tensor] | None = None, members: int | None = None
    ) -> Tensor:
        """x (B, X) standardised and action (B, C*d) to the values (N, B) of the first `members` critics (all)."""
        count = len(self) if members is None else members
        value = self._factor(torch.cat([x, action], 1)).expand(count, -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if tape is not None:
                tape.append(value)
            if self.bfloat16:
                value = self._product(value, weight[:count].bfloat16()).add_(bias[:count])
            else:
                value = torch.baddbmm(bias[:count], value, weight[:count])
            if i == last:
                break
            if self.layer_norm:
                normal, mean, scale = torch.native_layer_norm(value, value.shape[-1:], None, None, _EPSILON)
                if tape is not None:
                    tape += [value, mean, scale]
                value = normal
            value = self._factor(value.relu_())
        return value[..., 0]

    def backward(self, tape: list[Tensor], gradient: Tensor) -> None:
        """Write d loss / d parameters into `gradients`, from d loss / d Q (N, B) and `forward`'s tape."""
        self._backward(tape, gradient, parameters=True)

    def action_gradient(self, tape: list[Tensor], gradient: Tensor) -> Tensor:
        """d loss / d action (B, C*d), from d loss / d Q (N, B) and `forward`'s tape; leaves the parameters' alone."""
        gradient = self._backward(tape, gradient, parameters=False)
        weight = self._factor(self.weights[0][: len(gradient), self.layout.x_dim :])
        return self._product(self._factor(gradient), weight.transpose(1, 2)).sum(0)

    def _backward(self, tape: list[Tensor], gradient: Tensor, parameters: bool) -> Tensor:
        """Back to d loss / d (first layer's output), (N, B, hidden)."""
        gradient = gradient[..., None]
        weights = len(self.weights)
        for i in reversed(range(weights)):
            value = tape.pop()
            factor = self._factor(gradient)
            if parameters:
                if self.bfloat16:
                    self.gradients[i].copy_(torch.bmm(value.transpose(1, 2), factor))
                else:
                    torch.bmm(value.transpose(1, 2), factor, out=self.gradients[i])
                torch.sum(gradient, 1, keepdim=True, out=self.gradients[weights + i])
            if i:
                gradient = self._product(factor, self._factor(self.weights[i][: len(gradient)]).transpose(1, 2))
                gradient = torch.ops.aten.threshold_backward(gradient, value, 0)
                if self.layer_norm:
                    scale, mean, before = tape.pop(), tape.pop(), tape.pop()
                    gradient, _, _ = torch.ops.aten.native_layer_norm_backward(
                        gradient, before, before.shape[-1:], mean, scale, None, None, (True, False, False)
                    )
        return gradient
