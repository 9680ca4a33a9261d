"""Updates of actor and critics per second, on any device: would a GPU help the learner?"""

from __future__ import annotations

import time
from typing import Any

import torch

from rlt_rl_node.agent import Agent, AgentConfig, Batch
from rlt_rl_node.networks import Layout

TOKEN, STATE, ACTION, CHUNK = 2048, 28, 14, 10
SIZES = (((256, 256), 128), ((512, 512, 512), 256), ((512, 512, 512), 2048))
"""Hidden widths and transitions per update."""
PAIRS_PER_N = 2


def updates(device: str, hidden: tuple[int, ...], batch: int, n: int) -> dict[str, Any]:
    """Pairs of updates (an actor update in each) on transitions that are on the device already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.device(device):
            per_s = _updates(device, hidden, batch, n)
    finally:
        torch.set_num_threads(threads)
    return {"device": device, "hidden": " x ".join(map(str, hidden)), "batch": batch, "per_s": per_s}


def _updates(device: str, hidden: tuple[int, ...], batch: int, n: int) -> float:
    generator = torch.Generator(device).manual_seed(1)
    layout = Layout(TOKEN, STATE, ACTION, CHUNK, hidden)
    agent = Agent(layout, AgentConfig(hidden=hidden, batch_size=batch), torch.full((ACTION,), 3.0), generator)
    chunks = [torch.randn(batch, layout.chunk_dim, generator=generator) for _ in range(3)]
    states = [torch.randn(batch, layout.x_dim, generator=generator) for _ in range(2)]
    drawn = Batch(
        x=states[0],
        action=chunks[0],
        reference=chunks[1],
        valid=torch.ones(batch, layout.chunk_dim),
        rewards=torch.zeros(batch),
        bootstrap=torch.full((batch,), 0.9),
        next_x=states[1],
        next_reference=chunks[2],
    )
    count = 2 * PAIRS_PER_N * n
    for _ in range(max(2, count // 10)):
        agent.update(drawn)
    _sync(device)
    started = time.perf_counter()
    for _ in range(count):
        agent.update(drawn)
    _sync(device)
    return count / (time.perf_counter() - started)


def _sync(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
