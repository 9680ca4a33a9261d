"""Command `python -m rlt_vla_node.serve_gr00t`: a ZMQ policy server around Isaac GR00T, with embeddings and z_rl.

Runs in GR00T's own environment, from a checkout of this suite, without ROS and without building anything:

    PYTHONPATH=src/rlt_common:src/rlt_vla_node python -m rlt_vla_node.serve_gr00t --model /path/checkpoint \\
        --embodiment new_embodiment --cameras front,left_wrist,right_wrist \\
        --state left_arm:6,left_gripper:1,right_arm:6,right_gripper:1 \\
        [--rl-token FOLDER] [--host 127.0.0.1] [--port 5555] [--device cuda]

It speaks the messages of GR00T's own server (endpoint and data in msgpack, arrays as .npy) with endpoints of its own:
`ping`, `rlt_describe` and `rlt_infer`. GR00T's server has a `kill` endpoint for everybody; this one has none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zmq
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rlt_vla_node import policy_service
from rlt_vla_node.policy_service import PolicyService, Result, ServedWith, ServiceError
from rlt_vla_node.remote_protocol import DESCRIBE, INFER
from rlt_vla_node.wire import GR00T, WireError

PORT = 5555
_RAMP = 1e9


class _Encoded(Exception):
    """The backbone is done and no chunk is wanted."""


class Gr00tPolicy:
    """:class:`~rlt_vla_node.policy_service.EmbeddingPolicy` around gr00t.policy.gr00t_policy.Gr00tPolicy (N1.7).

    The policy's own get_action does everything; only the model's get_action is replaced by one that runs backbone and
    action head the same way, keeps what the action head reads of the images (after its layer norm) and hands it the
    noise. Noise enters by the model's own way of going on from an earlier chunk (real-time chunking): all rows overlap,
    none is frozen and the ramp is a step, so that the flow begins at the noise, GR00T's time 0, and runs freely to 1.
    """

    def __init__(self, policy: Any, state: Mapping[str, int]) -> None:
        """`state`: the policy's state keys with their widths, in the order of the state vector. Raises ServiceError."""
        self._policy, self._model, self._state = policy, policy.model, dict(state)
        modalities = policy.modality_configs
        for kind in ("video", "state"):
            if len(modalities[kind].delta_indices) != 1:
                raise ServiceError(
                    f"this policy sees {len(modalities[kind].delta_indices)} frames of {kind} at a time: only policies "
                    "of a single one are served"
                )
        if set(self._state) != set(modalities["state"].modality_keys):
            raise ServiceError(
                f"--state names {', '.join(self._state)}, the policy has {', '.join(modalities['state'].modality_keys)}"
            )
        self._language = modalities["language"].modality_keys[0]
        self._actions = list(modalities["action"].modality_keys)
        self._noise: np.ndarray | None = None
        self._steps = 0
        self._tokens: Tensor | None = None
        self._mask: Tensor | None = None
        self._model.get_action = self._get_action

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows and columns of the flow noise: padded to the model's."""
        return self._model.config.action_horizon, self._model.config.max_action_dim

    def run(
        self, images: Mapping[str, np.ndarray], state: np.ndarray, prompt: str, noise: np.ndarray, steps: int
    ) -> Result:
        """See EmbeddingPolicy."""
        ends = np.cumsum(list(self._state.values()))[:-1]
        parts = np.split(state, ends, axis=1)
        observation = {
            "video": {name: np.ascontiguousarray(pixels[:, None]) for name, pixels in images.items()},
            "state": {name: np.ascontiguousarray(part[:, None]) for name, part in zip(self._state, parts, strict=True)},
            "language": {self._language: [[prompt] for _ in state]},
        }
        self._noise, self._steps = noise, steps
        chunk = None
        try:
            actions, _ = self._policy.get_action(observation)
            chunk = np.concatenate([np.asarray(actions[name], np.float32) for name in self._actions], axis=2)
        except _Encoded:
            pass
        return Result(self._tokens, self._mask, chunk)

    def _get_action(self, inputs: dict[str, Any], options: Mapping[str, Any] | None = None) -> Any:
        model, rows = self._model, self.noise_shape[0]
        noise = torch.from_numpy(self._noise.copy())
        backbone_inputs, action_inputs = model.prepare_input({**inputs, "action": noise})
        backbone = model.backbone(backbone_inputs)
        self._keep(backbone)
        if self._steps == 0:
            raise _Encoded
        own = model.action_head.num_inference_timesteps
        model.action_head.num_inference_timesteps = self._steps
        try:
            return model.action_head.get_action(
                backbone,
                action_inputs,
                {
                    "action_horizon": rows,
                    "rtc_overlap_steps": rows,
                    "rtc_frozen_steps": 0,
                    "rtc_ramp_rate": _RAMP,
                },
            )
        finally:
            model.action_head.num_inference_timesteps = own

    def _keep(self, backbone: Any) -> None:
        with torch.inference_mode():
            features = self._model.action_head.vlln(backbone["backbone_features"])
        chosen = [f[m] for f, m in zip(features, backbone["image_mask"], strict=True)]
        self._tokens = pad_sequence(chosen, batch_first=True)
        lengths = torch.tensor([len(tokens) for tokens in chosen], device=features.device)
        self._mask = torch.arange(self._tokens.shape[1], device=features.device)[None] < lengths[:, None]


