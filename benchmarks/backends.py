"""`make bench-backends`: each VLA backend held against the policy's own code, and what it costs.

Real weights and GPUs are not part of this: policies of LeRobot are its own code with tiny random weights, those behind
a server are tiny random policies of the same structure, in a process of their own, and each row says so. What a
pretrained VLA will take is told by its own start (`prefetch_steps_needed` in /diagnostics). The RL token's cost beside
a VLA of pi0.5's real size is counted in floating point operations, without its weights. QUICK=1 repeats less.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from harness.critical_phase import random_model
from harness.idle_policy_server import round_trips
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from rlt_bringup.graph import config_file
from rlt_common.config import load_robot, load_task
from rlt_vla_node.backend import ObservationBatch, VlaBackend
from rlt_vla_node.backends import open_backend
from rlt_vla_node.builtin import ChunkBatch
from rlt_vla_node.rl_token import RlToken, RlTokenConfig, build_rl_token

NAME = "backends"
TESTS = Path(__file__).resolve().parents[1] / "src" / "rlt_vla_node" / "test"
"""The tiny policies that the tests make."""
STEPS = 10
REPEATS, QUICK_REPEATS = 20, 3
TRIPS, QUICK_TRIPS = 500, 20
KINDS = ("builtin", "smolvla", "act", "pi0", "pi05", "openpi", "gr00t")
WRITERS = {"smolvla": "write_smolvla", "act": "write_act"}
PIXELS = {"act": 16}
CHUNK_GOAL, TOKEN_GOAL = 1e-5, 0.1


def measure(kind: str, repeats: int) -> dict[str, Any]:
    """One row, in a process of its own: its memory is its peak."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(TESTS))
    row: dict[str, Any] = {"kind": "backend", "backend": kind, "versions": versions(kind)}
    try:
        row |= {"builtin": _builtin, "openpi": _served, "gr00t": _served}.get(kind, _lerobot)(kind, repeats)
    except NotRunError as reason:
        row |= {"ran": f"not run: {reason}"}
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


class NotRunError(RuntimeError):
    """A backend that this machine cannot run; says why."""


def versions(kind: str) -> str:
    """Of the packages that a backend is tested with."""
    names = {"openpi": ["websockets", "msgpack"], "gr00t": ["pyzmq", "msgpack"], "builtin": ["torch"]}
    found = []
    for name in names.get(kind, ["lerobot", "transformers", "torch"]):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def _builtin(kind: str, repeats: int) -> dict[str, Any]:
    robot, task = load_robot(config_file("robots", "sim")), load_task(config_file("tasks", "screw"))
    backend = random_model(robot, task, 0).backend
    seen, noise = _made_up(backend), _noise(backend)
    model = backend.model
    with torch.inference_mode():
        tokens = model.mix(model.see(seen.images), model.standardise(seen.state))
        native = model.flow(tokens, noise, STEPS)
        zeros = torch.zeros(1, model.config.horizon, model.config.action_dim)
        batch = ChunkBatch(backend.features(seen.images), seen.state, zeros, noise, torch.zeros(1))
        _, z, _ = backend.training_losses(batch)
    return {"ran": "random weights, real size", **_figures(backend, seen, noise, native, z, repeats)}


def _lerobot(kind: str, repeats: int) -> dict[str, Any]:
    try:
        import tiny_lerobot as tiny
        from lerobot_native import Native, made_up
    except ImportError as error:
        raise NotRunError(f"{error}; `make extras` installs it") from error
    if kind.startswith("pi") and version("transformers").startswith("4."):
        raise NotRunError("pi0 and pi0.5 need lerobot >= 0.6.1 with transformers 5, and these Python 3.12")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        if kind in WRITERS:
            getattr(tiny, WRITERS[kind])(root / kind)
        else:
            stack.enter_context(tiny.tiny_pi(kind))
            tiny.write_pi(root / kind, kind)
        backend = open_backend(tiny.vla_file(root, kind))
        seen, noise = made_up(1, PIXELS.get(kind, 24)), _noise(backend)
        native = Native(root / kind, kind)
        wanted = native.chunk(seen, ["top", "hand"], tiny.INSTRUCTION, noise if backend.spec.noise_dim else None)
        samples = {
            **{
                f"observation.images.{name}": seen.images[:, i].permute(0, 3, 1, 2).float() / 255
                for i, name in enumerate(backend.spec.camera_keys)
            },
            "observation.state": seen.state,
            "action": torch.zeros(1, backend.spec.horizon, backend.spec.action_dim),
            "action_is_pad": torch.zeros(1, backend.spec.horizon, dtype=torch.bool),
            "task": [tiny.INSTRUCTION],
        }
        with torch.no_grad():
            _, z, _ = backend.training_losses(backend.training_batch(samples))
        return {"ran": "LeRobot's code, tiny random weights", **_figures(backend, seen, noise, wanted, z, repeats)}


