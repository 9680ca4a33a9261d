"""Training the RL token, and the VLA with it, on any number of processes: one step at a time, and the complete state.

Accelerate brings the processes together (`accelerate launch`, torchrun); gradients are averaged over them. Which
samples a step takes and every random draw are functions of seed, step and rank, so weights, optimiser and the number of
steps are all there is to a state: on CPUs a run that was killed and resumed ends with the same weights as one that was
not, on the same machines and threads. On GPUs it goes on from the same state, but torch's sums there may come out in
another order, as they may in a run that was not killed.

A policy computes in the numbers it was opened in, so that z is that of the robot. Of trained weights in bfloat16 there
are float32 masters, which the optimiser steps and the average follows: in bfloat16 itself, a step of less than about
0.2 % of a weight would be rounded away.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.utils.data import Dataset

from rlt_common.atomic import rename_durable
from rlt_common.reading import parse_json
from rlt_vla_node.backend import ObservationBatch, VlaBackend
from rlt_vla_node.lerobot_packages import extra_module
from rlt_vla_node.resume import ResumeError
from rlt_vla_node.rl_token import RlToken
from rlt_vla_node.step_sampler import StepSampler, draw_seed, step_loader
from rlt_vla_node.vla_adapt_config import FROZEN, LORA, VlaAdaptConfig

AVERAGE = 0.98
FINAL_LEARNING_RATE = 0.02
_CHECKPOINTING = "gradient_checkpointing_enable"
_OPTIMISER_KEYS = ("step", "exp_avg", "exp_avg_sq")


class TrainingError(RuntimeError):
    """A VLA that cannot be trained in the way that was asked for; says why."""


class JointLoss(nn.Module):
    """L_vla and L_ro of a batch of samples in one pass; the token's loss gives the VLA no gradient (Eq. 2)."""

    def __init__(self, backend: VlaBackend, token: RlToken, config: VlaAdaptConfig) -> None:
        super().__init__()
        self._backend, self._config = (backend,), config  # in a tuple: a backend that is a module would count twice
        self.token = token
        if config.train != FROZEN:
            self.vla = backend.module

    def forward(self, samples: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(L_vla, L_ro); L_vla is 0 of a frozen VLA."""
        (backend,) = self._backend
        if self._config.train == FROZEN:
            with torch.no_grad():
                prefix = backend.encode(observations_of(backend, samples))
            flow, tokens, mask = None, prefix.tokens, prefix.token_mask()
        else:
            flow, tokens, mask = backend.training_losses(backend.training_batch(samples))
        reconstruction = self.token.reconstruction_loss(
            tokens.detach().float(), mask, context_dropout=self._config.context_dropout
        )
        return reconstruction.new_zeros(()) if flow is None else flow, reconstruction


def observations_of(backend: VlaBackend, samples: Mapping[str, Any]) -> ObservationBatch:
    """Samples of a data loader as a backend's observations."""
    names = backend.spec.camera_keys
    images = [samples[f"observation.images.{name}"] for name in names]
    stacked = torch.stack(images, dim=1).movedim(2, -1)
    state = samples["observation.state"].float()
    return ObservationBatch((stacked * 255.0).round().to(torch.uint8).cpu(), state.cpu())


class VlaTrainer:
    """See the module docstring.

    Args:
        config: the numbers.
        backend: the VLA; a TrainableBackend unless it stays frozen.
        token: the RL token, on the device that is trained on: the VLA's own, where the VLA is in this process.
        samples: what is trained on, a map-style data set.
        seed: of every random draw.
    """

    def __init__(
        self, config: VlaAdaptConfig, backend: VlaBackend, token: RlToken, samples: Dataset, seed: int
    ) -> None:
        self.config, self.backend, self.token, self.seed = config, backend, token, seed
        self.step = 0
        self.losses: dict[str, float] = {}
        self._samples = samples
        unused = DistributedDataParallelKwargs(find_unused_parameters=config.train != FROZEN)
        device = token.readout.device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # Accelerate works on the current one
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.precision == "bfloat16" else "no",
            kwargs_handlers=[unused],
            cpu=device.type == "cpu",
        )
        if self.accelerator.distributed_type not in (
            DistributedType.NO,
            DistributedType.MULTI_CPU,
            DistributedType.MULTI_GPU,
        ):
            raise TrainingError(
                f"accelerate is configured for {self.accelerator.distributed_type.value}: adaptation runs on one "
                "or more processes with whole models (MULTI_GPU)"
            )
        self._main = self.accelerator.is_main_process
        self._prepare_vla()
        joint = JointLoss(backend, token, config).to(self.accelerator.device)
        self._trained = {name: p for name, p in joint.named_parameters() if p.requires_grad}
        self._joint = self.accelerator.prepare(joint)  # from here on the processes have the same weights
        self._masters = {n: p if p.dtype == torch.float32 else p.detach().float() for n, p in self._trained.items()}
        groups = [
            {
                "params": [p for n, p in self._masters.items() if n.startswith("token.")],
                "top": config.token_learning_rate,
            },
            {"params": [p for n, p in self._masters.items() if n.startswith("vla.")], "top": config.learning_rate},
        ]
        self._optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, weight_decay=config.weight_decay
        )
        self._buffers = {} if config.train == FROZEN else dict(joint.named_buffers())
        self._average = {n: p.detach().clone() for n, p in self._masters.items()} if config.ema else {}

    @property
    def main(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self._main

    @property
    def trained_values(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self._trained.values())

    @property
    def done(self) -> bool:
        """Whether all steps are over."""
        return self.step >= self.config.steps

    def run(self) -> Iterator[int]:
        """Train from the current step to the end; yields the number of steps done after each."""
        config, accelerator = self.config, self.accelerator
        sampler = StepSampler(
            len(self._samples),
            config.batch,
            config.accumulate,
            accelerator.num_processes,
            accelerator.process_index,
            self.seed,
            self.step,
            config.steps,
        )
        loader = iter(step_loader(self._samples, sampler, config.workers))
        while not self.done:
            self._advance(loader)
            yield self.step

    def _advance(self, loader: Iterator[Mapping[str, Any]]) -> None:
        config, accelerator = self.config, self.accelerator
        self._joint.train()
        self._set_learning_rates()
        self._optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for micro in range(config.accumulate):
            torch.manual_seed(draw_seed(self.seed, self.step, micro, accelerator.process_index))
            last = micro == config.accumulate - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self._joint):
                with accelerator.autocast():
                    flow, reconstruction = self._joint(next(loader))
                loss = reconstruction if config.train == FROZEN else reconstruction + config.alpha * flow
                accelerator.backward(loss / config.accumulate)
            for name, loss in (("flow", flow), ("reconstruction", reconstruction)):
                sums[name] = sums.get(name, 0.0) + loss.detach().float() / config.accumulate
        self._hand_gradients_to_masters()
        norm = accelerator.clip_grad_norm_(list(self._masters.values()), config.gradient_norm)
        self._optimiser.step()
        self._round_masters()
        self.step += 1
        self._update_average()
        values = {n: float(v) for n, v in accelerator.reduce(sums, "mean").items()} | {"gradient_norm": float(norm)}
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(f"losses {values} at step {self.step}: lower the learning rates")
        for name, value in values.items():
            if name != "flow" or config.train != FROZEN:
                self.losses[name] = AVERAGE * self.losses.get(name, value) + (1.0 - AVERAGE) * value

    def finish(self) -> None:
        """Make the weights the final ones: averaged, adapters merged; in evaluation mode. The processes part.

        Moments, gradients, masters and averages are let go of: a second policy is opened after this.
        """
        if self.config.ema:
            with torch.no_grad():
                for name, parameter in self._trained.items():
                    parameter.copy_(self._average[name])  # rounded to the policy's own numbers
        if self.config.train == LORA:
            self._lora.merge_and_unload()
        for module in (self.token, *(() if self.config.train == FROZEN else (self.backend.module,))):
            module.eval()
        for parameter in self._trained.values():
            parameter.grad = None
        self.accelerator.wait_for_everyone()
        # _joint too: what still holds the group when Python ends would abort the process
        del self._joint, self._optimiser, self._masters, self._average, self._trained
        self.accelerator.free_memory()
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _prepare_vla(self) -> None:
        if self.config.train == FROZEN:
            self.token.requires_grad_(True)
            return
        if not hasattr(self.backend, "training_losses"):
            raise TrainingError(
                f"a VLA of backend {self.backend.spec.name} is not trained here: train: frozen trains the RL token "
                "alone"
            )
        module = self.backend.module
        if self.config.gradient_checkpointing:
            # LeRobot's pi0 and pi0.5 have it in the model within the policy
            parts = [part for part in (module, getattr(module, "model", None)) if hasattr(part, _CHECKPOINTING)]
            if not parts:
                raise TrainingError(f"{type(module).__name__} has no gradient checkpointing: leave it off")
            getattr(parts[0], _CHECKPOINTING)()
        if self.config.train == LORA:
            self._lora = _with_adapters(module, self.config, self.seed + 2)
        self.token.requires_grad_(True)

    def _set_learning_rates(self) -> None:
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        rate = warm * (0.5 * (1.0 + math.cos(math.pi * self.step / config.steps)) + FINAL_LEARNING_RATE)
        for group in self._optimiser.param_groups:
            group["lr"] = group["top"] * rate

    def _hand_gradients_to_masters(self) -> None:
        for name, parameter in self._trained.items():
            if self._masters[name] is not parameter and parameter.grad is not None:
                self._masters[name].grad, parameter.grad = parameter.grad.float(), None

    @torch.no_grad()
    def _round_masters(self) -> None:
        for name, parameter in self._trained.items():
            if self._masters[name] is not parameter:
                parameter.copy_(self._masters[name])

    @torch.no_grad()
    def _update_average(self) -> None:
        if not self.config.ema:
            return
        decay = min(self.config.ema, (1.0 + self.step) / (10.0 + self.step))
        for name, master in self._masters.items():
            self._average[name].lerp_(master, 1.0 - decay)

    # ---- the complete state

    def save(self, path: Path, identity: str) -> None:
        """Write all that determines the rest of the training, whole or not at all. `identity` names what it is of."""
        self.accelerator.wait_for_everyone()
        if not self.main:
            return
        tensors = {f"trained.{name}": p.detach() for name, p in self._masters.items()}
        tensors |= {f"buffer.{name}": b for name, b in self._buffers.items()}
        tensors |= {f"average.{name}": p for name, p in self._average.items()}
        for name, master in self._masters.items():
            for key, value in self._optimiser.state.get(master, {}).items():
                tensors[f"optimiser.{key}.{name}"] = value
        stepped = [name for name, master in self._masters.items() if self._optimiser.state.get(master)]
        facts = {"identity": identity, "step": self.step, "losses": self.losses, "stepped": stepped}
        partial = path.with_name(f".{path.name}.part")
        save_file({n: t.contiguous().cpu() for n, t in tensors.items()}, partial, {"facts": json.dumps(facts)})
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        rename_durable(partial, path)

    def main_says(self, answer: bool) -> bool:
        """The main process's answer; every process has to ask."""
        return bool(self._gathered(int(answer))[0])

    def resume(self, path: Path, identity: str) -> bool:
        """Go on from the state in `path`, where there is one; every process has to, since all need the same.

        Returns whether there was one. Raises ResumeError in every process where one cannot, or has another state.
        """
        found, failure = False, None
        try:
            found = path.exists()
            if found:
                self.restore(path, identity)
        except ResumeError as error:
            failure = error
        except OSError as error:
            failure = ResumeError(f"it cannot be read: {error.strerror or error}")
        facts = json.dumps([found, failure is None, self.step, self.losses]).encode()
        marks = self._gathered(int.from_bytes(hashlib.sha256(facts).digest()[:7], "big"))
        if failure is not None:
            raise failure
        if len(set(marks)) > 1:
            raise ResumeError(
                "not all processes found it, or found the same: copy that of the first machine to this place on every "
                "machine, or start without --resume"
            )
        return found

    def _gathered(self, value: int) -> list[int]:
        """The values (of 63 bits) of all processes in order, the main one's first."""
        mine = torch.tensor([value], dtype=torch.int64, device=self.accelerator.device)
        return self.accelerator.gather(mine).tolist()

    @torch.no_grad()
    def restore(self, path: Path, identity: str) -> None:
        """Go on from :meth:`save`. Raises ResumeError when the file is torn or of another training."""
        try:
            with safe_open(path, "pt") as file:
                facts = parse_json(file.metadata()["facts"])
                if facts["identity"] != identity:
                    raise ResumeError("it is of another configuration, seed, VLA or data set: start without --resume")
                for prefix, own in (("trained", self._masters), ("buffer", self._buffers), ("average", self._average)):
                    for name, tensor in own.items():
                        tensor.copy_(file.get_tensor(f"{prefix}.{name}"))
                self._round_masters()
                self.step = int(facts["step"])
                self.losses = {str(name): float(value) for name, value in facts["losses"].items()}
                for name in facts["stepped"]:  # what no gradient reaches has no moments
                    master = self._masters[name]
                    state = {key: file.get_tensor(f"optimiser.{key}.{name}") for key in _OPTIMISER_KEYS}
                    moments = {k: v if k == "step" else v.to(master.device) for k, v in state.items()}
                    self._optimiser.state[master] = moments
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, ResumeError):
                raise
            raise ResumeError(f"it is torn or of another version ({error}): start without --resume") from error


def adapted_layers(module: nn.Module) -> list[str]:
    """Names of the linear layers that adapters go into: all but those in which no gradient would reach them.

    nn.MultiheadAttention reads its out_proj's weights without calling it; a flow policy has no use for the words that
    its VLM's lm_head gives.
    """
    layers = dict(module.named_modules())
    attention = {f"{name}.out_proj" for name, layer in layers.items() if isinstance(layer, nn.MultiheadAttention)}
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) and name not in attention]
    return [name for name in linear if name.rpartition(".")[2] != "lm_head"]


def _with_adapters(module: nn.Module, config: VlaAdaptConfig, seed: int) -> Any:
    """Put adapters into the linear layers of a module; what is trained is theirs alone (peft)."""
    try:
        peft = extra_module("peft")
    except ImportError as error:
        raise TrainingError(f"train: lora needs the package peft ({error}): `make extras` installs it") from error
    layers = adapted_layers(module)
    shape = peft.LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=layers, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.LoraModel(module, shape, "default")
