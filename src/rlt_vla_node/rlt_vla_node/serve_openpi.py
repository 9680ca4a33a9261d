"""Command `python -m rlt_vla_node.serve_openpi`: openpi's policy server, with embeddings and z_rl in its answers.

Runs in openpi's own environment, from a checkout of this suite, without ROS and without building anything:

    PYTHONPATH=src/rlt_common:src/rlt_vla_node python -m rlt_vla_node.serve_openpi --config pi05_aloha \\
        --checkpoint /path/checkpoint --inputs aloha --state-dim 14 --cameras cam_high,cam_left_wrist,cam_right_wrist \\
        [--rl-token FOLDER] [--host 127.0.0.1] [--port 8000] [--device cuda]

The server is openpi's own (openpi.serving.websocket_policy_server): only the policy in it is :class:`OpenpiPolicy`.
It takes checkpoints in PyTorch (`model.safetensors`), of pi0 and pi0.5. docs/backends.md has the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlt_vla_node import policy_service
from rlt_vla_node.policy_service import PolicyService, Result, ServedWith, ServiceError
from rlt_vla_node.remote_protocol import KEY

PORT = 8000
Inputs = dict[str, Any]


class _Encoded(Exception):
    """The prefix is done and no chunk is wanted."""


def _aloha(images: Mapping[str, np.ndarray], state: np.ndarray, prompt: str) -> Inputs:
    return {"state": state, "images": {n: image.transpose(2, 0, 1) for n, image in images.items()}, "prompt": prompt}


def _flat(images: Mapping[str, np.ndarray], state: np.ndarray, prompt: str) -> Inputs:
    return {**{f"observation/{n}": image for n, image in images.items()}, "observation/state": state, "prompt": prompt}


def _droid(images: Mapping[str, np.ndarray], state: np.ndarray, prompt: str) -> Inputs:
    joints = {"observation/joint_position": state[:7], "observation/gripper_position": state[7:]}
    return {**{f"observation/{n}": image for n, image in images.items()}, **joints, "prompt": prompt}


INPUTS: dict[str, Callable[[Mapping[str, np.ndarray], np.ndarray, str], Inputs]] = {
    "aloha": _aloha,
    "droid": _droid,
    "libero": _flat,
}
"""How openpi's policies want one observation: (H, W, 3) images by camera, state (S,), prompt."""


class OpenpiPolicy:
    """:class:`~rlt_vla_node.policy_service.EmbeddingPolicy` around an openpi Policy with a PyTorch model.

    It does what Policy.infer does, for a batch: the policy's transforms per observation, its sample_actions once.
    The embeddings are what the language model gives for the prefix in that very pass: the final layer, after its norm.
    """

    def __init__(self, policy: Any, make_observation: Callable[[Inputs], Any], inputs: str) -> None:
        """`make_observation`: openpi's Observation.from_dict. `inputs`: one of INPUTS. Raises ServiceError."""
        if not policy._is_pytorch_model:
            raise ServiceError(
                "this checkpoint is a JAX one: convert it with openpi's examples/convert_jax_model_to_pytorch.py"
            )
        self._policy, self._make_observation, self._inputs = policy, make_observation, INPUTS[inputs]
        self._model, self._device = policy._model, policy._pytorch_device
        self._tokens: Tensor | None = None
        self._mask: Tensor | None = None
        self._encode_only = False
        self._listen()

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows and columns of the flow noise."""
        return self._model.config.action_horizon, self._model.config.action_dim

    def run(
        self, images: Mapping[str, np.ndarray], state: np.ndarray, prompt: str, noise: np.ndarray, steps: int
    ) -> Result:
        """See EmbeddingPolicy."""
        policy = self._policy
        rows = [
            policy._input_transform(
                self._inputs({n: pixels[i] for n, pixels in images.items()}, state[i].copy(), prompt)
            )
            for i in range(len(state))
        ]
        inputs = _stacked(rows, self._device)
        observation = self._make_observation(inputs)
        self._encode_only = steps == 0
        actions = None
        try:
            drawn = torch.from_numpy(np.array(noise)).to(self._device)
            actions = self._model.sample_actions(self._device, observation, noise=drawn, num_steps=max(steps, 1))
        except _Encoded:
            pass
        language = observation.tokenized_prompt.shape[1]
        count = self._tokens.shape[1] - language
        chunk = None if actions is None else self._finished(inputs["state"], actions)
        return Result(self._tokens[:, :count], self._mask[:, :count], chunk)

    def _listen(self) -> None:
        model = self._model
        embed_prefix, forward = model.embed_prefix, model.paligemma_with_expert.forward

        def heard_prefix(*args: Any, **kwargs: Any) -> Any:
            found = embed_prefix(*args, **kwargs)
            self._mask = found[1]
            return found

        def heard_forward(*args: Any, **kwargs: Any) -> Any:
            found = forward(*args, **kwargs)
            if found[0][0] is not None:
                self._tokens = found[0][0].detach()
                if self._encode_only:
                    raise _Encoded
            return found

        # Called as methods, so that torch's hooks would not fire.
        model.embed_prefix, model.paligemma_with_expert.forward = heard_prefix, heard_forward

    def _finished(self, states: Tensor, actions: Tensor) -> np.ndarray:
        """(B, H, A) after the policy's own output transforms."""
        rows = []
        for state, chunk in zip(states, actions, strict=True):
            outputs = {"state": state.detach().cpu().numpy(), "actions": chunk.detach().float().cpu().numpy()}
            rows.append(np.asarray(self._policy._output_transform(outputs)["actions"], np.float32))
        return np.stack(rows)


