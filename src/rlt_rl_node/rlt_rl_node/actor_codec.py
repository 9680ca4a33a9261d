"""The acting half of the agent as bytes: what the learner publishes and the policy node acts with.

It holds everything that the distribution of Eq. 4 needs: the actor's weights, the statistics of x, the demonstrations'
spread and sigma. The policy node therefore has no hyper-parameters of its own that could differ from the learner's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch

from rlt_common.atomic import sha256_hex
from rlt_common.parameters import ParameterError, from_mapping
from rlt_rl_node import tensor_file
from rlt_rl_node.networks import Actor, Layout, Standardiser
from rlt_rl_node.tensor_file import TensorFileError

MAX_BYTES = 64 * 1024 * 1024
MAX_WIDTH = 65536


@dataclass(frozen=True)
class PolicyWeights:
    """The actors with all they need to act. Immutable by convention: the networks are copies."""

    actor: Actor
    """The average over the latest updates: steadier than any one of them."""
    explorer: Actor
    """The actor of the newest update, which practises: what it does wrong is what is learned from next."""
    standardise: Standardiser
    spread: np.ndarray  # (d,) float32, robot units per unit of the network's output
    sigma_independent: float
    sigma_chunk: float
    vla_hash: str
    version: int

    @torch.no_grad()
    def mean(
        self, rl_token: np.ndarray, rl_state: np.ndarray, reference: np.ndarray, explore: bool = False
    ) -> np.ndarray:
        """mu(x, a~) of Eq. 4 in spread units, (C, d); of the explorer when it is to `explore`.

        `rl_token` (D,), `rl_state` (P,), `reference` (C, d) in spread units. Raises ValueError for other shapes.
        """
        layout = self.actor.layout
        for name, got, expected in (
            ("RL token", rl_token.shape, (layout.token_dim,)),
            ("RL state", rl_state.shape, (layout.state_dim,)),
            ("reference", reference.shape, (layout.chunk_length, layout.action_dim)),
        ):
            if got != expected:
                raise ValueError(f"{name} has shape {got}, the actor takes {expected}")
        parts = [rl_token, rl_state] if layout.use_rl_token else [rl_state]
        x = torch.from_numpy(np.concatenate(parts).astype(np.float32))[None]
        flat = torch.from_numpy(reference.astype(np.float32).reshape(1, -1))
        actor = self.explorer if explore else self.actor
        return actor(self.standardise(x), flat).numpy().reshape(reference.shape)


def pack(weights: PolicyWeights) -> bytes:
    """Weights to bytes; equal weights give equal bytes."""
    modules = {"actor": weights.actor, "explorer": weights.explorer, "x": weights.standardise}
    arrays = {f"{of}.{name}": t.numpy() for of, module in modules.items() for name, t in module.state_dict().items()}
    arrays["spread"] = weights.spread
    facts = {
        "layout": asdict(weights.actor.layout),
        "sigma_independent": weights.sigma_independent,
        "sigma_chunk": weights.sigma_chunk,
        "vla_hash": weights.vla_hash,
        "version": weights.version,
    }
    return tensor_file.dump(arrays, facts)


def unpack(data: bytes, sha256: str | None = None) -> PolicyWeights:
    """Bytes of :func:`pack` to weights, checked against `sha256` when it is given. Raises TensorFileError."""
    if sha256 is not None and sha256_hex(data) != sha256:
        raise TensorFileError("the actor's bytes do not match their sha256")
    arrays, facts = tensor_file.parse(data, MAX_BYTES)
    try:
        layout = from_mapping(Layout, facts["layout"], "actor layout")
        sigmas = float(facts["sigma_independent"]), float(facts["sigma_chunk"])
        vla_hash, version = str(facts["vla_hash"]), int(facts["version"])
    except (KeyError, TypeError, ValueError, OverflowError, ParameterError) as error:
        raise TensorFileError(f"the actor's facts do not fit: {error}") from error
    sizes = (layout.token_dim, layout.state_dim, layout.action_dim, layout.chunk_length, *layout.hidden)
    widths = (*layout.actor_widths, *layout.critic_widths)
    if min(sizes) < 0 or min(widths) < 1 or max(widths) > MAX_WIDTH or not all(0 <= s <= 100 for s in sigmas):
        raise TensorFileError(f"the actor's layout {layout} or sigmas {sigmas} are out of range")

    expected: dict[str, tuple[int | None, ...]] = {"spread": (layout.action_dim,)}
    for of in ("actor", "explorer"):
        for i, (a, b) in enumerate(pairwise(layout.actor_widths)):
            expected[f"{of}.layers.{i}.weight"], expected[f"{of}.layers.{i}.bias"] = (b, a), (b,)
        if layout.squash:
            expected[f"{of}.limit"] = (layout.chunk_dim,)
    expected["x.mean"] = expected["x.std"] = (layout.x_dim,)
    if set(arrays) != set(expected):
        raise TensorFileError(f"the actor's arrays are {sorted(arrays)}, expected {sorted(expected)}")
    tensor_file.expect(arrays, expected, np.float32)
    if (arrays["spread"] <= 0).any() or (arrays["x.std"] <= 0).any():
        raise TensorFileError("the actor's spread or x.std holds a value that is not positive")

    actor, explorer, standardise = Actor(layout), Actor(layout), Standardiser(layout.x_dim)
    for module, prefix in ((actor, "actor."), (explorer, "explorer."), (standardise, "x.")):
        module.load_state_dict(
            {k.removeprefix(prefix): torch.tensor(v) for k, v in arrays.items() if k.startswith(prefix)}
        )
        module.requires_grad_(False)
    return PolicyWeights(actor, explorer, standardise, arrays["spread"], *sigmas, vla_hash, version)
