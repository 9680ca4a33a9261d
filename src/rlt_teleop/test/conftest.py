"""Fixtures of the node tests: a ROS domain and a namespace of their own, nodes in one executor, no sleeping."""

from __future__ import annotations

import itertools
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

CONFIG = Path(__file__).parents[2] / "rlt_bringup" / "config"
DEADLINE_S = 20.0
_names = itertools.count()


def _free_domain() -> int:
    for domain in random.sample(range(20, 102), 82):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError("every ROS domain from 20 to 101 is in use")


@pytest.fixture(scope="session")
def ros_domain() -> int:
    """The domain of this test session; the one of the environment when a wrapper has chosen it."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(_free_domain()))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return int(os.environ["ROS_DOMAIN_ID"])


class Graph:
    """Nodes of one test in one executor, in a namespace that no other test uses."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.executor = SingleThreadedExecutor()
        self.nodes: list[Node] = []

    def add(self, node: Node) -> Node:
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def remove(self, node: Node) -> None:
        self.executor.remove_node(node)
        self.nodes.remove(node)
        node.destroy_node()

    def until(self, condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Spin until the condition holds; fail with `what` when it does not in time."""
        end = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"did not happen within {deadline_s:g} s: {what}")
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        for node in list(self.nodes):
            self.remove(node)
        self.executor.shutdown()


@pytest.fixture
def make_graph(ros_domain: int, tmp_path: Path) -> Iterator[Callable[..., Graph]]:
    """make_graph({node name: {parameter: value}}) -> Graph."""
    graphs: list[Graph] = []

    def make(parameters: dict[str, dict[str, object]]) -> Graph:
        namespace = f"/test_{os.getpid()}_{next(_names)}"
        file = tmp_path / "parameters.yaml"
        file.write_text(yaml.safe_dump({f"/**/{n}": {"ros__parameters": p} for n, p in parameters.items()}))
        arguments = ["--ros-args", "-r", f"__ns:={namespace}", "--params-file", str(file)]
        rclpy.init(args=arguments, domain_id=ros_domain)
        graphs.append(Graph(namespace))
        return graphs[-1]

    yield make
    for graph in graphs:
        graph.close()
    rclpy.try_shutdown()
