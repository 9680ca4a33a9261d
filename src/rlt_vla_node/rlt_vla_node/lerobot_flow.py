"""LeRobot's flow policies behind VlaBackend: pi0, pi0.5 and SmolVLA, by the contract that all three share.

Each has an inner model X (a VLM beside an action expert) that is called as

    ([prefix_out, suffix_out], cache) = X.forward(..., inputs_embeds=[prefix or None, suffix or None], ...)

and a `denoise_step(x_t=, timestep=, prefix_pad_masks=, past_key_values=, ...)`. prefix_out is z, the final layer's
output after its norm. Encoding runs the policy's own `predict_action_chunk` up to its first flow step and keeps what
that step was given; sampling takes the flow's steps on what was kept. Training is the policy's own pass, its losses
per number taken before they are averaged, so that padded rows and the columns that fill an action up are left out in
every version of LeRobot, as the newest does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlt_vla_node.backend import (
    KIND_IMAGE,
    KIND_LANGUAGE,
    KIND_PROPRIOCEPTION,
    BackendError,
    ObservationBatch,
    Prefix,
)
from rlt_vla_node.lerobot_policy import LeRobotBackend, Opened, replaced
from rlt_vla_node.lerobot_processing import ACTION, ACTION_IS_PAD, STATE

SMOLVLA = "smolvla"
KINDS = ("pi0", "pi05", SMOLVLA)
_LANGUAGE = "observation.language.tokens"


class _FirstStep(Exception):
    """The policy's sampling has come to its first flow step."""


class FlowCache(NamedTuple):
    """What the flow's steps need of an encoded batch."""

    given: Mapping[str, Any]
    """Of denoise_step, but noise and time."""
    origin: Tensor | None
    """What the actions are relative to."""


@dataclass
class _Seen:
    """What passed through a policy."""

    tokens: Tensor | None = None
    mask: Tensor | None = None
    images: list[int] = field(default_factory=list)
    losses: Tensor | None = None
    given_away: Tensor | None = None
    """(B, H) rows that the loss leaves out, since the policy was shown them (real-time chunking in training)."""