def fingerprint(model: nn.Module, options: argparse.Namespace) -> str:
    """The policy's. The config decides transforms and which statistics are used; `inputs` what the policy is shown."""
    return policy_service.policy_fingerprint(model, options.checkpoint, options.config, options.inputs)


def metadata(service: PolicyService, own: Mapping[str, Any]) -> dict[str, Any]:
    """What the server says when a client connects: the policy's own metadata, and the facts."""
    return {**own, KEY: service.facts}


def _stacked(rows: Sequence[Mapping[str, Any]], device: Any) -> dict[str, Any]:
    """Nested mappings of arrays, one per observation, as one of tensors (B, ...)."""
    return {
        name: _stacked([row[name] for row in rows], device)
        if isinstance(value, Mapping)
        else torch.from_numpy(np.stack([np.asarray(row[name]) for row in rows])).to(device)
        for name, value in rows[0].items()
    }


def _load(options: argparse.Namespace) -> tuple[Any, Callable[[Inputs], Any]]:
    from openpi.models import model as openpi_model
    from openpi.policies import policy_config
    from openpi.training import config as openpi_config

    config = openpi_config.get_config(options.config)
    # Compiled as a whole, sample_actions would not let its embeddings be heard.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, pytorch_compile_mode=None))
    policy = policy_config.create_trained_policy(config, options.checkpoint, pytorch_device=options.device)
    return policy, openpi_model.Observation.from_dict


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="serve_openpi", description="openpi's policy server, with embeddings")
    parser.add_argument("--config", required=True, help="openpi's training config, as pi05_aloha")
    parser.add_argument("--checkpoint", required=True, type=Path, help="folder with model.safetensors and assets")
    parser.add_argument("--inputs", required=True, choices=sorted(INPUTS), help="how the policy wants an observation")
    parser.add_argument("--state-dim", required=True, type=int, help="values of the policy's state")
    parser.add_argument("--device", help="of torch; default: openpi's choice")
    policy_service.add_arguments(parser, PORT)
    options = parser.parse_args(arguments)
    try:
        policy, make_observation = _load(options)
        from openpi.serving.websocket_policy_server import WebsocketPolicyServer

        own = fingerprint(policy._model, options)
        served = ServedWith(
            model=options.config,
            fingerprint=own,
            cameras=policy_service.names(options.cameras),
            state_dim=options.state_dim,
            image_size=policy_service.image_size(options.image_size),
            prompt=options.prompt,
        )
        token = policy_service.served_token(options.rl_token, own)
        service = PolicyService(OpenpiPolicy(policy, make_observation, options.inputs), served, token)
    except ImportError as error:
        sys.exit(f"serve_openpi: run it in openpi's environment: {error}")
    except (ServiceError, OSError) as error:
        sys.exit(f"serve_openpi: {error}")
    print(f"serve_openpi: {service.facts}, at ws://{options.host}:{options.port}", flush=True)
    WebsocketPolicyServer(service, options.host, options.port, metadata(service, policy.metadata)).serve_forever()


if __name__ == "__main__":
    main()
