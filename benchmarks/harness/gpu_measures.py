"""What `make bench-gpu` measures of one VLA, through the backend as the VLA node runs it.

Times are wall times, the GPU waited for at both ends.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.random_vlas import sizes, write_vla
from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.parameters import ParameterError
from rlt_common.vla_config import VlaConfig
from rlt_vla_node.backend import ObservationBatch, Prefix
from rlt_vla_node.backends import open_backend
from rlt_vla_node.latency_budget import QUANTILE, judge
from rlt_vla_node.rl_token import RlToken, RlTokenConfig, build_rl_token
from rlt_vla_node.vla_adapt_config import VlaAdaptConfig

FLOW_STEPS = (10, 5)
"""LeRobot's and the VLA node's."""
GROUP = 16
"""Strided observations in a batch, as the VLA node takes them."""
WARM_UP = 5
GB = 1e9


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    tiny: bool
    n: int
    batches: tuple[int, ...]
    training_steps: int


FULL = Size(tiny=False, n=50, batches=(1, 2, 4, 8, 16, 32), training_steps=12)
QUICK = Size(tiny=True, n=3, batches=(1, 2), training_steps=3)


class Vla:
    """A VLA with random weights, opened as a user's is, and an RL token of `adapt`'s default shape beside it."""

    def __init__(self, root: Path, kind: str, device: str, size: Size) -> None:
        self.kind, self.device, self.size, self.root = kind, device, size, root
        with sizes(kind, size.tiny):
            started = time.perf_counter()
            self.config: VlaConfig = write_vla(root, kind, device, size.tiny)
            self.write_s = time.perf_counter() - started
            self.free()
            started = time.perf_counter()
            self.backend: Any = open_backend(self.config)
            self.load_s = time.perf_counter() - started
        self.weights_gb = allocated(device)
        spec, defaults = self.backend.spec, VlaAdaptConfig()
        shape = RlTokenConfig(
            spec.embed_dim,
            spec.max_tokens,
            spec.embed_dim,
            defaults.encoder_blocks,
            defaults.decoder_blocks,
            defaults.heads,
        )
        self.token: RlToken = build_rl_token(shape, 0).to(device).eval()
        self.strided_s = 0.0
        self.eager: dict[str, Tensor] = {}

    def free(self) -> None:
        """Give back what nothing holds any more."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def seen(self, count: int, seed: int = 0) -> ObservationBatch:
        """Made-up observations: 224 x 224 pixels, as the camera ingest passes them on."""
        generator = torch.Generator().manual_seed(seed)
        spec, pixels = self.backend.spec, 32 if self.size.tiny else 224
        shape = (count, len(spec.camera_keys), pixels, pixels, 3)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return ObservationBatch(images, 0.1 * torch.randn(count, spec.state_dim, generator=generator))

    def noise(self, count: int, seed: int = 1) -> Tensor:
        """Flow noise."""
        spec = self.backend.spec
        return torch.randn(count, spec.horizon, spec.noise_dim, generator=torch.Generator().manual_seed(seed))

    def boundary(self, backend: Any, seen: ObservationBatch, noise: Tensor, steps: int) -> dict[str, Tensor]:
        """What the VLA node makes of an observation: embeddings, RL token and chunk, these two on the CPU."""
        with torch.inference_mode():
            prefix, chunk = backend.encode_and_sample(seen, steps=steps, noise=noise)
            token = self.token.represent(seen, prefix)
            return {"z": prefix.tokens, "rl_token": token.cpu(), "chunk": chunk.cpu()}

    def strided(self, seen: ObservationBatch) -> Tensor:
        """RL tokens of observations whose chunk nobody waits for, without a chunk."""
        with torch.inference_mode():
            return self.token.represent(seen, self.backend.encode(seen)).cpu()


def opened(vla: Vla) -> dict[str, Any]:
    """What opening cost, and what it is."""
    spec, module = vla.backend.spec, vla.backend.module
    folder = vla.root / vla.kind
    return {
        "versions": {name: version(name) for name in ("lerobot", "transformers")},
        "values": sum(p.numel() for p in module.parameters()),
        "token_values": sum(p.numel() for p in vla.token.parameters()),
        "disk_gb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GB,
        "write_s": vla.write_s,
        "load_s": vla.load_s,
        "weights_gb": vla.weights_gb,
        "host_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB,
        "tokens": spec.max_tokens,
        "width": spec.embed_dim,
        "horizon": spec.horizon,
    }