def _served(kind: str, repeats: int) -> dict[str, Any]:
    from remote_rig import vla_config
    from server_process import ServerProcess
    from tiny_policies import PROMPT, TinyOpenpi

    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(kind, Path(folder) / "log")
        server.start()
        try:
            backend = open_backend(vla_config(kind, server.port))
            seen, noise = _made_up(backend, 16), _noise(backend)
            native = None
            if kind == "openpi":
                images = {
                    n: seen.images[0, i].permute(2, 0, 1).numpy() for i, n in enumerate(("cam_high", "cam_left_wrist"))
                }
                data = {"state": seen.state[0].numpy(), "images": images, "prompt": PROMPT}
                native = torch.from_numpy(TinyOpenpi().infer(data, noise[0].numpy(), STEPS))[None]
            ran = "tiny random policy of its structure in our wrapper, a process of its own"
            return {"ran": ran, **_figures(backend, seen, noise, native, None, repeats)}
        finally:
            server.close()


def _made_up(backend: VlaBackend, pixels: int = 64) -> ObservationBatch:
    spec, generator = backend.spec, torch.Generator().manual_seed(0)
    height, width = spec.image_shape or (pixels, pixels)
    shape = (1, len(spec.camera_keys), height, width, 3)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return ObservationBatch(images, 0.1 * torch.randn(1, spec.state_dim, generator=generator))


def _noise(backend: VlaBackend) -> Tensor:
    spec = backend.spec
    return torch.randn(1, spec.horizon, spec.noise_dim, generator=torch.Generator().manual_seed(1))


