"""Exploration noise of the RL policy: independent per value, constant over a chunk, and of the chunk's speed.

Independent noise is the paper's (Eq. 4) and averages out over a chunk; the constant part explores direction; the speed
part stretches the whole chunk, so that it explores how fast, in whatever the policy is just doing and nowhere else.
"""

from __future__ import annotations

import numpy as np


def chunk_noise(
    run_seed: int,
    episode_id: int,
    boundary_step: int,
    mean: np.ndarray,
    sigma_independent: float,
    sigma_chunk: float,
    sigma_speed: float,
) -> np.ndarray:
    """Noise (C, d) float32 on the chunk `mean` (C, d), spread units, that begins at `boundary_step` of an episode.

    Seeded by run, episode and step alone, so that a restarted policy repeats it.
    """
    rng = np.random.default_rng([run_seed, episode_id, boundary_step])
    independent = rng.standard_normal(mean.shape) * sigma_independent
    constant = rng.standard_normal((1, mean.shape[1])) * sigma_chunk
    stretched = mean * (rng.standard_normal() * sigma_speed)
    return (independent + constant + stretched).astype(np.float32)