def exactness(vla: Vla) -> dict[str, Any]:
    """The chunk against LeRobot's own, the same observation twice, and a row of a batch against the row alone."""
    seen, noise = vla.seen(1), vla.noise(1)
    first, second = (vla.boundary(vla.backend, seen, noise, FLOW_STEPS[0]) for _ in range(2))
    vla.eager = first
    found = {
        "chunk_error": difference(first["chunk"], native_chunk(vla, seen, noise)),
        "chunk_spread": float(first["chunk"].std()),
        "repeats": {name: bool(torch.equal(first[name], second[name])) for name in first},
    }
    rows = 2 if vla.size.tiny else 8
    many, noises = vla.seen(rows), vla.noise(rows)
    together = vla.boundary(vla.backend, many, noises, FLOW_STEPS[0])
    worst = dict.fromkeys(together, 0.0)
    for i in range(rows):
        alone = vla.boundary(vla.backend, many.rows([i]), noises[i : i + 1], FLOW_STEPS[0])
        for name in worst:
            worst[name] = max(worst[name], relative(alone[name], together[name][i : i + 1]))
    return {**found, "batch": rows, "batch_error": worst}


def native_chunk(vla: Vla, seen: ObservationBatch, noise: Tensor) -> Tensor:
    """The chunk of LeRobot's own predict_action_chunk between its own pipelines, with the weights that are loaded."""
    from rlt_vla_node.lerobot_packages import lerobot_module

    folder = vla.root / vla.kind
    pipeline, convert = lerobot_module("processor").PolicyProcessorPipeline, lerobot_module("processor.converters")
    overrides = {
        "tokenizer_processor": {"tokenizer_name": str(folder / "vlm")},
        "device_processor": {"device": vla.device},
    }
    before = pipeline.from_pretrained(folder, "policy_preprocessor.json", overrides=overrides)
    after = pipeline.from_pretrained(
        folder,
        "policy_postprocessor.json",
        to_transition=convert.policy_action_to_transition,
        to_output=convert.transition_to_policy_action,
    )
    batch: dict[str, Any] = {
        f"observation.images.{name}": seen.images[:, i].permute(0, 3, 1, 2).float() / 255.0
        for i, name in enumerate(vla.config.cameras)
    }
    batch |= {"observation.state": seen.state.clone(), "task": [vla.config.instruction] * len(seen.state)}
    with torch.inference_mode():
        return after(vla.backend.policy.predict_action_chunk(before(batch), noise=noise.to(vla.device))).float().cpu()


def latency(vla: Vla, products: str, robot: RobotConfig, task: TaskConfig) -> dict[str, Any]:
    """Encoding, RL token and boundary of one observation; `products`: torch's precision of float32 products."""
    seen, noise, backend = vla.seen(1), vla.noise(1), vla.backend
    with products_of(products):
        found = {"encode_ms": timed(vla, lambda: encoded(backend, seen))}
        prefix = encoded(backend, seen)

        def represent() -> None:
            with torch.inference_mode():
                vla.token.represent(seen, prefix)

        found["token_ms"] = timed(vla, represent)
        found |= boundaries(vla, backend, seen, noise)
        if vla.eager:
            given = vla.boundary(backend, seen, noise, FLOW_STEPS[0])
            found["difference"] = {name: relative(vla.eager[name], given[name]) for name in given}
    return with_verdicts(vla, found, robot, task)


def compiled(vla: Vla, mode: str, products: str, robot: RobotConfig, task: TaskConfig) -> dict[str, Any]:
    """The boundary with the option `compile`: how long the first calls take, and what it then costs."""
    from rlt_vla_node.lerobot_flow import FlowBackend

    torch._dynamo.reset()
    vla.free()
    seen, noise = vla.seen(1), vla.noise(1)
    with products_of(products):
        started = time.perf_counter()
        backend = FlowBackend(vla.backend._opened, mode)  # the weights that are loaded already
        backend.warm_up((1,))
        for _ in range(2):
            given = vla.boundary(backend, seen, noise, FLOW_STEPS[0])
        compile_s = time.perf_counter() - started
        again = vla.boundary(backend, seen, noise, FLOW_STEPS[0])
        found = {
            "compile_s": compile_s,
            "repeats": {name: bool(torch.equal(given[name], again[name])) for name in given},
            "difference": {name: relative(vla.eager[name], given[name]) for name in given if vla.eager},
            **boundaries(vla, backend, seen, noise),
        }
    return with_verdicts(vla, found, robot, task)


def encoded(backend: Any, seen: ObservationBatch) -> Prefix:
    """One prefix pass."""
    with torch.inference_mode():
        return backend.encode(seen)


def boundaries(vla: Vla, backend: Any, seen: ObservationBatch, noise: Tensor) -> dict[str, Any]:
    """Times of a boundary observation by the number of flow steps, and the memory it takes at most."""
    reset_peak(vla.device)
    times = {
        str(steps): timed(vla, lambda steps=steps: vla.boundary(backend, seen, noise, steps)) for steps in FLOW_STEPS
    }
    return {"boundary_ms": times, "peak_gb": peak(vla.device)}


