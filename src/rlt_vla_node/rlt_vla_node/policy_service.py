"""The server's side of a policy: requests in, chunks and embeddings or z_rl out (`remote_protocol`).

It runs in the VLA's own environment: of this suite it needs only modules without ROS, and of packages numpy, torch and
safetensors. `serve_openpi` and `serve_gr00t` bring the policy and the network.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rlt_common.reading import read_limited
from rlt_vla_node.checkpoint_files import CheckpointError, load_token
from rlt_vla_node.remote_protocol import MAX_BATCH, PROTOCOL, Z_RL, ServerFacts, Z
from rlt_vla_node.rl_token import RlToken, token_hash
from rlt_vla_node.tensors import masked_mean, tensors_hash

MAX_FACTS_BYTES = 64 * 1024**2
MAX_STEPS = 1000


class ServiceError(RuntimeError):
    """A policy that cannot be served as it was asked for; says what to do."""


class Result(NamedTuple):
    """What a policy makes of B observations."""

    tokens: Tensor
    """(B, M, D) final-layer embeddings of the image tokens, of any float type."""
    mask: Tensor
    """(B, M) bool, True where a token is real."""
    chunk: np.ndarray | None
    """(B, H, A) in the policy's units; None where no flow steps were asked for."""


class EmbeddingPolicy(Protocol):
    """A policy whose embeddings can be had, from the pass that its chunk comes from."""

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows and columns of the flow noise of one observation."""

    def run(
        self, images: Mapping[str, np.ndarray], state: np.ndarray, prompt: str, noise: np.ndarray, steps: int
    ) -> Result:
        """B observations: images (B, H, W, 3) uint8 by camera, state (B, S), noise (B, *noise_shape)."""


@dataclass(frozen=True)
class ServedWith:
    """What the one who starts a server says of the policy."""

    model: str
    fingerprint: str
    cameras: tuple[str, ...]
    state_dim: int
    image_size: tuple[int, int]
    """(height, width) of the images that the policy is warmed up with."""
    prompt: str
    """Language instruction of the warm-up."""


class PolicyService:
    """Answers requests with a policy, one at a time."""

    def __init__(self, policy: EmbeddingPolicy, served: ServedWith, rl_token: RlToken | None = None) -> None:
        """Runs the policy a few times: it warms up, and what it gives becomes the facts. Raises ServiceError."""
        self._policy, self._served, self._token = policy, served, rl_token
        self._device = torch.device("cpu")
        self._horizon, self._action_dim, self._tokens, self._width = self._probe()
        if rl_token is not None:
            config = rl_token.config
            if config.embed_dim != self._width or config.max_tokens < self._tokens:
                raise ServiceError(
                    f"the RL token reads {config.max_tokens} tokens of width {config.embed_dim}, the policy has "
                    f"{self._tokens} of width {self._width}: give the checkpoint that was trained on this policy"
                )
            self._token = rl_token.to(self._device).eval()
        rows, columns = policy.noise_shape
        self._noise_dim = -(-rows * columns // self._horizon)

    @property
    def facts(self) -> dict[str, Any]:
        """What is served, as it is said to clients."""
        served, token = self._served, self._token
        facts = ServerFacts(
            protocol=PROTOCOL,
            model=served.model,
            fingerprint=served.fingerprint,
            embed_dim=self._width,
            max_tokens=self._tokens,
            horizon=self._horizon,
            action_dim=self._action_dim,
            state_dim=served.state_dim,
            noise_dim=self._noise_dim,
            cameras=served.cameras,
            rl_token=token_hash(token) if token is not None else "",
            token_dim=token.width if token is not None else 0,
        )
        return {**dataclasses.asdict(facts), "cameras": list(facts.cameras)}

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises ValueError for one that cannot be used, naming what is wrong."""
        images, state, noise = self._checked(request)
        steps, want = request["steps"], request["want"]
        rows, columns = self._policy.noise_shape
        noise = noise.reshape(len(noise), -1)[:, : rows * columns].reshape(-1, rows, columns)
        result = self._policy.run(images, state, request["prompt"], noise, steps)
        tokens, mask = _travelling(result)
        reply: dict[str, Any] = {"id": request["id"]}
        if result.chunk is not None:
            reply["chunk"] = np.ascontiguousarray(result.chunk, np.float32)
        if want == Z_RL:
            with torch.inference_mode():
                reply["z_rl"] = _array(self._token.encode(tokens.float(), mask))
                reply["z_mean"] = _array(masked_mean(tokens.float(), mask))
        else:
            reply["z"], reply["mask"] = _array(tokens), _array(mask)
        return reply

    def _checked(self, request: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        served = self._served
        images, state, noise = (request.get(name) for name in ("images", "state", "noise"))
        cameras, steps = request.get("cameras"), request.get("steps")
        if not isinstance(request.get("id"), str) or not isinstance(request.get("prompt"), str):
            raise ValueError("a request needs an id and a prompt")
        if not isinstance(cameras, list) or sorted(map(str, cameras)) != sorted(served.cameras):
            raise ValueError(f"cameras are {cameras}, the policy is served with {list(served.cameras)}")
        batch = len(state) if isinstance(state, np.ndarray) and state.ndim == 2 else 0
        if not 0 < batch <= MAX_BATCH:
            raise ValueError(f"state is no (B, {served.state_dim}) of 1 to {MAX_BATCH} rows")
        _expect("state", state, np.float32, (batch, served.state_dim))
        _expect("noise", noise, np.float32, (batch, self._horizon, self._noise_dim))
        size = images.shape[2:4] if isinstance(images, np.ndarray) and images.ndim == 5 else ()
        _expect("images", images, np.uint8, (batch, len(cameras), *size, 3))
        if type(steps) is not int or not 0 <= steps <= MAX_STEPS:
            raise ValueError(f"steps is {steps!r}: give 0 to {MAX_STEPS}")
        if request.get("want") not in (Z, Z_RL):
            raise ValueError(f"want is {request.get('want')!r}: {Z} or {Z_RL}")
        if request["want"] == Z_RL and self._token is None:
            raise ValueError("z_rl is wanted, and this server was started without --rl-token")
        return {name: images[:, i] for i, name in enumerate(cameras)}, state, noise

    def _probe(self) -> tuple[int, int, int, int]:
        """Horizon, action_dim, max_tokens, embed_dim. The noise of a request must decide its chunk."""
        served = self._served
        images = {name: np.zeros((1, *served.image_size, 3), np.uint8) for name in served.cameras}
        state = np.zeros((1, served.state_dim), np.float32)
        draws = np.random.default_rng(0).standard_normal((2, 1, *self._policy.noise_shape), dtype=np.float32)
        results = [self._policy.run(images, state, served.prompt, draws[i], 2) for i in (0, 0, 1)]
        chunks = [result.chunk for result in results]
        if not np.array_equal(chunks[0], chunks[1]) or np.array_equal(chunks[0], chunks[2]):
            raise ServiceError(
                "the policy does not take its noise from the request, so the same observation and seed would not give "
                "the same chunk: docs/backends.md names the versions that do"
            )
        tokens = results[0].tokens
        self._device = tokens.device
        return *chunks[0].shape[1:], *tokens.shape[1:]


def policy_fingerprint(model: nn.Module, folder: Path | str, *chosen: str) -> str:
    """Over the weights in memory, every JSON file in the policy's folder (configuration, statistics) and `chosen`.

    `chosen`: what the server was told that decides which of these are used, and how.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.json")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        digest.update(read_limited(path, MAX_FACTS_BYTES))
    return tensors_hash(model.state_dict(), digest.hexdigest(), *chosen)


def served_token(folder: Path | str | None, fingerprint: str) -> RlToken | None:
    """The RL token of a checkpoint that was trained on the policy of this fingerprint. Raises ServiceError."""
    if folder is None:
        return None
    try:
        token, config = load_token(folder)
    except CheckpointError as error:
        raise ServiceError(str(error)) from error
    if config.get("fingerprint") != fingerprint:
        raise ServiceError(
            f"{folder}: its RL token was trained on a VLA with fingerprint {config.get('fingerprint')}, this policy "
            f"has {fingerprint}: give the checkpoint that belongs to it, or serve without --rl-token"
        )
    return token


def add_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """What every server is told."""
    parser.add_argument("--cameras", required=True, help="the policy's names of the cameras that are sent, by commas")
    parser.add_argument("--image-size", default="224x224", help="height x width of the images (default 224x224)")
    parser.add_argument("--prompt", default="do the task", help="instruction of the warm-up")
    parser.add_argument("--rl-token", type=Path, help="checkpoint folder: serve z_rl of its RL token besides z")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; there is NO authentication")
    parser.add_argument("--port", type=int, default=port)


def image_size(text: str) -> tuple[int, int]:
    """`HEIGHTxWIDTH`. Raises ServiceError."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and 0 < int(height) <= 4096 and 0 < int(width) <= 4096):
        raise ServiceError(f"--image-size {text!r}: write height x width in pixels, as 224x224")
    return int(height), int(width)


def names(text: str) -> tuple[str, ...]:
    """Names by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _travelling(result: Result) -> tuple[Tensor, Tensor]:
    """Tokens in float16, as they travel, zeros where there is none; what is computed here is computed of these."""
    mask = result.mask.bool()
    tokens = torch.where(mask[..., None], result.tokens, torch.zeros_like(result.tokens)).half()
    if not bool(torch.isfinite(tokens).all()):
        raise ValueError("the policy's embeddings are not finite, or too large for float16")
    return tokens, mask


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()


def _expect(name: str, array: Any, kind: type, shape: Sequence[int]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != kind or array.shape != tuple(shape):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} is {found}, not {np.dtype(kind)} {tuple(shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")
