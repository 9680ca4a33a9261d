"""The box that a tool stays in: the tip, and with it the box of whatever the tool holds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from rlt_common.kinematics import Pose

TOLERANCE_M = 1e-9


class Workspace:
    """An axis-aligned box in the world frame that a whole tool box must stay in.

    Args:
        low, high: (3,) corners of the workspace, m, world frame.
        tool_low, tool_high: (3,) corners of the tool's box, m, tool frame, around the tip; zeros: the tip alone.
    """

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        tool_low: Sequence[float] = (0.0, 0.0, 0.0),
        tool_high: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        self._low, self._high = np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)
        corners = np.array(list(product(*zip(tool_low, tool_high, strict=True))), dtype=np.float64)
        self._corners = corners if corners.any() else np.zeros((1, 3))

    def limit(self, position: np.ndarray, rotation: np.ndarray, start: Pose) -> Pose:
        """The tool pose nearest to (`position` (3,), `rotation` (3, 3)) that may be commanded, coming from `start`.

        A tool that starts outside may come back at its own pace, but not go further out.
        """
        at, facing = start
        limited = self._clip(position, rotation, at)
        if self.admits((limited, rotation), start):
            return limited, rotation
        return self._clip(position, facing, at), facing

    def admits(self, pose: Pose, start: Pose) -> bool:
        """Whether the whole tool is inside at `pose`, or at least no further out than at `start`."""
        outside = self._outside(*pose)
        return outside <= TOLERANCE_M or outside <= self._outside(*start) + TOLERANCE_M

    def _clip(self, position: np.ndarray, rotation: np.ndarray, at: np.ndarray) -> np.ndarray:
        reach = self._corners @ rotation.T
        low, high = self._low - reach.min(axis=0), self._high - reach.max(axis=0)
        middle = (low + high) / 2
        narrow = low > high  # a tool wider than the box in this axis goes to its middle
        low, high = np.where(narrow, middle, low), np.where(narrow, middle, high)
        return np.clip(position, np.minimum(low, at), np.maximum(high, at))

    def _outside(self, position: np.ndarray, rotation: np.ndarray) -> float:
        """m that the outermost corner is beyond the box; 0 when all are inside."""
        corners = position + self._corners @ rotation.T
        return float(max(0.0, (self._low - corners).max(), (corners - self._high).max()))
