"""`make bench-replay`: five hours of robot data at the width of a large VLA, in the replay buffer.

450,000 transitions (5 h at 50 Hz, stride 2) with z_rl of 2048 values: memory, the cost of a batch against a buffer of
10,000 transitions, and how fast a buffer is rebuilt from the encoded episodes of a run directory. QUICK=1 does a
thirtieth of it and re-reads the goals from the committed result.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.results import (
    Goal,
    goal_table,
    markdown_table,
    publish,
    quick,
    show_committed,
)
from harness.timing import interleaved

from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.networks import Layout
from rlt_rl_node.records import EpisodeData, EpisodeKey, Label, Source
from rlt_rl_node.replay import Replay

NAME = "replay"
WIDTH, STATE, ACTION, CHUNK, STRIDE = 2048, 32, 14, 10, 2
EPISODE_STEPS = 500  # 10 s
BATCH = 256
SMALL, FULL = 10_000, 450_000
STORED_EPISODES = 150


def episode(episode_id: int) -> EpisodeData:
    """A ten-second critical phase of noise."""
    rng = np.random.default_rng(episode_id)
    encoded = np.arange(0, EPISODE_STEPS, STRIDE)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    return EpisodeData(
        episode_id=episode_id,
        label=Label.SUCCESS,
        delay=0,
        steps=np.arange(EPISODE_STEPS),
        sources=np.full(EPISODE_STEPS, Source.RL, np.uint8),
        actions=noise(EPISODE_STEPS, ACTION),
        encoded_steps=encoded,
        boundary=encoded % CHUNK == 0,
        rl_tokens=noise(len(encoded), WIDTH),
        rl_states=noise(len(encoded), STATE),
        references=noise(len(encoded), CHUNK, ACTION),
    )


def empty() -> Replay:
    """A buffer of the default capacity."""
    layout = Layout(WIDTH, STATE, ACTION, CHUNK, (256, 256))
    return Replay(layout, STRIDE, 0.99, torch.ones(ACTION))


def resident_bytes() -> int:
    """Memory of this process that is really there."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def filled(transitions: int) -> tuple[Replay, int]:
    """A buffer with at least `transitions`, and the memory it took."""
    before, buffer, i = resident_bytes(), empty(), 0
    while len(buffer) < transitions:
        i += 1
        buffer.add(episode(i))
        if i % 100 == 0:
            print(f"replay: {len(buffer)} of {transitions} transitions", flush=True)
    return buffer, resident_bytes() - before


def rebuild(folder: Path, count: int) -> tuple[float, float]:
    """Megabytes of encoded episodes, and the seconds in which a new buffer has taken them in again."""
    store = EpisodeStore(folder)
    for i in range(1, count + 1):
        store.save(episode(i))
    size = sum(path.stat().st_size for path in folder.iterdir())
    start = time.perf_counter()
    again, buffer = EpisodeStore(folder), empty()
    for i in range(1, count + 1):
        buffer.add(again.load(EpisodeKey(i)))
    return size / 1e6, time.perf_counter() - start


def measure(share: float) -> dict[str, Any]:
    """All figures, with `share` of the data."""
    torch.set_num_threads(1)
    large, memory = filled(int(FULL * share))
    small, _ = filled(int(SMALL * share))
    generator = torch.Generator().manual_seed(0)
    cost = interleaved(
        {
            "small": lambda: small.sample(BATCH, generator),
            "large": lambda: large.sample(BATCH, generator),
        },
        calls=50,
        rounds=41,
    )
    with tempfile.TemporaryDirectory() as folder:
        megabytes, seconds = rebuild(Path(folder), max(5, int(STORED_EPISODES * share)))
    return {
        "transitions": len(large),
        "memory_gb": memory / 1e9,
        "bytes_per_transition": memory / len(large),
        "small_transitions": len(small),
        "sample_small_ms": cost["small"] * 1e3,
        "sample_large_ms": cost["large"] * 1e3,
        "sample_ratio": cost["large"] / cost["small"],
        "rebuilt_mb": megabytes,
        "rebuild_mb_per_s": megabytes / seconds,
    }


def goals(row: dict[str, Any]) -> list[Goal]:
    """The goals of the issue."""
    return [
        Goal("GB for 450,000 transitions of width 2048", row["memory_gb"], "<= 2.5", row["memory_gb"] <= 2.5),
        Goal("batch cost, 450,000 over 10,000 transitions", row["sample_ratio"], "<= 1.2", row["sample_ratio"] <= 1.2),
        Goal(
            "rebuilding from encoded episodes, MB/s",
            row["rebuild_mb_per_s"],
            "> 200",
            row["rebuild_mb_per_s"] > 200,
        ),
    ]


def table(document: dict[str, Any]) -> str:
    """The result in Markdown."""
    row = document["rows"][0]
    header = ("transitions", "memory", "per transition", "batch of 256, 10,000", "batch of 256, all", "rebuild")
    line = (
        f"{row['transitions']:,}",
        f"{row['memory_gb']:.2f} GB",
        f"{row['bytes_per_transition']:.0f} B",
        f"{row['sample_small_ms']:.2f} ms",
        f"{row['sample_large_ms']:.2f} ms",
        f"{row['rebuild_mb_per_s']:.0f} MB/s",
    )
    head = f"`{document['command']}`, commit `{document['commit'][:10]}`, {document['machine']['cpu']}, one thread."
    return f"{head}\n\n{markdown_table(header, [line])}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Measure, write the result and the table."""
    if quick():
        show_committed(NAME, str(measure(1 / 30)))
        return
    row = measure(1.0)
    publish(NAME, table, command="make bench-replay", seeds=[0], n=1, rows=[row], goals=goals(row))


if __name__ == "__main__":
    main()