def endpoints(service: PolicyService) -> dict[str, Callable[..., Any]]:
    """What can be asked for, by name; GR00T's own server takes them too (`register_endpoint`)."""
    return {
        "ping": lambda: {"status": "ok", "message": "Server is running"},
        DESCRIBE: lambda: service.facts,
        INFER: lambda request: service.infer(request),
    }


def serve(service: PolicyService, host: str, port: int) -> None:
    """Answer for ever."""
    known = endpoints(service)
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.setsockopt(zmq.LINGER, 0)
    if ":" in host:
        socket.setsockopt(zmq.IPV6, 1)
    socket.bind(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
    print(f"serve_gr00t: {service.facts}, at {host}:{port}", flush=True)
    while True:
        socket.send(answer(known, socket.recv()))


def answer(known: Mapping[str, Callable[..., Any]], message: bytes) -> bytes:
    """The answer to one message; whatever is wrong with it is said in the answer, and ends nothing."""
    try:
        request = GR00T.unpack(message)
        name = request.get("endpoint") if isinstance(request, dict) else None
        if name not in known:
            raise ValueError(f"no endpoint {name!r}: there are {', '.join(known)}")
        data = request.get("data") or {}
        if not isinstance(data, dict):
            raise ValueError(f"data of {name} is no mapping")
        return GR00T.pack(known[name](**data))
    except (WireError, ValueError, TypeError, KeyError, AssertionError, RuntimeError) as error:
        print(f"serve_gr00t: refused: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return GR00T.pack({"error": f"{type(error).__name__}: {error}"})


def state_parts(text: str) -> dict[str, int]:
    """`name:width,...`. Raises ServiceError."""
    parts: dict[str, int] = {}
    for item in policy_service.names(text):
        name, _, width = item.rpartition(":")
        if not name or not width.isdecimal() or not int(width) or name in parts:
            raise ServiceError(f"--state {text!r}: write each key of the policy's state once, as left_arm:6,...")
        parts[name] = int(width)
    return parts


def fingerprint(model: nn.Module, options: argparse.Namespace) -> str:
    """The policy's. The embodiment decides projector and statistics; the order of the state which number is which."""
    parts = [f"{name}:{width}" for name, width in state_parts(options.state).items()]
    return policy_service.policy_fingerprint(model, options.model, options.embodiment, ",".join(parts))


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="serve_gr00t", description="a policy server around Isaac GR00T")
    parser.add_argument("--model", required=True, type=Path, help="folder of the fine-tuned checkpoint")
    parser.add_argument("--embodiment", required=True, help="embodiment tag it was fine-tuned with, as new_embodiment")
    parser.add_argument(
        "--state", required=True, help="keys of the state with their widths, as left_arm:6,left_gripper:1"
    )
    parser.add_argument("--device", default="cuda", help="of torch")
    policy_service.add_arguments(parser, PORT)
    options = parser.parse_args(arguments)
    try:
        if not options.model.is_dir():
            raise ServiceError(f"--model {options.model}: no folder: give a local one")
        parts = state_parts(options.state)
        from gr00t.data.embodiment_tags import EmbodimentTag
        from gr00t.policy.gr00t_policy import Gr00tPolicy as Policy

        policy = Policy(EmbodimentTag(options.embodiment), str(options.model), device=options.device)
        own = fingerprint(policy.model, options)
        served = ServedWith(
            model=f"{options.model.name} {options.embodiment}",
            fingerprint=own,
            cameras=policy_service.names(options.cameras),
            state_dim=sum(parts.values()),
            image_size=policy_service.image_size(options.image_size),
            prompt=options.prompt,
        )
        token = policy_service.served_token(options.rl_token, own)
        service = PolicyService(Gr00tPolicy(policy, parts), served, token)
    except ImportError as error:
        sys.exit(f"serve_gr00t: run it in GR00T's environment: {error}")
    except (ServiceError, OSError, ValueError) as error:
        sys.exit(f"serve_gr00t: {error}")
    serve(service, options.host, options.port)


if __name__ == "__main__":
    main()
