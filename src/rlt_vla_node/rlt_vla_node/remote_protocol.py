"""What a policy server and its client say to each other; `openpi_backend` and `gr00t_backend` carry it.

The server says once what it serves (:class:`ServerFacts`). A request is a mapping:

    id          str, repeated in the answer
    cameras     list of the policy's names of the cameras, in the order of the images
    images      (B, C, H, W, 3) uint8 RGB
    state       (B, S) float32, the policy's state vector
    prompt      str, the language instruction
    steps       int, flow steps; 0: no chunk is wanted
    noise       (B, H, noise_dim) float32; the server reads its numbers in their order into the noise of its own shape
    want        "z": the image tokens' final-layer embeddings, or "z_rl": the RL token of them

and so is its answer: `id`; `chunk` (B, H, A) float32 in the policy's units, unless steps is 0; and either `z` (B, M, D)
float16 with `mask` (B, M) bool, or `z_rl` (B, T) float32 with `z_mean` (B, D) float32, the mean of the tokens of z.
z_rl and z_mean are computed from the same float16 embeddings that `z` would bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlt_common.parameters import ParameterError, from_mapping, param, validate

PROTOCOL = 1
KEY = "rlt"
"""Where the facts stand in the metadata of a server that also says other things."""
Z, Z_RL = "z", "z_rl"
INFER, DESCRIBE = "rlt_infer", "rlt_describe"
"""Endpoints, where a server has several."""
MAX_BATCH = 1024


@dataclass(frozen=True)
class ServerFacts:
    """What a policy server serves. A client that lost it goes on only with one of the very same facts."""

    protocol: int = param(description="version of these messages", minimum=1)
    model: str = param(description="name of the policy")
    fingerprint: str = param(description="first 16 hex digits of the sha256 over all that decides the outputs")
    embed_dim: int = param(description="D, width of the embeddings", minimum=1, maximum=65_536)
    max_tokens: int = param(description="M, image tokens", minimum=1, maximum=65_536)
    horizon: int = param(description="H, rows of a chunk", minimum=1, maximum=10_000)
    action_dim: int = param(description="A, columns of a chunk", minimum=1, maximum=10_000)
    state_dim: int = param(description="S, values of the state", minimum=1, maximum=10_000)
    noise_dim: int = param(description="columns of the noise", minimum=1, maximum=1_000_000)
    cameras: tuple[str, ...] = param(description="the policy's names of the cameras it is served with")
    rl_token: str = param(description="hash of the RL token that it computes z_rl with; empty: of none")
    token_dim: int = param(description="T, width of z_rl; 0 without", minimum=0, maximum=65_536)

    def __post_init__(self) -> None:
        validate(self)
        if len(self.fingerprint) != 16 or not set(self.fingerprint) <= set("0123456789abcdef"):
            raise ParameterError(f"fingerprint {self.fingerprint!r} is not 16 hex digits")


def facts_from(said: Any, where: str) -> ServerFacts:
    """The facts that a server said. Raises ParameterError."""
    if not isinstance(said, Mapping):
        raise ParameterError(f"{where} does not say what it serves")
    if said.get("protocol") != PROTOCOL:
        raise ParameterError(
            f"{where} speaks version {said.get('protocol')!r} of the messages, this client version {PROTOCOL}: start "
            "it from the same version of this suite"
        )
    return from_mapping(ServerFacts, said, where)
