"""Exploration noise of the RL policy: independent per value, plus a part that is constant over a chunk.

Independent noise is the paper's (Eq. 4) and averages out over a chunk; the constant part explores speed and direction.
"""

from __future__ import annotations

import numpy as np


def chunk_noise(
    run_seed: int,
    episode_id: int,
    boundary_step: int,
    shape: tuple[int, int],
    sigma_independent: float,
    sigma_chunk: float,
) -> np.ndarray:
    """Noise (C, d) float32 in spread units for the chunk that begins at `boundary_step` of an episode.

    Seeded by run, episode and step alone, so that a restarted policy repeats it.
    """
    rng = np.random.default_rng([run_seed, episode_id, boundary_step])
    independent = rng.standard_normal(shape) * sigma_independent
    constant = rng.standard_normal((1, shape[1])) * sigma_chunk
    return (independent + constant).astype(np.float32)