def _figures(
    backend: VlaBackend, seen: ObservationBatch, noise: Tensor, native: Tensor | None, z: Tensor | None, repeats: int
) -> dict[str, Any]:
    """Errors against the policy's own chunk and the training pass's z; times of encoding, chunk and RL token, ms."""
    spec = backend.spec
    heads = next(n for n in (8, 4, 2, 1) if spec.embed_dim % n == 0)
    shape = RlTokenConfig(
        spec.embed_dim, spec.max_tokens, spec.embed_dim, encoder_blocks=2, decoder_blocks=2, heads=heads
    )
    token = build_rl_token(shape, 0).eval()
    times: dict[str, list[float]] = {"encode": [], "both": [], "token": []}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        times[name].append((time.perf_counter() - started) * 1e3)
        return result

    with torch.inference_mode():
        for _ in range(repeats + 1):
            prefix = timed("encode", lambda: backend.encode(seen))
            prefix, chunk = timed("both", lambda: backend.encode_and_sample(seen, steps=STEPS, noise=noise))
            timed("token", lambda kept=prefix: token.represent(seen, kept))
    medians = {name: sorted(values[1:])[repeats // 2] for name, values in times.items()}
    return {
        "chunk_error": None if native is None else float((chunk - native).abs().max()),
        "z_error": None if z is None else float((prefix.tokens - z).abs().max()),
        "tokens": f"{prefix.tokens.shape[1]} x {spec.embed_dim}",
        "n": repeats,
        "encode_ms": medians["encode"],
        "both_ms": medians["both"],
        "token_ms": medians["token"],
    }


def token_share() -> dict[str, Any]:
    """TFLOP of a prefix pass at pi0.5's size and of the RL token encoder on its image tokens; no weights are made."""
    from rlt_vla_node.lerobot_packages import lerobot_module

    try:
        lerobot_module("policies")
    except ImportError as error:
        return {"kind": "flops", "ran": f"not counted: {error}"}
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    text = {"hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8}
    text |= {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 257152}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    vision |= {"model_type": "siglip_vision_model", "image_size": 224, "patch_size": 14, "projection_dim": 2048}
    config = PaliGemmaConfig(text_config=text, vision_config={**vision, "vision_use_head": False}, projection_dim=2048)
    # transformers 4 asks for autocast, which the device "meta" lacks; 5 reads values, which fake tensors do not have.
    old = version("transformers").startswith("4.")
    with FakeTensorMode(allow_non_fake_inputs=True) if old else torch.device("meta"), torch.no_grad():
        model = PaliGemmaForConditionalGeneration(config).eval().model
        token = RlToken(RlTokenConfig(2048, 768, 2048, encoder_blocks=2, decoder_blocks=2, heads=8))
        with FlopCounterMode(display=False) as vla:
            seen = model.vision_tower(torch.zeros(3, 3, 224, 224)).last_hidden_state
            model.multi_modal_projector(seen)
            model.language_model(inputs_embeds=torch.zeros(1, 968, 2048))
        with FlopCounterMode(display=False) as own:
            token.encode(torch.zeros(1, 768, 2048), torch.ones(1, 768, dtype=torch.bool))
    flops = {"vla_tflop": vla.get_total_flops() / 1e12, "token_tflop": own.get_total_flops() / 1e12}
    return {"kind": "flops", "ran": "counted", **flops, "share": flops["token_tflop"] / flops["vla_tflop"]}


def measure_all(repeats: int, trips: int) -> list[dict[str, Any]]:
    """All rows."""
    rows = []
    for kind in KINDS:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            rows.append(pool.submit(measure, kind, repeats).result())
        print(f"backends: {kind}: {rows[-1]['ran']}", flush=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        rows.append(pool.submit(token_share).result())
    for kind in ("openpi", "gr00t"):
        rows += round_trips(kind, trips)
    return rows


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the issue."""
    ran = [row for row in rows if row["kind"] == "backend" and "n" in row]
    chunks = max(row["chunk_error"] for row in ran if row["chunk_error"] is not None)
    embeddings = max(row["z_error"] for row in ran if row["z_error"] is not None)
    share = next((row["share"] for row in rows if row["kind"] == "flops" and "share" in row), None)
    return [
        Goal("backends that ran", len(ran), f"all {len(KINDS)}", len(ran) == len(KINDS)),
        Goal("chunk against the policy's own, worst", chunks, f"< {CHUNK_GOAL:g}", chunks < CHUNK_GOAL),
        Goal("z against the training pass's, worst", embeddings, f"< {CHUNK_GOAL:g}", embeddings < CHUNK_GOAL),
        Goal(
            "RL token's share of a prefix pass at pi0.5's size, operations",
            share,
            f"<= {TOKEN_GOAL:g}",
            share is not None and share <= TOKEN_GOAL,
        ),
    ]


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    rows, machine = document["rows"], document["machine"]

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = [
        (
            row["backend"],
            row["versions"],
            row["ran"],
            number(row.get("chunk_error"), ".1g"),
            number(row.get("z_error"), ".1g"),
            row.get("tokens", ""),
            *(number(row.get(key), ".1f") for key in ("encode_ms", "both_ms", "token_ms")),
            number(row["peak_mb"] if "n" in row else None, ".0f"),
        )
        for row in rows
        if row["kind"] == "backend"
    ]
    header = ("backend", "tested with", "what ran", "chunk error", "z error", "z", "encode, ms", "with chunk, ms")
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, one thread, "
        f"n = {document['n']}."
    )
    trips = [
        (row["backend"], row["answer"], str(row["n"]), *(f"{value:.1f}" for value in row["ms"]))
        for row in rows
        if row["kind"] == "round trip"
    ]
    flops = next(row for row in rows if row["kind"] == "flops")
    words = flops["ran"]
    if "share" in flops:
        words = (
            f"A prefix pass at pi0.5's size (three 224 x 224 images, 968 tokens) is {flops['vla_tflop']:.2f} TFLOP, "
            f"the RL token encoder on its 768 image tokens {flops['token_tflop']:.3f} ({flops['share']:.1%}); counted, "
            "not timed."
        )
    return "\n\n".join(
        [
            head,
            markdown_table((*header, "RL token, ms", "peak MB"), lines),
            "Round trips to a policy that takes no time, on the same machine:",
            markdown_table(("backend", "answer", "n", "median, ms", "p90", "p99"), trips),
            words,
            goal_table(document["goals"]),
        ]
    )


def main() -> None:
    """Measure, or show the path with QUICK=1."""
    if quick():
        rows = measure_all(QUICK_REPEATS, QUICK_TRIPS)
        show_committed(NAME, f"{sum('n' in row for row in rows)} rows")
        return
    rows = measure_all(REPEATS, TRIPS)
    publish(NAME, table, command="make bench-backends", seeds=[0], n=REPEATS, rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
