"""A VLA at a policy server, as a backend: one round trip per batch, embeddings and chunk together.

The server gives the image tokens' embeddings z or, asked for it, the RL token z_rl that it computed of them and their
mean (`remote_protocol`). The latter is asked for once a checkpoint whose RL token is the server's is loaded
(:func:`served_by`): 8 KB instead of megabytes. A prefix then has ONE token, the mean, which is all that the hand-off
head and mean pooling read of them, and z_rl in its cache.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlt_common.parameters import ParameterError, from_mapping, param, validate
from rlt_common.vla_config import NO_CAMERA, VlaConfig
from rlt_vla_node.backend import (
    KIND_IMAGE,
    BackendError,
    BackendSpec,
    ObservationBatch,
    Prefix,
    StateEncoder,
    VlaBackend,
    check_observation,
)
from rlt_vla_node.remote_link import Link
from rlt_vla_node.remote_protocol import Z_RL, Z
from rlt_vla_node.rl_token import RlToken, token_hash


@dataclass(frozen=True)
class RemoteOptions:
    """`options` of the VLA file of a policy at a server."""

    timeout_s: float = param(
        2.0,
        "the longest a round trip may take, strided batches included: then the connection is given up, nothing is "
        "answered and the arms hold; the node answers no other message meanwhile",
        minimum=0.05,
        maximum=600.0,
    )
    max_reply_mib: int = param(128, "an answer larger than this is not read", minimum=1, maximum=4096)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_options(config: VlaConfig) -> RemoteOptions:
    """The VLA file's options. Raises ParameterError."""
    return from_mapping(RemoteOptions, config.options, "options of the VLA file")


def read_address(config: VlaConfig) -> Address:
    """The VLA file's source as host and port. Raises ParameterError."""
    host, _, port = config.source.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65_536:
        raise ParameterError(f"source: {config.source!r} is not the address of a policy server: write host:port")
    return Address(host, int(port))


@dataclass(frozen=True)
class RemoteCache:
    """What stands in the cache of a prefix: the observation again, since the server keeps nothing, and z_rl."""

    observation: ObservationBatch
    rl_token: Tensor | None
    """(B, T) where it was asked for."""


