"""From what the processes recorded to the latency of every chunk: observation published to command published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Latency:
    """One chunk that was played, s.

    Attributes:
        at: when its first command was published, monotonic.
        to_output: from the later of observation and request, published, to the VLA's output, without the model and
            without the group.
        to_policy: from the output to rl_policy.
        in_policy: in rl_policy, to its chunk.
        to_executor: from the chunk to its arrival in the executor.
        to_command: from the deadline of the tick that played its first row to the command published.
        ingest_codec: of that observation's images: decoding, resizing, encoding. Before it is published.
        vla_codec: decoding the observation's images; part of `to_output`.
        model: VLA and RL token.
        group: what was left of the model's work on a group of strided observations that it had begun before.
        planned: from the chunk in the executor to that deadline: rows are asked for ahead, and wait.
    """

    at: float
    to_output: float
    to_policy: float
    in_policy: float
    to_executor: float
    to_command: float
    ingest_codec: float
    vla_codec: float
    model: float
    group: float
    planned: float

    @property
    def total(self) -> float:
        """Observation published to command published, without the model's work and the planned wait."""
        return self.to_output + self.to_chunk + self.to_command

    @property
    def to_chunk(self) -> float:
        """From the output to the chunk in the executor."""
        return self.to_policy + self.in_policy + self.to_executor


def read_records(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The lines of all records."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def latencies(records: Iterable[Mapping[str, Any]]) -> list[Latency]:
    """One per chunk whose way is recorded from observation to first command, in the order of the commands.

    A chunk that was asked for again counts from its first request, output and arrival.
    """
    first: dict[tuple[str, int], Mapping[str, Any]] = {}
    groups = []
    for record in sorted(records, key=lambda record: record["at_s"]):
        kind = record["kind"]
        if kind == "group":
            groups.append((record["begin_s"], record["at_s"]))
        elif kind != "images":
            first.setdefault((kind, record.get("chunk", record.get("observation"))), record)
    found = []
    for (kind, number), command in first.items():
        way = ("request", "output", "taken", "made", "chunk")
        request, output, taken, made, chunk = (first.get((name, number)) for name in way)
        if kind != "command" or None in (request, output, taken, made, chunk):
            continue
        observation = first.get(("observation", chunk["observation"]))
        if observation is None:
            continue
        begin = max(observation["at_s"], request["at_s"])
        group = sum(max(0.0, min(g_end, output["at_s"]) - max(g_begin, begin)) for g_begin, g_end in groups)
        found.append(
            Latency(
                at=command["sent_s"],
                to_output=output["at_s"] - begin - output["model_s"] - group,
                to_policy=taken["at_s"] - output["at_s"],
                in_policy=made["at_s"] - taken["at_s"],
                to_executor=chunk["at_s"] - made["at_s"],
                to_command=command["sent_s"] - command["due_s"],
                ingest_codec=observation["codec_s"],
                vla_codec=output["codec_s"],
                model=output["model_s"],
                group=group,
                planned=command["due_s"] - chunk["at_s"],
            )
        )
    return found


def figures(found: Sequence[Latency]) -> dict[str, Any]:
    """n, and p50 and p99 of every part and of the total, ms."""
    if not found:
        raise ValueError("no chunk was followed from its observation to its command")
    names = [field.name for field in fields(Latency) if field.name != "at"] + ["to_chunk", "total"]
    parts = {}
    for name in names:
        p50, p99 = np.percentile([getattr(one, name) for one in found], (50, 99)) * 1e3
        parts[name] = {"p50": float(p50), "p99": float(p99)}
    return {"chunks": len(found), "ms": parts}
