"""A connection to a policy server that comes back by itself, and never delivers what nobody waits for.

A round trip that fails, for whatever reason, ends its connection: an answer that comes late has nowhere to arrive. From
then on every call fails at once while one thread after another, each for a single attempt, tries to connect; so the
caller waits for at most one time-out per loss. A server that comes back must say the same facts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rlt_vla_node.backend import BackendError
from rlt_vla_node.remote_protocol import ServerFacts

RETRY_S = 0.2


class Channel(Protocol):
    """One connection. All errors are BackendErrors."""

    def exchange(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to `request`, which bears its id, within the time-out."""

    @property
    def alive(self) -> bool:
        """False where it is known to be broken."""

    def close(self) -> None:
        """End it at once."""


class Link:
    """See the module docstring."""

    def __init__(self, dial: Callable[[], tuple[Channel, ServerFacts]]) -> None:
        """`dial` connects and asks for the facts. Raises BackendError when that does not succeed at once."""
        self._dial = dial
        self._lock = threading.Lock()
        self._attempt: threading.Thread | None = None
        self._next_s = 0.0
        self._error = ""
        self._channel: Channel | None
        self._channel, self.facts = dial()

    def exchange(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """One round trip. Raises BackendError; while there is no connection, at once."""
        if reason := self.lost():
            raise BackendError(reason)
        channel = self._channel
        try:
            return channel.exchange(request)
        except BackendError as error:
            self._lose(str(error))
            raise

    def fail(self, reason: str) -> None:
        """End the connection: its answer was not one."""
        self._lose(reason)

    def lost(self) -> str:
        """Why there is no connection, empty where there is one; begins an attempt to have one again."""
        with self._lock:
            if self._channel is not None and self._channel.alive:
                return ""
            if self._channel is not None:
                self._channel.close()
                self._channel, self._error = None, "the connection was closed"
            if self._attempt is None and time.monotonic() >= self._next_s:
                self._attempt = threading.Thread(target=self._connect, name="policy server", daemon=True)
                self._attempt.start()
            return self._error

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel, self._error = None, reason

    def _connect(self) -> None:
        channel, reason = None, "cannot connect"
        try:
            channel, facts = self._dial()
            if facts != self.facts:
                reason = f"another policy is served now: {_difference(self.facts, facts)}: start this node again for it"
                channel.close()
                channel = None
        except BackendError as error:
            reason = str(error)
        finally:
            with self._lock:
                self._channel, self._attempt, self._error = channel, None, reason
                self._next_s = time.monotonic() + RETRY_S


def _difference(one: ServerFacts, other: ServerFacts) -> str:
    for name, value in vars(one).items():
        if getattr(other, name) != value:
            return f"{name} is {getattr(other, name)!r}, was {value!r}"
    return "no difference"
