"""Control steps of one episode, counted from what was executed. Pure."""

from __future__ import annotations


class StepCount:
    """Counts the executed steps of one episode."""

    def __init__(self, episode_id: int) -> None:
        self._episode_id = episode_id
        self.next_step = 0
        self.first_critical: int | None = None
        self._last_critical = -1

    def add(self, episode_id: int, step: int, critical: bool) -> bool:
        """Take one executed step. True when it is the earliest of the critical phase so far."""
        if episode_id != self._episode_id:
            return False
        self.next_step = max(self.next_step, step + 1)
        if not critical:
            return False
        self._last_critical = max(self._last_critical, step)
        if self.first_critical is not None and step >= self.first_critical:
            return False
        self.first_critical = step
        return True

    @property
    def critical_steps(self) -> int:
        """Control steps from the first to the last one of the critical phase."""
        return 0 if self.first_critical is None else self._last_critical - self.first_critical + 1
