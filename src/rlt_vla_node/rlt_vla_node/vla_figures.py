"""How good an adapted VLA and its RL token are on frames they were not trained on: figures for metrics.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from rlt_vla_node.backend import VlaBackend
from rlt_vla_node.inference import flow_noise
from rlt_vla_node.rl_token import RlToken
from rlt_vla_node.step_sampler import draw_seed
from rlt_vla_node.vla_trainer import observations_of

CHUNK_ROWS = 10
RIDGE = 1e-3
FLOW_STEPS = 10


def spread_over(samples: Dataset, most: int) -> Dataset:
    """At most so many of the samples, evenly taken from first to last."""
    count = min(most, len(samples))
    return Subset(samples, np.unique(np.linspace(0, len(samples) - 1, count).round().astype(int)).tolist())


def batches(samples: Dataset, size: int) -> Iterator[Mapping[str, Any]]:
    """The samples in order, in batches of at least 2; a last one of a single sample is left out: it cannot be shuffled.

    A VLA that is trained on one observation at a time is measured on two.
    """
    for batch in DataLoader(samples, batch_size=max(2, size)):
        if len(batch["task"]) > 1:
            yield batch


@torch.no_grad()
def losses(
    backend: VlaBackend, token: RlToken, samples: Dataset, size: int, seed: int, trains: bool
) -> dict[str, float]:
    """L_vla (where the VLA is trained), L_ro, and L_ro with z_rl exchanged between frames; the same draws each time."""
    sums: dict[str, float] = {}
    count = 0
    with torch.random.fork_rng(devices=[]):
        for number, batch in enumerate(batches(samples, size)):
            torch.manual_seed(draw_seed(seed, number, 0, 0))
            found = {}
            if trains:
                flow, tokens, mask = backend.training_losses(backend.training_batch(batch))
                found["flow"] = float(flow)
            else:
                prefix = backend.encode(observations_of(backend, batch))
                tokens, mask = prefix.tokens, prefix.token_mask()
            health = token.health(tokens.float(), mask, torch.Generator().manual_seed(seed + number))
            found |= {"reconstruction": health.reconstruction_loss, "shuffled": health.shuffled_loss}
            own = len(batch["task"])
            sums = {name: sums.get(name, 0.0) + own * value for name, value in found.items()}
            count += own
    return {name: value / count for name, value in sums.items()}


@torch.no_grad()
def figures(
    backend: VlaBackend, token: RlToken, train: Dataset, held_out: Dataset, size: int, seed: int
) -> dict[str, Any]:
    """Figures of the frozen models, plain JSON values.

    chunk_error: root mean square of (sampled - demonstrated) over the first rows, in the spread of each action column.
    probe_state: share of the variance of each value of the state vector that a linear function of z_rl explains on held
        out frames, fitted on training frames: what z_rl knows of it. NaN of one that does not move.
    """
    fitted, tested = (_encoded(backend, token, samples, size, seed) for samples in (train, held_out))
    spread = np.concatenate([fitted["action"], tested["action"]]).reshape(-1, fitted["action"].shape[-1]).std(axis=0)
    wrong = (tested["chunk"] - tested["action"])[:, :CHUNK_ROWS] / np.maximum(spread, 1e-6)
    kept = ~tested["pad"][:, :CHUNK_ROWS]
    return {
        "frames": len(tested["state"]),
        "chunk_error": float(np.sqrt((wrong**2).mean(axis=-1)[kept].mean())),
        "probe_state": _probe(fitted["rl_token"], fitted["state"], tested["rl_token"], tested["state"]),
    }


def _encoded(backend: VlaBackend, token: RlToken, samples: Dataset, size: int, seed: int) -> dict[str, np.ndarray]:
    spec, parts, done = backend.spec, [], 0
    for batch in batches(samples, size):
        observation = observations_of(backend, batch)
        count = len(batch["task"])
        noise = torch.stack([flow_noise(seed + done + i, spec.horizon, spec.noise_dim) for i in range(count)])
        done += count
        prefix, chunk = backend.encode_and_sample(observation, steps=FLOW_STEPS, noise=noise)
        parts.append(
            {
                "rl_token": token.represent(observation, prefix).float().cpu().numpy(),
                "chunk": chunk.float().cpu().numpy(),
                "state": batch["observation.state"].numpy(),
                "action": batch["action"].numpy(),
                "pad": batch["action_is_pad"].numpy(),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _probe(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> list[float]:
    """R^2 per column on the test rows of a ridge regression fitted on x, y."""
    mean, std = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)

    def design(values: np.ndarray) -> np.ndarray:
        return np.concatenate([(values - mean) / std, np.ones((len(values), 1))], axis=1).astype(np.float64)

    a = design(x)
    weights = np.linalg.solve(a.T @ a + RIDGE * len(a) * np.eye(a.shape[1]), a.T @ y.astype(np.float64))
    error = ((design(x_test) @ weights - y_test) ** 2).mean(axis=0)
    variance = y_test.var(axis=0)
    return [float(1.0 - e / v) if v > 1e-12 else float("nan") for e, v in zip(error, variance, strict=True)]
