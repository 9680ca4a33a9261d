"""Waiting inside coroutines of an rclpy node: for a condition, not for a message, and never inside a callback."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from rclpy.task import Future


class News:
    """Coroutines wait for a condition; whoever may have changed something tells them to look again.

    A timer of the node should call :meth:`tell` too: time-outs are noticed only then.
    """

    def __init__(self) -> None:
        self._future: Future = Future()

    def tell(self) -> None:
        """Wake every coroutine that waits."""
        future, self._future = self._future, Future()
        future.set_result(None)

    def next(self) -> Awaitable[None]:
        """To be awaited: the next call of :meth:`tell`."""
        return self._future

    async def until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until `condition` holds; False when it did not within `timeout_s` of wall time."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not condition():
            if end is not None and time.monotonic() > end:
                return False
            await self.next()
        return True
