"""Backend `openpi`: a policy at openpi's websocket policy server, around which `serve_openpi` puts its wrapper."""

from __future__ import annotations

import contextlib
import socket as sockets
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.protocol import State
from websockets.sync.client import connect

from rlt_common.parameters import ParameterError
from rlt_common.vla_config import VlaConfig
from rlt_vla_node.backend import BackendError
from rlt_vla_node.remote_backend import Address, RemoteBackend, RemoteOptions, read_address, read_options
from rlt_vla_node.remote_link import Link
from rlt_vla_node.remote_protocol import KEY, ServerFacts, facts_from
from rlt_vla_node.wire import OPENPI, WireError

_HINT = "is it rlt_vla_node.serve_openpi that listens there?"
_BROKEN = (WebSocketException, OSError, EOFError)


class OpenpiChannel:
    """:class:`~rlt_vla_node.remote_link.Channel` over a websocket."""

    def __init__(self, address: Address, options: RemoteOptions) -> None:
        """Connects. Raises BackendError."""
        self._timeout_s = options.timeout_s
        self._closing = contextlib.ExitStack()
        try:
            self._socket = self._closing.enter_context(
                connect(
                    f"ws://{address}",
                    compression=None,
                    max_size=options.max_reply_mib * 1024**2,
                    open_timeout=options.timeout_s,
                    ping_interval=None,  # openpi's server does not answer pings while it infers
                    proxy=None,
                    legacy=False,
                )
            )
        except (*_BROKEN, ValueError) as error:
            raise BackendError(f"cannot connect: {error}") from error
        seconds, rest = divmod(options.timeout_s, 1.0)
        # Without it, sending to a server that reads nothing would wait for ever.
        limit = struct.pack("ll", int(seconds), int(rest * 1e6))
        self._socket.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDTIMEO, limit)

    def greeting(self) -> Any:
        """What the server says first."""
        return self._receive(time.monotonic() + self._timeout_s)

    def exchange(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """See Channel; an answer with another id is passed over."""
        deadline = time.monotonic() + self._timeout_s
        try:
            self._socket.send(OPENPI.pack(request))
        except (*_BROKEN, WireError) as error:
            raise BackendError(f"cannot send: {error}") from error
        while True:
            reply = self._receive(deadline)
            if not isinstance(reply, dict):
                raise BackendError(f"its answer is a {type(reply).__name__}")
            if reply.get("id") == request["id"]:
                return reply

    def _receive(self, deadline: float) -> Any:
        try:
            data = self._socket.recv(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(data, str):  # a traceback, after which it closes
                raise BackendError(f"it says: {(data.strip().splitlines() or ['nothing'])[-1][:500]}")
            return OPENPI.unpack(data)
        except TimeoutError as error:
            raise BackendError(f"no answer within {self._timeout_s:g} s") from error
        except (*_BROKEN, WireError) as error:
            raise BackendError(f"the connection broke: {error}") from error

    @property
    def alive(self) -> bool:
        """Whether nobody has closed it."""
        return self._socket.state is State.OPEN

    def close(self) -> None:
        """See Channel. The closing handshake may take its time: it has a thread of its own."""
        with contextlib.suppress(OSError):
            self._socket.socket.shutdown(sockets.SHUT_RDWR)
        threading.Thread(target=self._closing.close, name="policy server, closing", daemon=True).start()


def open_backend(config: VlaConfig) -> RemoteBackend:
    """The backend of a VLA file. Raises ParameterError, or BackendError where the server is not there or unfit."""
    options, address = read_options(config), read_address(config)
    where = f"openpi policy server at {address}"

    def dial() -> tuple[OpenpiChannel, ServerFacts]:
        try:
            channel = OpenpiChannel(address, options)
        except BackendError as error:
            raise BackendError(f"{error}: {_HINT}") from error
        try:
            said = channel.greeting()
            return channel, facts_from(said.get(KEY) if isinstance(said, dict) else None, "it")
        except (BackendError, ParameterError) as error:
            channel.close()
            raise BackendError(f"{error}: {_HINT}") from error

    try:
        return RemoteBackend(config, Link(dial), where)
    except BackendError as error:
        raise error if where in str(error) else BackendError(f"{where}: {error}") from error
