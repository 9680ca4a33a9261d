"""What this package needs to know about the frozen VLA and RL token: three facts of their checkpoint's config.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlt_common.reading import read_json

CONFIG_FILE = "config.json"
MAX_BYTES = 16 * 1024**2


class FrozenModelsError(RuntimeError):
    """A VLA checkpoint that is missing or does not say what is needed."""


@dataclass(frozen=True)
class FrozenModels:
    """Facts of a VLA checkpoint."""

    hash: str  # of VLA, RL token and statistics
    action_spread: np.ndarray  # (d,) float32, spread of the demonstrations' actions, robot units, floored
    token_dim: int  # D, width of z_rl


def read_frozen_models(folder: Path | str, action_dim: int) -> FrozenModels:
    """Read `folder`/config.json. Raises FrozenModelsError naming the file and the key."""
    path = Path(folder) / CONFIG_FILE
    try:
        config = read_json(path, MAX_BYTES)
        facts = FrozenModels(
            hash=str(config["hash"]),
            action_spread=np.array(config["statistics"]["action_spread"], np.float32),
            token_dim=int(config["token"]["token_dim"]),
        )
    except OSError as error:
        raise FrozenModelsError(f"{path}: {error.strerror}: give the folder that `adapt` wrote") from error
    except KeyError as error:
        raise FrozenModelsError(f"{path}: key {error} is missing: adapt the VLA again with this version") from error
    except (TypeError, ValueError) as error:
        raise FrozenModelsError(f"{path}: not a VLA checkpoint's configuration: {error}") from error
    spread = facts.action_spread
    if spread.shape != (action_dim,) or not np.isfinite(spread).all() or (spread <= 0).any():
        raise FrozenModelsError(f"{path}: action_spread must be {action_dim} positive numbers, got {spread.tolist()}")
    return facts
