"""`make bench-gpu`: VLAs at their real size on a GPU: boundary latency, strided encoding, memory, the RL token's share.

Weights are random, so chunks mean nothing; times and memory are those of pretrained weights of the same size. Each VLA
runs in a process of its own, and what fails is a row that says why. It needs no ROS: `--commit` names the commit where
the tree was copied without its repository. Without a GPU it shows the committed result; QUICK=1 shows the path with
tiny VLAs, on a CPU too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from harness import gpu_measures, gpu_updates
from harness.gpu_measures import FLOW_STEPS, Size, Vla
from harness.results import (
    FOLDER,
    Goal,
    goal_table,
    markdown_table,
    publish,
    quick,
    read_result,
    result_path,
    show_committed,
    update_readme,
    write_result,
)

from rlt_bringup.report import source_commit
from rlt_common.config import load_robot, load_task
from rlt_vla_node.vla_adapt_config import FROZEN, LORA

NAME = "gpu"
VLAS = ("pi05", "smolvla", "pi0")
UPDATES = "updates"
PARTS = ("pi05", UPDATES, "smolvla")
MODES = ("reduce-overhead",)
CONFIG = FOLDER.parent / "src" / "rlt_bringup" / "config"
ROBOT, TASK = CONFIG / "robots" / "aloha.yaml", CONFIG / "tasks" / "real_robot.yaml"
SHARE_GOAL, CHUNK_GOAL = 0.1, 1e-5
NEEDED = 25  # observations per s: stride 2 at 50 Hz
AS_IS = "highest"  # torch's own precision of float32 products, which is not touched
PRODUCTS = {AS_IS: "float32", "high": "TF32"}

Rows = Sequence[Mapping[str, Any]]


# ---- measuring


def measure(part: str, device: str, size: Size, modes: Sequence[str], to: Connection) -> None:
    """All rows of one part, in a process of its own; each is sent as soon as it is there."""
    if device == "cpu":
        torch.set_num_threads(1)
    rows = updates_rows(device, size) if part == UPDATES else vla_rows(part, device, size, modes)
    for row in rows:
        to.send({"part": part, **row})
    to.close()


def vla_rows(kind: str, device: str, size: Size, modes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The measures of one VLA."""
    robot, task = load_robot(ROBOT), load_task(TASK)
    with tempfile.TemporaryDirectory() as folder:
        made: list[Vla] = []

        def opened() -> dict[str, Any]:
            made.append(Vla(Path(folder), kind, device, size))
            return gpu_measures.opened(made[0])

        yield attempt("open", opened)
        if not made:
            return
        (vla,) = made
        yield attempt("exact", lambda: gpu_measures.exactness(vla))
        for count in size.batches:
            yield attempt(f"strided {count}", lambda: gpu_measures.strided(vla, count))  # noqa: B023
        for products in PRODUCTS:
            yield attempt(f"eager {products}", lambda: gpu_measures.latency(vla, products, robot, task))  # noqa: B023
        for mode in modes:
            yield attempt(
                f"compile {mode}",
                lambda: gpu_measures.compiled(vla, mode, AS_IS, robot, task),  # noqa: B023
            )
        torch._dynamo.reset()
        for train in (FROZEN, LORA):  # last: adapters stay in the policy
            yield attempt(f"train {train}", lambda: gpu_measures.training(vla, train))  # noqa: B023


