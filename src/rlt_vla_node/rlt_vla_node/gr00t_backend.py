"""Backend `gr00t`: a policy at the ZMQ server that `serve_gr00t` starts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import zmq

from rlt_common.parameters import ParameterError
from rlt_common.vla_config import VlaConfig
from rlt_vla_node.backend import BackendError
from rlt_vla_node.remote_backend import Address, RemoteBackend, RemoteOptions, read_address, read_options
from rlt_vla_node.remote_link import Link
from rlt_vla_node.remote_protocol import DESCRIBE, INFER, ServerFacts, facts_from
from rlt_vla_node.wire import GR00T, WireError


class Gr00tChannel:
    """:class:`~rlt_vla_node.remote_link.Channel` over a REQ socket of its own: closed, its late answers are nowhere."""

    def __init__(self, address: Address, options: RemoteOptions) -> None:
        self._timeout_ms = round(options.timeout_s * 1e3)
        self._max_bytes = options.max_reply_mib * 1024**2
        self._socket = zmq.Context.instance().socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, self._max_bytes)
        self._socket.setsockopt(zmq.SNDTIMEO, self._timeout_ms)
        self._socket.setsockopt(zmq.IPV6, int(":" in address.host))
        self._socket.connect(f"tcp://{address}")

    def exchange(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """See Channel."""
        reply = self.call(INFER, {"request": request})
        if reply.get("id") != request["id"]:
            raise BackendError("it answered another request than this one")
        return reply

    def call(self, endpoint: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """One endpoint's answer."""
        deadline = time.monotonic() + self._timeout_ms / 1e3
        try:
            self._socket.send(GR00T.pack({"endpoint": endpoint, "data": data}))
            left_ms = max(0, round((deadline - time.monotonic()) * 1e3))
            if not self._socket.poll(left_ms, zmq.POLLIN):
                raise BackendError(f"no answer of at most {self._max_bytes} bytes within {self._timeout_ms / 1e3:g} s")
            reply = GR00T.unpack(self._socket.recv())
        except (zmq.ZMQError, WireError) as error:
            raise BackendError(f"{endpoint}: {error}") from error
        if not isinstance(reply, dict):
            raise BackendError(f"{endpoint}: its answer is a {type(reply).__name__}")
        if "error" in reply:
            raise BackendError(f"{endpoint}: it says: {str(reply['error'])[:500]}")
        return reply

    @property
    def alive(self) -> bool:
        """A REQ socket does not know of its peer's end."""
        return True

    def close(self) -> None:
        """See Channel."""
        self._socket.close(linger=0)


def open_backend(config: VlaConfig) -> RemoteBackend:
    """The backend of a VLA file. Raises ParameterError, or BackendError where the server is not there or unfit."""
    options, address = read_options(config), read_address(config)
    where = f"gr00t policy server at {address}"

    def dial() -> tuple[Gr00tChannel, ServerFacts]:
        channel = Gr00tChannel(address, options)
        try:
            return channel, facts_from(channel.call(DESCRIBE, {}), "it")
        except (BackendError, ParameterError) as error:
            channel.close()
            raise BackendError(f"{error}: is it rlt_vla_node.serve_gr00t that listens there?") from error

    try:
        return RemoteBackend(config, Link(dial), where)
    except BackendError as error:
        raise error if where in str(error) else BackendError(f"{where}: {error}") from error
