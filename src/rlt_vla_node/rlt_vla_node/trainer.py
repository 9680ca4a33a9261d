"""The two stages of the adaptation, one step at a time, and their complete state.

Every random draw comes from one generator, so the state (weights, optimisers, generator, counters) determines all
that follows: a run that was killed and resumed ends with the same weights as one that was not, on the same machine
and threads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from rlt_common.reading import parse_json
from rlt_vla_node.adapt_config import AdaptConfig
from rlt_vla_node.builtin import BuiltinBackend, BuiltinVla, ChunkBatch, pixels_from_bytes
from rlt_vla_node.resume import ResumeError
from rlt_vla_node.rl_token import RlToken

STAGES = ("pretraining", "adaptation")
SMOOTH_L1_BETA = 0.1
FINAL_LEARNING_RATE = 0.02
AVERAGE = 0.98
NOISE_BANK = 1 << 22
FEATURE_BATCH = 256


class AuxiliaryHead(nn.Module):
    """Reads the relative pose off EVERY final token, in training only; it is not part of the frozen model.

    `scale` (K,): the unit of each target value in the loss.
    """

    def __init__(self, width: int, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.linear = nn.Linear(width, scale.numel())

    def loss(self, tokens: Tensor, target: Tensor) -> Tensor:
        """Smooth L1 over the rows whose target (B, K) is known (not NaN)."""
        known = torch.isfinite(target).all(dim=1)
        if not bool(known.any()):
            return tokens.new_zeros(())
        wanted = (target[known] / self.scale)[:, None].expand(-1, tokens.shape[1], -1)
        return functional.smooth_l1_loss(self.linear(tokens[known]), wanted, beta=SMOOTH_L1_BETA)

    def estimate(self, tokens: Tensor) -> Tensor:
        """(B, K) in SI units: the mean over the tokens."""
        return self.linear(tokens).mean(dim=1) * self.scale


@dataclass(frozen=True)
class TrainingData:
    """Tensors of the frames to train on; `pose_*` are the pre-training images (may have no rows).

    images (N, C, H, W, 3) uint8; state (N, S), actions (N, H, d), target (N, K) float32 in SI units, NaN where unknown;
    pose_target has the same K.
    """

    images: Tensor
    state: Tensor
    actions: Tensor
    target: Tensor
    pose_images: Tensor
    pose_state: Tensor
    pose_target: Tensor

    def known_rows(self) -> Tensor:
        """Indices of the demonstration frames with a target."""
        known = torch.isfinite(self.target).all(dim=1) & (self.target.shape[1] > 0)
        return torch.nonzero(known).flatten()


class Trainer:
    """Runs the stages.

    Args:
        config: the numbers.
        data: the frames to train on.
        vla, token: models, already initialised and with their statistics set.
        auxiliary: the head of stage 0, or None where there are no targets.
        seed: of every random draw.
    """

    def __init__(
        self,
        config: AdaptConfig,
        data: TrainingData,
        vla: BuiltinVla,
        token: RlToken,
        auxiliary: AuxiliaryHead | None,
        seed: int,
    ) -> None:
        self.config, self.data = config, data
        self.vla, self.token, self.auxiliary = vla, token, auxiliary
        self.backend = BuiltinBackend(vla)
        self.stage, self.step = 0, 0
        self.losses: dict[str, float] = {}
        self._generator = torch.Generator().manual_seed(seed)
        bank = torch.Generator().manual_seed(seed + 1)
        self._noise_bank = torch.randn(NOISE_BANK, generator=bank)
        self._features: tuple[Tensor, Tensor] | None = None
        self._known = data.known_rows()
        self._begin(0 if self.stage_steps(0) else 1)
        self.first = (self.stage, self.step)

    def stage_steps(self, stage: int) -> int:
        """Steps of a stage; stage 0 has none without targets."""
        if stage == 1:
            return self.config.steps
        return self.config.pretraining_steps if self.auxiliary is not None else 0

    @property
    def done(self) -> bool:
        """Whether both stages are over."""
        return self.stage == 1 and self.step >= self.stage_steps(1)

    def advance(self) -> dict[str, float]:
        """One optimiser step. Returns its losses; `self.losses` has running means."""
        losses = self._pretraining_losses() if self.stage == 0 else self._adaptation_losses()
        total = sum(weight * loss for weight, loss in losses.values())
        self._set_learning_rate()
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(list(self._trained.values()), self.config.gradient_norm)
        self._optimiser.step()
        self.step += 1
        values = {name: float(loss.detach()) for name, (_, loss) in losses.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(
                f"losses {values} at step {self.step} of {STAGES[self.stage]}: lower learning_rate"
            )
        for name, value in values.items():
            self.losses[name] = AVERAGE * self.losses.get(name, value) + (1.0 - AVERAGE) * value
        if self.stage == 0 and self.step >= self.stage_steps(0):
            self._begin(1)
        return values

    # ---- stage 0: relative pose from every token, through stems and encoder

    def _pretraining_losses(self) -> dict[str, tuple[float, Tensor]]:
        data, size = self.data, self.config.pretraining_batch
        posed = 0 if not len(data.pose_images) else size // 2 if len(self._known) else size
        drawn = self._draw(len(data.pose_images), posed)
        rows = self._known[self._draw(len(self._known), size - posed)]
        images = torch.cat([data.images[rows], data.pose_images[drawn]])
        state = torch.cat([data.state[rows], data.pose_state[drawn]])
        target = torch.cat([data.target[rows], data.pose_target[drawn]])
        pixels = self._augmented(pixels_from_bytes(images))
        tokens = self.vla.mix(self.vla.see_pixels(pixels), self.vla.standardise(self._noisy(state)))
        return {"auxiliary": (1.0, self.auxiliary.loss(tokens, target))}

    # ---- stage 1: stems frozen; L_ro + alpha * L_vla + auxiliary

    def _adaptation_losses(self) -> dict[str, tuple[float, Tensor]]:
        data, config = self.data, self.config
        features, pose_features = self._cached_features()
        rows = self._draw(len(data.state), config.batch)
        actions = data.actions[rows]
        copies = config.flow_samples * len(rows)
        batch = ChunkBatch(
            features=features[rows],
            state=self._noisy(data.state[rows]),
            actions=actions,
            noise=torch.randn(copies, *actions.shape[1:], generator=self._generator),
            time=torch.rand(copies, generator=self._generator),
        )
        flow, tokens, mask = self.backend.training_losses(batch)
        target = data.target[rows]
        if config.pose_batch and len(pose_features):
            drawn = self._draw(len(pose_features), config.pose_batch)
            posed = self.vla.mix(pose_features[drawn], self.vla.standardise(self._noisy(data.pose_state[drawn])))
            tokens = torch.cat([tokens, posed])
            mask = torch.cat([mask, torch.ones_like(mask[:1]).expand(len(drawn), -1)])
            target = torch.cat([target, data.pose_target[drawn]])
        reconstruction = self.token.reconstruction_loss(
            tokens, mask, context_dropout=config.context_dropout, generator=self._generator
        )
        losses = {"flow": (config.alpha, flow), "reconstruction": (1.0, reconstruction)}
        if self.auxiliary is not None and config.auxiliary_weight and config.alpha:
            losses["auxiliary"] = (config.auxiliary_weight, self.auxiliary.loss(tokens, target))
        return losses

    def _cached_features(self) -> tuple[Tensor, Tensor]:
        if self._features is None:
            self._features = (self.features(self.data.images), self.features(self.data.pose_images))
        return self._features

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the frozen stems make of images (N, C, H, W, 3): (N, T, D)."""
        parts = [self.backend.features(part) for part in images.split(FEATURE_BATCH)]
        config = self.vla.config
        empty = torch.zeros(0, config.tokens - 1, config.width)
        return torch.cat([empty, *parts])

    # ---- parts of a step

    def _draw(self, count: int, size: int) -> Tensor:
        return torch.randint(max(1, count), (size,), generator=self._generator)

    def _noisy(self, state: Tensor) -> Tensor:
        noise = torch.randn(state.shape, generator=self._generator)
        return state + self.config.state_noise * self.vla.state_std * noise

    def _augmented(self, pixels: Tensor) -> Tensor:
        """Random brightness per camera, and pixel noise: a window of a fixed bank, since drawing it is too slow."""
        gain = torch.rand(*pixels.shape[:2], 1, 1, 1, generator=self._generator) - 0.5
        brighter = (pixels + 1.0) * (1.0 + self.config.image_gain * gain) - 1.0
        count = pixels.numel()
        repeated = (
            self._noise_bank.repeat(math.ceil(count / NOISE_BANK) + 1) if count >= NOISE_BANK else self._noise_bank
        )
        start = int(torch.randint(repeated.numel() - count, (1,), generator=self._generator))
        noise = torch.as_strided(repeated, pixels.shape, pixels.stride(), start)
        return brighter.add(noise, alpha=2.0 * self.config.image_noise)

    def _begin(self, stage: int) -> None:
        self.stage, self.step, self.losses = stage, 0, {}
        self._features = None
        self._trained = self._parameters(stage)
        for module in self._modules().values():
            module.requires_grad_(False)
        for parameter in self._trained.values():
            parameter.requires_grad_(True)
        self._optimiser = torch.optim.AdamW(
            list(self._trained.values()),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def _parameters(self, stage: int) -> dict[str, nn.Parameter]:
        """What a stage trains: 0 stems, encoder and auxiliary head; 1 all but the stems, and no VLA at alpha 0."""
        action_head = ("action", "decoder", "time_embedding")
        if stage == 0:
            kept = {n: p for n, p in self.vla.named_parameters() if not n.startswith(action_head)}
            return _prefixed("vla.", kept) | _prefixed("auxiliary.", dict(self.auxiliary.named_parameters()))
        trained = _prefixed("token.", dict(self.token.named_parameters()))
        if self.config.alpha:
            kept = {n: p for n, p in self.vla.named_parameters() if not n.startswith("stems")}
            trained |= _prefixed("vla.", kept)
            if self.auxiliary is not None:
                trained |= _prefixed("auxiliary.", dict(self.auxiliary.named_parameters()))
        return trained

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"vla": self.vla, "token": self.token}
        return modules if self.auxiliary is None else modules | {"auxiliary": self.auxiliary}

    def _set_learning_rate(self) -> None:
        share = self.step / self.stage_steps(self.stage)
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        rate = warm * (0.5 * (1.0 + math.cos(math.pi * share)) + FINAL_LEARNING_RATE)
        for group in self._optimiser.param_groups:
            group["lr"] = self.config.learning_rate * rate

    # ---- the complete state

    def state(self, identity: str) -> bytes:
        """Everything that determines the rest of the training. `identity` names configuration and data."""
        tensors = {"generator": self._generator.get_state()}
        for prefix, module in self._modules().items():
            tensors |= _prefixed(f"model.{prefix}.", module.state_dict())
        for name, parameter in self._trained.items():
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{key}.{name}"] = value
        facts = {"identity": identity, "stage": self.stage, "step": self.step, "losses": self.losses}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"facts": json.dumps(facts)})

    def restore(self, data: bytes, identity: str) -> None:
        """Go on from :meth:`state`. Raises ResumeError when the bytes are torn or of another training."""
        try:
            header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
            facts = parse_json(header["__metadata__"]["facts"])
            tensors = load(data)
            if facts["identity"] != identity:
                raise ResumeError("it is of another configuration, seed or data set: start without --resume")
            self._begin(int(facts["stage"]))
            for prefix, module in self._modules().items():
                module.load_state_dict(_stripped(f"model.{prefix}.", tensors))
            self.step = int(facts["step"])
            self.losses = {str(name): float(value) for name, value in facts["losses"].items()}
            self._generator.set_state(tensors["generator"])
            if self.step:
                for name, parameter in self._trained.items():
                    keys = ("step", "exp_avg", "exp_avg_sq")
                    self._optimiser.state[parameter] = {key: tensors[f"optimiser.{key}.{name}"] for key in keys}
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, ResumeError):
                raise
            raise ResumeError(f"it is torn or of another version ({error}): start without --resume") from error


def build_auxiliary(width: int, scale: Sequence[float], seed: int) -> AuxiliaryHead:
    """A randomly initialised head; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AuxiliaryHead(width, torch.tensor(scale, dtype=torch.float32))


def _prefixed(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in named.items()}


def _stripped(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in named.items() if name.startswith(prefix)}
