"""LeRobot's ACT behind VlaBackend: z is what its transformer's encoder gives; it draws no noise and takes no language.

One pass gives embeddings and chunk, so the chunk is what is kept for sampling. ACT trains as a variational autoencoder:
its encoder then sees a latent made of the actions, and dropout, which no robot gives it. So while it trains, z is taken
from a second pass without gradient, as it is when the policy runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rlt_vla_node.backend import KIND_IMAGE, KIND_PROPRIOCEPTION, BackendError, ObservationBatch, Prefix
from rlt_vla_node.lerobot_policy import LeRobotBackend, replaced
from rlt_vla_node.lerobot_processing import ACTION, ACTION_IS_PAD

KIND = "act"
_IMAGES = "observation.images"


class ActCache(NamedTuple):
    """The chunk of an encoded batch, and what its actions are relative to."""

    chunk: Tensor
    origin: Tensor | None


class ActBackend(LeRobotBackend):
    """See the module docstring."""

    @torch.no_grad()
    def encode(self, observation: ObservationBatch) -> Prefix:
        """See VlaBackend: the tokens of the images alone, or with those of latent and state (`tokens: all`)."""
        batch = self._samples(observation)
        with self._evaluating(), self._watching() as seen:
            chunk = self.policy.predict_action_chunk(batch)
        return self._prefix(seen[-1], ActCache(chunk, self._processing.origin()))

    @torch.no_grad()
    def sample_chunk(self, prefix: Prefix, *, steps: int, noise: Tensor) -> Tensor:
        """See VlaBackend: there is one chunk, whatever the steps and the noise."""
        return self._processing.finish(*prefix.cache)

    def training_losses(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """See TrainableBackend. L_vla is ACT's L1 over the rows that are not padded, and its weighted KL divergence."""
        facts = self.policy.config
        batch = {**batch, _IMAGES: [batch[key] for key in facts.image_features]}
        with self._watching() as seen:
            chunk, (mean, log_variance) = self.policy.model(batch)
            if self.policy.training:
                with torch.no_grad(), self._evaluating():
                    self.policy.model(batch)
        kept = ~batch[ACTION_IS_PAD].to(chunk.device)
        errors = functional.l1_loss(chunk, batch[ACTION], reduction="none") * kept[:, :, None]
        loss = errors.sum() / (kept.sum() * errors.shape[-1]).clamp_min(1)
        if mean is not None:
            divergence = -0.5 * (1.0 + log_variance - mean.square() - log_variance.exp())
            loss = loss + facts.kl_weight * divergence.sum(dim=-1).mean()
        prefix = self._prefix(seen[-1], None)
        return loss, prefix.tokens, prefix.mask

    def _noise_dim(self) -> int:
        return 0

    def _image_shape(self, shapes: list[tuple[int, int, int]]) -> tuple[int, int]:
        """ACT does not resize: images must have the size that it was trained on."""
        sizes = {tuple(shape[1:]) for shape in shapes}
        if len(sizes) > 1:
            raise BackendError(f"ACT was trained on images of several sizes ({sizes}); this backend takes one")
        return sizes.pop()

    def _check_absent(self, absent: list[str]) -> None:
        if absent:
            names = ", ".join(key.rpartition(".")[2] for key in absent)
            raise BackendError(f"cameras: ACT cannot do without {names}, which it was trained with")

    @contextmanager
    def _watching(self) -> Iterator[list[Tensor]]:
        """What the encoder gives, (B, S, D), pass by pass."""
        seen: list[Tensor] = []
        encoder = self.policy.model.encoder
        forward = encoder.forward

        def watched(*arguments: Any, **named: Any) -> Tensor:
            found = forward(*arguments, **named)
            seen.append(found.detach().transpose(0, 1))
            return found

        with replaced(encoder, "forward", watched):
            yield seen

    def _prefix(self, tokens: Tensor, cache: ActCache | None) -> Prefix:
        others = self.policy.model.encoder_1d_feature_pos_embed.num_embeddings
        kind = torch.full((tokens.shape[1],), KIND_IMAGE, device=tokens.device)
        kind[:others] = KIND_PROPRIOCEPTION
        if self._config.tokens == "image":
            tokens, kind = tokens[:, others:], kind[others:]
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Prefix(tokens=tokens.float(), mask=mask, kind=kind, cache=cache)
