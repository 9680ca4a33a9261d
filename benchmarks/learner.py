"""`make bench-learner`: updates per second of the learner against its peers', in one run on one thread.

The same sizes (2x256 and 3x512; x of 96 and 2076 values; chunks of 140), the same schedule (two critic updates per
actor update, sampling included), in turn, so that the ratios hold on a shared machine. Against TD3, which has no
reference, ours leaves the reference out too and climbs the first critic as TD3 does; against RLT it does all of RLT.
"the products alone" is what the matrix products of our default update take. QUICK=1 measures the smallest size only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
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
from harness.timing import STORED, interleaved

from rlt_rl_node.agent import Agent, AgentConfig
from rlt_rl_node.networks import Layout
from rlt_rl_node.records import EpisodeData, Label, Source
from rlt_rl_node.replay import Replay

NAME = "learner"
STATE, ACTION, CHUNK = 28, 14, 10
SIZES = [
    (x_dim, batch, hidden) for hidden in ((256, 256), (512, 512, 512)) for x_dim in (96, 2076) for batch in (128, 256)
]
TD3_LIKE = {
    "use_reference": False,
    "actor_objective": "first",
    "target_actor": True,
    "critic_layer_norm": False,
    "clamp_targets": False,
    "reference_dropout": 0.0,
}
RLT_LIKE = {"actor_objective": "first", "critic_layer_norm": False, "clamp_targets": False, "target_noise": 0.0}


def ours(x_dim: int, hidden: tuple[int, ...], batch: int, **config: Any) -> Callable[[], None]:
    """Two updates of our agent (an actor update among them), batches sampled from a replay of STORED transitions."""
    settings = AgentConfig(hidden=hidden, batch_size=batch, **config)
    layout = Layout(x_dim - STATE, STATE, ACTION, CHUNK, hidden, use_reference=settings.use_reference)
    generator = torch.Generator().manual_seed(1)
    agent = Agent(layout, settings, torch.full((ACTION,), 3.0), generator)
    replay = Replay(layout, 2, settings.gamma, torch.ones(ACTION))
    replay.add(_episode(x_dim))

    def two_updates() -> None:
        for _ in range(2):
            agent.update(replay.sample(batch, generator))

    return two_updates


def _episode(x_dim: int) -> EpisodeData:
    rng = np.random.default_rng(1)
    encoded = np.arange(0, 2 * STORED, 2)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    return EpisodeData(
        episode_id=1,
        label=Label.SUCCESS,
        delay=0,
        steps=np.arange(2 * STORED),
        sources=np.full(2 * STORED, Source.RL, np.uint8),
        actions=noise(2 * STORED, ACTION),
        encoded_steps=encoded,
        boundary=encoded % CHUNK == 0,
        rl_tokens=noise(STORED, x_dim - STATE),
        rl_states=noise(STORED, STATE),
        references=noise(STORED, CHUNK, ACTION),
    )


def products(x_dim: int, hidden: tuple[int, ...], batch: int, critics: int = 2, climbed: int = 2) -> Callable[[], None]:
    """The matrix products of two updates of the default agent and nothing else, float32, in the same shapes."""
    chunk = CHUNK * ACTION

    def factors(count: int, widths: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        return [
            (torch.randn(count, batch, a), torch.randn(count, a, b), torch.randn(count, batch, b))
            for a, b in pairwise(widths)
        ]

    q = factors(critics, (x_dim + chunk, *hidden, 1))
    climb = factors(climbed, (x_dim + chunk, *hidden, 1))
    actor = factors(1, (x_dim + chunk, *hidden, chunk))
    to_action = torch.randn(climbed, batch, hidden[0]), torch.randn(climbed, hidden[0], chunk)

    def forward(layers: list[Any]) -> None:
        for value, weight, _ in layers:
            torch.bmm(value, weight)

    def by_weight(layers: list[Any]) -> None:
        for value, _, gradient in layers:
            torch.bmm(value.transpose(1, 2), gradient)

    def by_input(layers: list[Any]) -> None:
        for _, weight, gradient in layers[1:]:
            torch.bmm(gradient, weight.transpose(1, 2))

    def two_updates() -> None:
        for _ in range(2):
            forward(actor)
            forward(q)
            forward(q)
            by_weight(q)
            by_input(q)
        forward(actor)
        forward(climb)
        by_input(climb)
        torch.bmm(*to_action)
        by_weight(actor)
        by_input(actor)

    return two_updates


def measure(x_dim: int, batch: int, hidden: tuple[int, ...], calls: int, rounds: int) -> dict[str, Any]:
    """One size: updates per second of everybody."""
    from harness import peers  # Stable-Baselines3 is installed for this benchmark only

    chunk = CHUNK * ACTION
    work = {
        "sb3_td3": peers.stable_baselines3(x_dim, chunk, hidden, batch),
        "cleanrl_td3": peers.PlainTd3(x_dim, chunk, hidden, batch).two_updates,
        "lerobot_rlt": peers.PlainRlt(x_dim, chunk, hidden, batch).two_updates,
        "ours_td3": ours(x_dim, hidden, batch, **TD3_LIKE),
        "ours_td3_bf16": ours(x_dim, hidden, batch, **TD3_LIKE, products="bfloat16"),
        "ours_rlt": ours(x_dim, hidden, batch, **RLT_LIKE),
        "ours_rlt_bf16": ours(x_dim, hidden, batch, **RLT_LIKE, products="bfloat16"),
        "ours": ours(x_dim, hidden, batch),
        "ours_bf16": ours(x_dim, hidden, batch, products="bfloat16"),
        "products": products(x_dim, hidden, batch),
    }
    rates = {name: 2.0 / seconds for name, seconds in interleaved(work, calls, rounds).items()}
    best_td3 = max(rates["sb3_td3"], rates["cleanrl_td3"])
    return {
        "x": x_dim,
        "batch": batch,
        "hidden": list(hidden),
        "updates_per_s": rates,
        "over_td3": rates["ours_td3"] / best_td3,
        "over_td3_bf16": rates["ours_td3_bf16"] / best_td3,
        "over_rlt": rates["ours_rlt"] / rates["lerobot_rlt"],
        "over_rlt_bf16": rates["ours_rlt_bf16"] / rates["lerobot_rlt"],
        "of_products": rates["ours"] / rates["products"],
        "of_products_bf16": rates["ours_bf16"] / rates["products"],
    }


def goals(rows: list[dict[str, Any]]) -> list[Goal]:
    """The goals of the issue, worst row first; float32 and bfloat16 apart."""
    small = [row for row in rows if row["hidden"] == [256, 256]]
    found = []
    for name, suffix in (("float32", ""), ("bfloat16 products", "_bf16")):
        best = min(min(row["over_td3" + suffix], row["over_rlt" + suffix]) for row in small)
        share = min(row["of_products" + suffix] for row in small)
        found += [
            Goal(f"2x256, over the best peer, {name}", best, ">= 1.3", best >= 1.3),
            Goal(f"2x256, of the float32 products alone, {name}", share, ">= 0.8", share >= 0.8),
        ]
    slowest = min(min(row["over_td3"], row["over_rlt"]) for row in rows)
    return [*found, Goal("every size, over the best peer, float32", slowest, "> 1", slowest > 1.0)]


def table(document: dict[str, Any]) -> str:
    """The result in Markdown."""
    header = (
        "hidden",
        "x",
        "batch",
        "SB3 TD3",
        "CleanRL's TD3",
        "ours as TD3 (bf16)",
        "over the best",
        "LeRobot's RLT",
        "ours as RLT (bf16)",
        "over it",
        "ours, defaults (bf16)",
        "of the products alone",
    )
    lines = []
    for row in document["rows"]:
        rate = {name: f"{value:.0f}" for name, value in row["updates_per_s"].items()}
        lines.append(
            (
                "x".join(map(str, row["hidden"])),
                str(row["x"]),
                str(row["batch"]),
                rate["sb3_td3"],
                rate["cleanrl_td3"],
                f"{rate['ours_td3']} ({rate['ours_td3_bf16']})",
                f"{row['over_td3']:.2f} ({row['over_td3_bf16']:.2f})",
                rate["lerobot_rlt"],
                f"{rate['ours_rlt']} ({rate['ours_rlt_bf16']})",
                f"{row['over_rlt']:.2f} ({row['over_rlt_bf16']:.2f})",
                f"{rate['ours']} ({rate['ours_bf16']})",
                f"{row['of_products']:.2f} ({row['of_products_bf16']:.2f})",
            )
        )
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {document['machine']['cpu']}, one thread; "
        f"updates per second, medians of {document['n']} blocks taken in turn."
    )
    return f"{head}\n\n{markdown_table(header, lines)}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Measure, write the result and the table."""
    torch.set_num_threads(1)
    if quick():
        show_committed(NAME, str(measure(*SIZES[0], calls=3, rounds=5)))
        return
    rows, rounds = [], 15
    for i, (x_dim, batch, hidden) in enumerate(SIZES, 1):
        rows.append(measure(x_dim, batch, hidden, calls=10 if x_dim < 1000 and len(hidden) == 2 else 3, rounds=rounds))
        print(f"learner: size {i} of {len(SIZES)}: {rows[-1]}", flush=True)
    publish(NAME, table, command="make bench-learner", seeds=[1], n=rounds, rows=rows, goals=goals(rows))


if __name__ == "__main__":
    main()