class RemoteBackend:
    """:class:`rlt_vla_node.backend.VlaBackend` at a policy server."""

    def __init__(self, config: VlaConfig, link: Link, where: str) -> None:
        """Raises BackendError where the server does not fit the VLA file. `where`: its kind and address."""
        facts = link.facts
        self._link, self._facts, self._where = link, facts, where
        self._prompt = config.instruction
        self._cameras = [name for name, camera in config.cameras.items() if camera != NO_CAMERA]
        self._want = Z
        if sorted(self._cameras) != sorted(facts.cameras):
            raise BackendError(
                f"{where} was started with cameras {', '.join(facts.cameras) or 'none'}, the VLA file sends "
                f"{', '.join(self._cameras) or 'none'}: name the same in both (cameras of the VLA file, --cameras)"
            )
        self._spec = BackendSpec(
            name=f"{config.backend} {facts.model}",
            embed_dim=facts.embed_dim,
            max_tokens=facts.max_tokens,
            horizon=facts.horizon,
            action_dim=facts.action_dim,
            state_dim=facts.state_dim,
            control_hz=config.control_hz,
            camera_keys=config.seen_cameras,
            image_shape=None,
            noise_dim=facts.noise_dim,
            fingerprint=facts.fingerprint,
        )

    @property
    def spec(self) -> BackendSpec:
        """What the server said, and the VLA file's cameras and rate."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """What comes over the network is in main memory."""
        return torch.device("cpu")

    @property
    def served_token(self) -> str:
        """Hash of the RL token that the server computes z_rl with; empty: of none."""
        return self._facts.rl_token

    def ask_for_token(self) -> None:
        """From now on, have z_rl and the mean of z instead of z."""
        self._want = Z_RL

    def lost(self) -> str:
        """Why the server cannot be reached, empty where it can; begins to reconnect. Never waits."""
        reason = self._link.lost()
        return reason and f"{self._where}: {reason}"

    def encode(self, observation: ObservationBatch) -> Prefix:
        """Embeddings alone: the server draws no chunk."""
        batch = observation.state.shape[0]
        noise = torch.zeros(batch, self._spec.horizon, self._spec.noise_dim)
        return self._run(observation, 0, noise)[0]

    def sample_chunk(self, prefix: Prefix, *, steps: int, noise: Tensor) -> Tensor:
        """Chunks for a prefix of this backend: the observation is sent again, since the server's cache stays there."""
        return self._run(prefix.cache.observation, steps, noise)[1]

    def encode_and_sample(self, observation: ObservationBatch, *, steps: int, noise: Tensor) -> tuple[Prefix, Tensor]:
        """Both in one round trip."""
        return self._run(observation, steps, noise)

    def _run(self, observation: ObservationBatch, steps: int, noise: Tensor) -> tuple[Prefix, Tensor]:
        check_observation(self._spec, observation)
        request = {
            "id": uuid.uuid4().hex,
            "cameras": self._cameras,
            "images": observation.images.cpu().numpy(),
            "state": observation.state.float().cpu().numpy(),
            "prompt": self._prompt,
            "steps": steps,
            "noise": noise.float().cpu().numpy(),
            "want": self._want,
        }
        try:
            reply = self._link.exchange(request)
        except BackendError as error:
            raise BackendError(f"{self._where}: {error}") from error
        try:
            return self._read(reply, observation, steps, self._want)
        except ValueError as error:
            self._link.fail(str(error))
            raise BackendError(f"{self._where}: its answer cannot be used: {error}") from error

    def _read(
        self, reply: Mapping[str, Any], observation: ObservationBatch, steps: int, want: str
    ) -> tuple[Prefix, Tensor]:
        spec, batch = self._spec, observation.state.shape[0]
        rl_token = None
        if want == Z_RL:
            tokens = _tensor(reply, "z_mean", np.float32, (batch, spec.embed_dim))[:, None]
            rl_token = _tensor(reply, "z_rl", np.float32, (batch, self._facts.token_dim))
            mask = torch.ones(batch, 1, dtype=torch.bool)
        else:
            mask = _tensor(reply, "mask", np.bool_, (batch, None))
            if mask.shape[1] > spec.max_tokens:
                raise ValueError(f"{mask.shape[1]} tokens, and it said that there are at most {spec.max_tokens}")
            tokens = _tensor(reply, "z", np.float16, (batch, mask.shape[1], spec.embed_dim)).float()
        chunk = torch.empty(batch, 0, spec.action_dim)
        if steps:
            chunk = _tensor(reply, "chunk", np.float32, (batch, spec.horizon, spec.action_dim))
        kind = torch.full((tokens.shape[1],), KIND_IMAGE)
        return Prefix(tokens=tokens, mask=mask, kind=kind, cache=RemoteCache(observation, rl_token)), chunk


class ServedToken:
    """A StateEncoder that takes the z_rl that the server computed with the very same RL token."""

    def __init__(self, token: RlToken) -> None:
        self.width = token.width

    def represent(self, observation: ObservationBatch, prefix: Prefix) -> Tensor:
        """(B, T)."""
        return prefix.cache.rl_token


def served_by(backend: VlaBackend, token: RlToken) -> StateEncoder:
    """What makes z_rl for this backend: the server, where its RL token is this one, else `token` itself of z."""
    if isinstance(backend, RemoteBackend) and backend.served_token == token_hash(token):
        backend.ask_for_token()
        return ServedToken(token)
    return token


def _tensor(reply: Mapping[str, Any], name: str, kind: type, shape: tuple[int | None, ...]) -> Tensor:
    array = reply.get(name)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"it has no {name}")
    fits = len(array.shape) == len(shape) and all(w in (None, n) for n, w in zip(array.shape, shape, strict=True))
    if array.dtype != kind or not fits:
        wanted = tuple("any" if n is None else n for n in shape)
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {np.dtype(kind)} {wanted}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")
    return torch.from_numpy(array.copy())