class FlowBackend(LeRobotBackend):
    """See the module docstring."""

    def __init__(self, opened: Opened, compile_mode: str) -> None:
        """`compile_mode`: of torch.compile, for the flow's steps; off: not compiled."""
        super().__init__(opened)
        if not opened.config.instruction:
            raise BackendError(f"{opened.folder.kind} takes an instruction and the VLA file has none filled in")
        self._model: nn.Module = self.policy.model
        names = [name for name in ("vlm_with_expert", "paligemma_with_expert") if hasattr(self._model, name)]
        if not names:
            raise BackendError(f"this LeRobot's {opened.folder.kind} is built differently: see docs/backends.md")
        self._inner: nn.Module = getattr(self._model, names[0])
        self._step = self._model.denoise_step
        if compile_mode != "off":
            self._step = torch.compile(self._model.denoise_step, mode=compile_mode, dynamic=False)

    # ---- VlaBackend

    @torch.no_grad()
    def encode(self, observation: ObservationBatch) -> Prefix:
        """See VlaBackend: the tokens of the images alone, or with the state's (`tokens: all`); never language's."""
        batch = self._samples(observation)
        origin = self._processing.origin()
        shape = (len(observation.state), self._spec.horizon, self._spec.noise_dim)
        given: dict[str, Any] = {}

        def first_step(**arguments: Any) -> None:
            given.update(arguments)
            raise _FirstStep

        noise = torch.zeros(shape, device=self.device)
        with self._evaluating(), self._watching() as seen, ExitStack() as stack:
            stack.enter_context(replaced(self._model, "denoise_step", first_step))
            stack.enter_context(suppress(_FirstStep))
            self.policy.predict_action_chunk(dict(batch), noise=noise)
        for name in ("x_t", "timestep"):
            del given[name]
        return self._prefix(seen, batch, FlowCache(given, origin))

    @torch.no_grad()
    def sample_chunk(self, prefix: Prefix, *, steps: int, noise: Tensor) -> Tensor:
        """See VlaBackend: `steps` Euler steps from noise at time 1 to time 0, as LeRobot takes them."""
        given, origin = prefix.cache
        x = noise.to(self.device, torch.float32)
        length = -1.0 / steps
        with self._evaluating():
            for i in range(steps):
                time = torch.tensor(1.0 + i * length, dtype=torch.float32, device=self.device).expand(len(x))
                x = x + length * self._step(x_t=x, timestep=time, **given)
        actions = x[:, :, : self._spec.action_dim]
        if getattr(self.policy.config, "adapt_to_pi_aloha", False):
            actions = self.policy._pi_aloha_encode_actions(actions)
        return self._processing.finish(actions, origin)

    # ---- TrainableBackend

    def training_losses(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """See TrainableBackend. L_vla is the policy's own loss per number, averaged over rows that are not padded."""
        batch = {
            **batch,
            STATE: batch[STATE].clone(),
            ACTION: batch[ACTION].clone(),
        }  # SmolVLA may change them in place
        with self._watching() as seen:
            self.policy.forward(dict(batch))
        losses = seen.losses[:, :, : self._spec.action_dim]  # the columns that fill an action up are left out
        kept = ~batch[ACTION_IS_PAD].to(losses.device)
        if seen.given_away is not None:
            kept = kept & ~seen.given_away
        loss = (losses * kept[:, :, None]).sum() / (kept.sum() * losses.shape[-1]).clamp_min(1)
        prefix = self._prefix(seen, batch, None)
        return loss, prefix.tokens, prefix.mask

    # ---- set-up

    def _noise_dim(self) -> int:
        return self.policy.config.max_action_dim

    def _image_shape(self, shapes: list[tuple[int, int, int]]) -> None:
        """These policies resize images themselves."""

    def _check_absent(self, absent: list[str]) -> None:
        """The pi policies mask any camera; SmolVLA as many as it was trained to, and would drop others unseen."""
        allowed = getattr(self.policy.config, "empty_cameras", 0)
        if self._opened.folder.kind == SMOLVLA and len(absent) > allowed:
            names = ", ".join(key.rpartition(".")[2] for key in absent)
            raise BackendError(
                f"cameras: SmolVLA was trained to miss {allowed} cameras (empty_cameras), the VLA file lacks {names}: "
                "give it these cameras, or fine-tune it without them"
            )

    # ---- what passes through

    @contextmanager
    def _watching(self) -> Iterator[_Seen]:
        seen = _Seen()
        forward, losses = self._inner.forward, self._model.forward
        embed_prefix, embed_image = self._model.embed_prefix, self._inner.embed_image

        def watched_forward(*arguments: Any, **named: Any) -> Any:
            found = forward(*arguments, **named)
            if found[0][0] is not None:
                seen.tokens = found[0][0].detach()
            return found

        def watched_prefix(*arguments: Any, **named: Any) -> Any:
            found = embed_prefix(*arguments, **named)
            seen.mask = found[1]
            return found

        def watched_image(*arguments: Any, **named: Any) -> Tensor:
            found = embed_image(*arguments, **named)
            seen.images.append(found.shape[1])
            return found

        def watched_losses(*arguments: Any, **named: Any) -> Tensor:
            seen.losses, seen.given_away = losses(*arguments, **named), named.get("prefix_mask")
            return seen.losses

        with ExitStack() as stack:
            stack.enter_context(replaced(self._inner, "forward", watched_forward))
            stack.enter_context(replaced(self._inner, "embed_image", watched_image))
            stack.enter_context(replaced(self._model, "embed_prefix", watched_prefix))
            stack.enter_context(replaced(self._model, "forward", watched_losses))
            yield seen

    def _prefix(self, seen: _Seen, batch: Mapping[str, Any], cache: FlowCache | None) -> Prefix:
        kind = self._kinds(seen.images, batch[_LANGUAGE].shape[1], seen.tokens.shape[1])
        kept = kind == KIND_IMAGE if self._config.tokens == "image" else kind != KIND_LANGUAGE
        kept = kept.to(self.device)
        return Prefix(
            tokens=seen.tokens[:, kept].float(),
            mask=seen.mask[:, kept].bool(),
            kind=kind.to(self.device)[kept],
            cache=cache,
        )

    def _kinds(self, images: list[int], language: int, length: int) -> Tensor:
        """(M,) kinds: images, then language, then (SmolVLA) the state, then what fills the prefix up."""
        framed = getattr(self.policy.config, "add_image_special_tokens", False)
        kinds: list[int] = []
        for count in images:
            kinds += [KIND_LANGUAGE] * (2 * framed) + [KIND_IMAGE] * count + [KIND_LANGUAGE] * framed
        kinds += [KIND_LANGUAGE] * language
        if self._opened.folder.kind == SMOLVLA:
            kinds.append(KIND_PROPRIOCEPTION)
        kinds += [KIND_LANGUAGE] * (length - len(kinds))
        if len(kinds) != length:
            raise BackendError(f"a prefix of {length} tokens was expected to have {len(kinds)}: another LeRobot?")
        return torch.tensor(kinds)