def updates_rows(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """Actor and critic on the GPU and on one thread of the CPU."""
    for place in dict.fromkeys(("cpu", device)):
        for hidden, batch in gpu_updates.SIZES[: 1 if size.tiny else None]:
            yield attempt(
                f"updates {place} {'x'.join(map(str, hidden))} {batch}",
                lambda: gpu_updates.updates(place, hidden, batch, size.n),  # noqa: B023
            )


def attempt(name: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """A row: what was measured, or why not."""
    started = time.perf_counter()
    try:
        found = dict(work())
    except Exception as error:  # whatever libraries of other versions raise; the other measures go on
        lines = str(error).strip().splitlines() or [""]
        found = {"failed": f"{type(error).__name__}: {lines[0][:300]}"}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return {"measure": name, **found, "took_s": time.perf_counter() - started}


def run(parts: Sequence[str], device: str, size: Size, modes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of all parts as they come."""
    context, began = get_context("spawn"), time.perf_counter()
    for part in parts:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(part, device, size, modes, sender), daemon=True)
        process.start()
        sender.close()
        while True:
            try:
                row = receiver.recv()
            except EOFError:
                break
            words = row.get("failed") or "measured"
            print(f"gpu: {time.perf_counter() - began:.0f} s: {part}: {row['measure']}: {words}", flush=True)
            yield row
        process.join()
        if process.exitcode:
            yield {"part": part, "measure": "process", "failed": f"it ended with {process.exitcode}", "took_s": 0.0}


def gpu_facts() -> dict[str, Any]:
    """What the GPU is and what drives it."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    facts = torch.cuda.get_device_properties(0)
    return {
        "gpu": facts.name,
        "gpu_gb": facts.total_memory / gpu_measures.GB,
        "driver": driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


# ---- the result


def by_measure(rows: Rows, part: str) -> dict[str, Mapping[str, Any]]:
    """The rows of a part that were measured, by name."""
    return {row["measure"]: row for row in rows if row["part"] == part and "failed" not in row}


def forward_ms(row: Mapping[str, Any], token_ms: float, steps: int) -> float:
    """The VLA's own part of a boundary, the median."""
    return row["boundary_ms"][str(steps)]["p50"] - token_ms


def goals(rows: Rows) -> list[Goal]:
    """The goals of the issue, for pi0.5; "none" where it was not measured."""
    found = by_measure(rows, "pi05")
    eager = found.get(f"eager {AS_IS}")
    of_prefix = of_forward = None
    if eager is not None:
        token = eager["token_ms"]["p50"]
        ran = [eager, *(row for name, row in found.items() if name.startswith("compile "))]
        of_prefix = token / eager["encode_ms"]["p50"]
        of_forward = token / min(forward_ms(row, token, FLOW_STEPS[0]) for row in ran)
    errors = [row["chunk_error"] for row in rows if row["measure"] == "exact" and "failed" not in row]
    error = max(errors, default=None)
    rates = [row["per_s"] for name, row in found.items() if name.startswith("strided ")]
    rate = max(rates, default=None)

    def least(value: float | None, goal: float) -> bool:
        return value is not None and value >= goal

    def most(value: float | None, goal: float) -> bool:
        return value is not None and value <= goal

    return [
        Goal(
            f"pi05: RL token over the VLA's forward (prefix pass, {FLOW_STEPS[0]} flow steps), fastest way to run it",
            of_forward,
            f"<= {SHARE_GOAL:g}",
            most(of_forward, SHARE_GOAL),
        ),
        Goal("pi05: RL token over the prefix pass alone", of_prefix, f"<= {SHARE_GOAL:g}", most(of_prefix, SHARE_GOAL)),
        Goal("chunk against LeRobot's own, worst", error, f"< {CHUNK_GOAL:g}", most(error, CHUNK_GOAL)),
        Goal("pi05: strided observations per s, best batch", rate, f">= {NEEDED}", least(rate, NEEDED)),
    ]


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    rows, machine = document["rows"], document["machine"]
    parts = list(dict.fromkeys(row["part"] for row in rows))
    commits = " and ".join(f"`{commit[:10]}`" for commit in dict.fromkeys(row["commit"] for row in rows))
    head = (
        f"`{document['command']}`, commit {commits}, {machine['gpu']} ({machine['gpu_gb']:.0f} GB, driver "
        f"{machine['driver']}), {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, CUDA "
        f"{machine['cuda']}; n = {document['n']} after {gpu_measures.WARM_UP} others; memory is what tensors hold on "
        "the GPU at most, weights included."
    )
    texts = [head]
    for part in parts:
        texts += updates_table(rows) if part == UPDATES else vla_tables(rows, part)
    failed = [f"- {row['part']}, {row['measure']}: {row['failed']}" for row in rows if "failed" in row]
    if failed:
        texts.append("Not measured:\n\n" + "\n".join(failed))
    return "\n\n".join([*texts, goal_table(document["goals"])])


def vla_tables(rows: Rows, part: str) -> list[str]:
    """One VLA: what it is, one observation, batches of strided ones, training."""
    found = by_measure(rows, part)
    texts = []
    if "open" in found:
        texts.append(about(part, found["open"], found.get("exact")))
    eager = {products: found[f"eager {products}"] for products in PRODUCTS if f"eager {products}" in found}
    tokens = {products: row["token_ms"]["p50"] for products, row in eager.items()}
    lines = [
        one_line(f"{PRODUCTS[products]} products, not compiled", row, tokens[products])
        for products, row in eager.items()
    ]
    token = tokens.get(AS_IS)
    lines += [
        one_line(f"`compile: {name.removeprefix('compile ')}` ({row['compile_s']:.0f} s at the start)", row, token)
        for name, row in found.items()
        if name.startswith("compile ")
    ]
    if lines:
        steps = [f"with {n} flow steps" for n in FLOW_STEPS]
        header = ("one observation, p50 and p95 in ms", "prefix pass", "RL token", "of the prefix pass")
        header += (*steps, f"RL token of the VLA's forward, {FLOW_STEPS[0]} steps", "prefetch_steps needed", "GB")
        texts.append(markdown_table((*header, "other than the first line by"), lines))
    batches = [
        (str(row["batch"]), pair(row["batch_ms"]), f"{row['per_s']:.0f}", f"{row['peak_gb']:.1f}")
        for name, row in found.items()
        if name.startswith("strided ")
    ]
    if batches:
        texts.append(markdown_table(("strided observations in a batch", "p50 and p95, ms", "per s", "GB"), batches))
    steps = [
        (
            f"`train: {row['train']}`, batch {row['batch']}, {row['precision']}",
            f"{row['values'] / 1e6:.0f}",
            pair(row["step_ms"]),
            f"{row['peak_gb']:.1f}",
        )
        for name, row in found.items()
        if name.startswith("train ")
    ]
    if steps:
        header = ("a step of adapt --vla", "million values trained", "p50 and p95, ms", "GB")
        texts.append(markdown_table(header, steps))
    return texts


def about(part: str, row: Mapping[str, Any], exact: Mapping[str, Any] | None) -> str:
    """What a VLA is, and how exact it runs."""
    words = (
        f"**{part}**: {row['values'] / 1e9:.2f} billion values ({row['disk_gb']:.1f} GB on disk, "
        f"{row['weights_gb']:.1f} GB on the GPU), opened in {row['load_s']:.0f} s with at most "
        f"{row['host_peak_gb']:.0f} GB of the host's memory; z {row['tokens']} x {row['width']}, an RL token of "
        f"{row['token_values'] / 1e6:.0f} million values; "
        + ", ".join(f"{name} {number}" for name, number in row["versions"].items())
        + "."
    )
    if exact is None:
        return words
    same = [name for name, equal in exact["repeats"].items() if equal]
    errors = ", ".join(f"{name} {value:.1g}" for name, value in exact["batch_error"].items())
    return (
        f"{words} The chunk differs from LeRobot's own by {exact['chunk_error']:.1g} at most (its spread is "
        f"{exact['chunk_spread']:.2g}). The same observation twice gives the same bits in: "
        f"{', '.join(same) or 'none'}. "
        f"In a batch of {exact['batch']} instead of alone, relative to the spread: {errors}."
    )


def one_line(name: str, row: Mapping[str, Any], token: float | None) -> tuple[str, ...]:
    """One way of running one observation."""
    share = "" if token is None else f"{token / forward_ms(row, token, FLOW_STEPS[0]):.1%}"
    verdicts = ", ".join(
        f"{verdict['prefetch_steps']}" + ("" if verdict["fits"] else " (**too slow**)")
        for verdict in (row["verdicts"][str(steps)] for steps in FLOW_STEPS)
    )
    given = ", ".join(f"{key} {value:.1g}" for key, value in row.get("difference", {}).items() if value)
    eager = "encode_ms" in row
    return (
        name,
        pair(row["encode_ms"]) if eager else "",
        pair(row["token_ms"]) if eager else "",
        f"{row['token_ms']['p50'] / row['encode_ms']['p50']:.1%}" if eager else "",
        *(pair(row["boundary_ms"][str(steps)]) for steps in FLOW_STEPS),
        share,
        verdicts,
        f"{row['peak_gb']:.1f}",
        given or "nothing",
    )


def updates_table(rows: Rows) -> list[str]:
    """Actor and critic."""
    lines = [
        (row["hidden"], str(row["batch"]), row["device"], f"{row['per_s']:.0f}")
        for row in by_measure(rows, UPDATES).values()
    ]
    words = "Actor and critics beside pi0.5's z (x of 2076 values, C = 10, 14 actions; batches at hand, not sampled):"
    header = ("hidden", "batch", "where", "updates per s")
    return [words, markdown_table(header, lines)] if lines else []


def pair(ms: Mapping[str, float]) -> str:
    """Median and 95th percentile."""
    return f"{ms['p50']:.1f}, {ms['p95']:.1f}"


def main() -> None:
    """Measure and write the result after each row; or show the path or the committed result."""
    parser = argparse.ArgumentParser(prog="bench-gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=(*VLAS, UPDATES), help=f"parts; {', '.join(PARTS)} if not given")
    parser.add_argument("--modes", nargs="*", help=f"of the option compile; {', '.join(MODES)} if not given")
    parser.add_argument("--commit", help="what is measured, where the tree was copied without its repository")
    parser.add_argument("--table", action="store_true", help="write the table of the committed result anew and end")
    options = parser.parse_args()
    if options.table:
        update_readme(NAME, table(read_result(NAME)))
        return
    parts, small, gpu = options.only or PARTS, quick(), torch.cuda.is_available()
    if small:
        rows = run(parts, "cuda" if gpu else "cpu", gpu_measures.QUICK, options.modes or ())
        show_committed(NAME, f"{sum('failed' not in row for row in rows)} rows")
        return
    if not gpu:
        if result_path(NAME).exists():
            print(goal_table(read_result(NAME)["goals"]))
        sys.exit("bench-gpu needs an NVIDIA GPU that PyTorch sees; above the committed result. QUICK=1 shows the path")
    facts, commit = gpu_facts(), options.commit or source_commit(FOLDER)
    rows = kept(parts, facts)
    full: dict[str, Any] = {"command": "make bench-gpu", "seeds": [0], "n": gpu_measures.FULL.n}
    full |= {"commit": commit, "facts": facts}
    for row in run(parts, "cuda", gpu_measures.FULL, MODES if options.modes is None else options.modes):
        rows.append({**row, "commit": commit})
        write_result(NAME, rows=rows, goals=goals(rows), **full)
    publish(NAME, table, rows=rows, goals=goals(rows), **full)


def kept(parts: Sequence[str], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of parts that are not measured again, where they are of the same GPU."""
    if not result_path(NAME).exists():
        return []
    document = read_result(NAME)
    if document["machine"].get("gpu") != facts["gpu"]:
        return []
    return [row for row in document["rows"] if row["part"] not in parts]


if __name__ == "__main__":
    main()
