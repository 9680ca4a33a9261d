"""What it costs to have a VLA behind a policy server on the same machine: a part of `make bench-backends`.

Round trips of the real clients to a server process whose policy takes no time: three 224 x 224 images there, a chunk of
50 x 14 and z_rl with the mean, or the embeddings z of 768 tokens of width 2048 (pi0.5's images), back. So what is
measured is packing, transport and checks, not a model. Run as a program it is the server.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rlt_common.vla_config import VlaConfig
from rlt_vla_node.backend import ObservationBatch
from rlt_vla_node.backends import open_backend
from rlt_vla_node.remote_protocol import KEY, PROTOCOL, Z_RL
from rlt_vla_node.wire import OPENPI

CAMERAS = ("high", "left_wrist", "right_wrist")
TOKENS, WIDTH, HORIZON, ACTIONS, NOISE = 768, 2048, 50, 14, 32
PARTS = ("left.joints", "left.gripper", "right.joints", "right.gripper")
WARM_UP = 10


FACTS = {
    "protocol": PROTOCOL,
    "model": "idle",
    "fingerprint": "0" * 16,
    "embed_dim": WIDTH,
    "max_tokens": TOKENS,
    "horizon": HORIZON,
    "action_dim": ACTIONS,
    "state_dim": ACTIONS,
    "noise_dim": NOISE,
    "cameras": list(CAMERAS),
    "rl_token": "0" * 16,
    "token_dim": WIDTH,
}


class Idle:
    """A service whose answers are made beforehand."""

    def __init__(self) -> None:
        self.facts = FACTS
        rng = np.random.default_rng(0)
        self._chunk = rng.normal(size=(1, HORIZON, ACTIONS)).astype(np.float32)
        self._z = rng.normal(size=(1, TOKENS, WIDTH)).astype(np.float16)
        self._row = rng.normal(size=(1, WIDTH)).astype(np.float32)

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What was made beforehand, under the request's id."""
        own = {"id": request["id"], "chunk": self._chunk}
        if request["want"] == Z_RL:
            return {**own, "z_rl": self._row, "z_mean": self._row}
        return {**own, "z": self._z, "mask": np.ones((1, TOKENS), np.bool_)}


def serve(kind: str, port: int) -> None:
    """In a process of its own."""
    service = Idle()
    if kind == "gr00t":
        from rlt_vla_node import serve_gr00t

        serve_gr00t.serve(service, "127.0.0.1", port)
    from websockets.sync.server import serve as listen

    def handle(socket: Any) -> None:
        socket.send(OPENPI.pack({KEY: service.facts}))
        for message in socket:
            socket.send(OPENPI.pack(service.infer(OPENPI.unpack(message))))

    with listen(handle, "127.0.0.1", port, compression=None, max_size=None) as server:
        print("ready", flush=True)
        server.serve_forever()


def round_trips(kind: str, trips: int) -> list[dict[str, Any]]:
    """One row per answer (z, z_rl): percentiles of the round trip in ms."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, kind, str(port)], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        config = VlaConfig(
            backend=kind,
            source=f"127.0.0.1:{port}",
            control_hz=50.0,
            state=PARTS,
            actions=PARTS,
            action_kind="absolute",
            cameras={name: name for name in CAMERAS},
            instruction="drive the screw",
        )
        rng = np.random.default_rng(0)
        images = torch.from_numpy(rng.integers(0, 256, (1, 3, 224, 224, 3), dtype=np.uint8))
        observation = ObservationBatch(images, torch.zeros(1, ACTIONS))
        noise = torch.zeros(1, HORIZON, NOISE)
        rows = []
        for answer in ("z", "z_rl"):
            backend = open_backend(config)
            if answer == "z_rl":
                backend.ask_for_token()
            times = []
            for _ in range(WARM_UP + trips):
                started = time.perf_counter()
                backend.encode_and_sample(observation, steps=10, noise=noise)
                times.append((time.perf_counter() - started) * 1e3)
            p50, p90, p99 = np.percentile(times[WARM_UP:], (50, 90, 99)).tolist()
            rows.append({"kind": "round trip", "backend": kind, "answer": answer, "n": trips, "ms": [p50, p90, p99]})
        return rows
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
