"""The robot's joints out of joint states that may come in any order, with others between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class JointStateError(ValueError):
    """Joint states that cannot be used; says why."""


class JointOrder:
    """Picks the robot's joints, in the robot's order, out of named positions."""

    def __init__(self, joint_names: Sequence[str]) -> None:
        self._joint_names = tuple(joint_names)
        self._known: tuple[list[str], list[int]] | None = None

    def positions(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
        """(n,) float64, rad or m. Raises JointStateError for a joint that is missing, named twice or not finite."""
        names = list(names)
        if self._known is None or self._known[0] != names:
            for joint in self._joint_names:
                if names.count(joint) != 1:
                    times = "no joint" if joint not in names else f"{names.count(joint)} times the joint"
                    raise JointStateError(f"has {times} {joint!r}; it names {names}")
            self._known = (names, [names.index(joint) for joint in self._joint_names])
        values = np.asarray(positions, dtype=np.float64)
        if values.size != len(names):
            raise JointStateError(f"has {values.size} positions for {len(names)} names")
        picked = values[self._known[1]]
        if not np.isfinite(picked).all():
            raise JointStateError(f"{self._joint_names[int(np.argmin(np.isfinite(picked)))]} is not finite")
        return picked
