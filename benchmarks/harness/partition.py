"""Two machines in one: the robot's side and the GPU's side of the graph in network namespaces with a cable in between.

Takes root and `ip`. Shared memory does not reach over: the sides have addresses of their own, so DDS takes them for two
hosts and uses the cable, which can be cut.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlt_bringup.graph import GPU_NODES, NodeSpec
from rlt_bringup.runner import GraphRunner

RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Cable:
    """Two network namespaces and what connects them."""

    def __init__(self) -> None:
        self.robot, self.gpu = f"rlt-robot-{os.getpid()}", f"rlt-gpu-{os.getpid()}"

    def plug(self) -> None:
        """The sides hear each other."""
        _ip("-n", self.robot, "link", "set", "veth0", "up")

    def cut(self) -> None:
        """They do not."""
        _ip("-n", self.robot, "link", "set", "veth0", "down")


def possible() -> bool:
    """Whether this machine lets us make network namespaces."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextmanager
def two_machines() -> Iterator[Cable]:
    """This process, and what it starts, on the robot's side; the GPU's side beside it; the cable plugged in."""
    cable = Cable()
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    kept = os.environ.get(RANGE)
    try:
        for name in (cable.robot, cable.gpu):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "veth0", "netns", cable.robot, "type", "veth", "peer", "name", "veth0", "netns", cable.gpu)
        for name, address in ((cable.robot, "10.231.0.1/24"), (cable.gpu, "10.231.0.2/24")):
            _ip("-n", name, "address", "add", address, "dev", "veth0")
            _ip("-n", name, "link", "set", "veth0", "up")
            _ip("-n", name, "route", "add", "default", "dev", "veth0")
        inside = os.open(f"/run/netns/{cable.robot}", os.O_RDONLY)
        _enter(inside)
        os.close(inside)
        os.environ[RANGE] = "SUBNET"
        yield cable
    finally:
        _enter(before)
        os.close(before)
        if kept is None:
            os.environ.pop(RANGE, None)
        else:
            os.environ[RANGE] = kept
        for name in (cable.robot, cable.gpu):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def split_runner(cable: Cable) -> type[GraphRunner]:
    """A runner that starts the GPU's nodes on the GPU's side."""

    class SplitRunner(GraphRunner):
        def _command(self, spec: NodeSpec) -> list[str]:
            command = super()._command(spec)
            return ["ip", "netns", "exec", cable.gpu, *command] if spec.name in GPU_NODES else command

    return SplitRunner


def sides(nodes: Sequence[NodeSpec]) -> tuple[list[str], list[str]]:
    """(names on the robot's side, names on the GPU's side)."""
    names = [node.name for node in nodes]
    return [n for n in names if n not in GPU_NODES], [n for n in names if n in GPU_NODES]


def _enter(descriptor: int) -> None:
    """This thread, and all that it starts, into a network namespace. Raises OSError."""
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _ip(*words: str | Path) -> None:
    subprocess.run(["ip", *words], check=True)