def strided(vla: Vla, count: int) -> dict[str, Any]:
    """Batches of `count` observations: encoding and RL token, without a chunk."""
    seen = vla.seen(count)
    reset_peak(vla.device)
    ms = timed(vla, lambda: vla.strided(seen), max(3, vla.size.n // count))
    if count == GROUP or not vla.strided_s:
        vla.strided_s = ms["p50"] / 1e3 / count
    return {"batch": count, "batch_ms": ms, "per_s": count / ms["p50"] * 1e3, "peak_gb": peak(vla.device)}


def training(vla: Vla, train: str) -> dict[str, Any]:
    """Steps of `adapt --vla` at batch 8: the RL token beside a frozen VLA, or with adapters (LoRA) in it."""
    from rlt_vla_node.vla_trainer import VlaTrainer

    batch = 2 if vla.size.tiny else 8
    token = build_rl_token(vla.token.config, 0).to(vla.device)
    steps = vla.size.training_steps
    config = VlaAdaptConfig(train=train, steps=steps, batch=batch, workers=0, warmup_steps=1)
    vla.free()
    reset_peak(vla.device)
    trainer = VlaTrainer(config, vla.backend, token, Samples(vla, 2 * batch), 0)
    seconds, started = [], time.perf_counter()
    for _ in trainer.run():
        sync(vla.device)
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    found = {
        "train": train,
        "batch": batch,
        "precision": config.precision,
        "values": trainer.trained_values,
        "step_ms": percentiles(seconds[steps // 4 :]),
        "reconstruction": trainer.losses["reconstruction"],
        "peak_gb": peak(vla.device),
    }
    trainer.finish()
    return found


class Samples(Dataset):
    """Made-up samples of demonstrations, with LeRobot's names."""

    def __init__(self, vla: Vla, count: int) -> None:
        seen, spec = vla.seen(count, seed=2), vla.backend.spec
        self.images = seen.images.permute(0, 1, 4, 2, 3).float() / 255.0
        self.state, self.cameras = seen.state, spec.camera_keys
        self.actions = 0.1 * torch.randn(
            count, spec.horizon, spec.action_dim, generator=torch.Generator().manual_seed(3)
        )
        self.instruction = vla.config.instruction

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, i: int) -> dict[str, Any]:
        images = {f"observation.images.{name}": self.images[i, c] for c, name in enumerate(self.cameras)}
        return {
            **images,
            "observation.state": self.state[i],
            "action": self.actions[i],
            "action_is_pad": torch.zeros(len(self.actions[i]), dtype=torch.bool),
            "task": self.instruction,
        }


def with_verdicts(vla: Vla, found: Mapping[str, Any], robot: RobotConfig, task: TaskConfig) -> dict[str, Any]:
    """What the node's own judgement makes of the times."""
    verdicts = {
        steps: verdict(robot, task, ms["p95"] / 1e3, vla.strided_s) for steps, ms in found["boundary_ms"].items()
    }
    return {**found, "verdicts": verdicts}


def verdict(robot: RobotConfig, task: TaskConfig, boundary_s: float, strided_s: float) -> dict[str, Any]:
    """`latency_budget.judge` of a boundary's p95: steps to ask ahead, and what is wrong once they are asked for so."""
    needed = judge(robot, task, boundary_s, strided_s).prefetch_steps
    try:
        asked = judge(robot, replace(task, prefetch_steps=needed), boundary_s, strided_s)
    except ParameterError as error:
        return {"prefetch_steps": needed, "fits": False, "problems": [str(error)], "notes": []}
    return {
        "prefetch_steps": needed,
        "fits": not asked.problems,
        "problems": list(asked.problems),
        "notes": list(asked.notes),
    }


# ---- times, memory, errors


def timed(vla: Vla, work: Callable[[], object], n: int = 0) -> dict[str, float]:
    """Percentiles of `n` runs after WARM_UP others, ms."""
    n = n or vla.size.n
    seconds = []
    for _ in range(n + min(n, WARM_UP)):
        sync(vla.device)
        started = time.perf_counter()
        work()
        sync(vla.device)
        seconds.append(time.perf_counter() - started)
    return percentiles(seconds[-n:])


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and the quantile that the latency budget is judged by, ms."""
    p50, p95 = np.quantile(np.array(seconds) * 1e3, (0.5, QUANTILE))
    return {"p50": float(p50), "p95": float(p95), "n": len(seconds)}


@contextmanager
def products_of(precision: str) -> Iterator[None]:
    """Precision of float32 matrix products in torch: highest (float32) or high (TF32 on a GPU)."""
    own = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(own)


def sync(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def allocated(device: str) -> float | None:
    """Memory that tensors hold, GB; None on a CPU."""
    return None if device == "cpu" else torch.cuda.memory_allocated() / GB


def reset_peak(device: str) -> None:
    """Begin to look for the peak of the memory."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> float | None:
    """The most that tensors held since `reset_peak`, weights included, GB; None on a CPU."""
    return None if device == "cpu" else torch.cuda.max_memory_allocated() / GB


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a.float() - b.to(a.device).float()).abs().max())


def relative(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference over the spread of the first."""
    a, b = a.float(), b.to(a.device).float()
    return float((a - b).square().mean().sqrt() / a.std().clamp_min(1e-12))
