"""A policy server in a process of its own: policy_server.py KIND --port N [--rl-token FOLDER] [--faults FILE].

A tiny random policy inside the wrapper that is shipped. For `openpi` the protocol is spoken as openpi's server does:
metadata when a client connects, msgpack with arrays both ways, a traceback as text and the end of the connection on an
error. For `gr00t` it is the loop that is shipped, around endpoints that may fail. Prints `ready PORT`. While the file
of faults holds the name of one, the answers to requests are spoiled by it; what is said of the policy is not.
"""

import argparse
import asyncio
import traceback
from pathlib import Path

import torch
from tiny_policies import CAMERAS, PARTS, PROMPT, STATE, Observation, TinyGr00t, TinyOpenpi
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from rlt_vla_node import policy_service, serve_gr00t, serve_openpi
from rlt_vla_node.policy_service import PolicyService, ServedWith
from rlt_vla_node.tensors import tensors_hash
from rlt_vla_node.wire import GR00T, OPENPI

FAULTS = ("garbage", "oversized", "another id", "error", "nan", "short")
OVERSIZED = 3 * 1024**2


def build(kind, rl_token=None, seed=0):
    """The service of a kind, around the tiny policy of this seed."""
    cameras = CAMERAS[:2]
    if kind == "openpi":
        policy = TinyOpenpi(seed)
        model = policy._model
        wrapper = serve_openpi.OpenpiPolicy(policy, Observation.from_dict, "aloha")
    else:
        policy = TinyGr00t(seed)
        model = policy.model
        wrapper = serve_gr00t.Gr00tPolicy(policy, PARTS)
    fingerprint = tensors_hash(model.state_dict(), kind)
    served = ServedWith(f"tiny_{kind}", fingerprint, cameras, STATE, (16, 16), PROMPT)
    return PolicyService(wrapper, served, policy_service.served_token(rl_token, fingerprint)), policy


class Faults:
    """Spoils answers as the file says."""

    def __init__(self, file):
        self._file = file

    @property
    def name(self):
        text = self._file.read_text().strip() if self._file is not None and self._file.exists() else ""
        assert text in ("", *FAULTS), text
        return text

    def messages(self, wire, reply):
        """What goes out in the place of an answer."""
        name = self.name
        if name == "error":
            raise RuntimeError("the policy fell over")
        if name == "garbage":
            return [b"\xc1 this is no message"]
        if name == "oversized":
            reply["padding"] = bytes(OVERSIZED)
        if name == "another id":
            other = {**reply, "id": "0" * 32, "chunk": reply["chunk"] + 1.0}
            return [wire.pack(other), wire.pack(reply)]
        if name == "nan":
            reply["chunk"][0, 0, 0] = float("nan")
        if name == "short":
            reply["chunk"] = reply["chunk"][:, :-1]
        return [wire.pack(reply)]


def serve_websocket(service, port, faults):
    async def handle(socket):
        await socket.send(OPENPI.pack(serve_openpi.metadata(service, {"reset_pose": [0.0]})))
        while True:
            try:
                for message in faults.messages(OPENPI, service.infer(OPENPI.unpack(await socket.recv()))):
                    await socket.send(message)
            except ConnectionClosed:
                break
            except Exception:
                await socket.send(traceback.format_exc())
                await socket.close(code=1011)
                raise

    async def run():
        async with serve(handle, "127.0.0.1", port, compression=None, max_size=None) as server:
            print("ready", port, flush=True)
            await server.serve_forever()

    asyncio.run(run())


def serve_zmq(service, port, faults):
    shipped = serve_gr00t.answer

    def answer(known, message):
        reply = shipped(known, message)
        said = GR00T.unpack(reply)
        if "id" not in said or not faults.name:
            return reply
        if faults.name == "error":
            return GR00T.pack({"error": "RuntimeError: the policy fell over"})
        return faults.messages(GR00T, {**said, "chunk": said["chunk"].copy()})[0]

    serve_gr00t.answer = answer
    print("ready", port, flush=True)
    serve_gr00t.serve(service, "127.0.0.1", port)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("openpi", "gr00t"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rl-token")
    parser.add_argument("--faults", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    service, _ = build(options.kind, options.rl_token, options.seed)
    (serve_websocket if options.kind == "openpi" else serve_zmq)(service, options.port, Faults(options.faults))


if __name__ == "__main__":
    main()
