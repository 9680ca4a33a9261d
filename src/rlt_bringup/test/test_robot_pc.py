"""What docs/robot_pc.md sets reaches the processes: seen from outside, and in what they say of themselves."""

import os
from collections import defaultdict
from dataclasses import replace

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from harness.untrained_run import on_a_timer, prepare
from rclpy.executors import SingleThreadedExecutor

from rlt_bringup.graph import GraphOptions, NodeSpec, config_file, describe, resolve
from rlt_bringup.runner import GraphRunner
from rlt_common import topics

CORE = max(os.sched_getaffinity(0))
STARTS_S = 60.0


@pytest.fixture
def diagnostics():
    """A node's newest values, by name, once `wait` was called."""
    rclpy.init()
    node = rclpy.create_node("listener")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    of_node = defaultdict(dict)

    def on_message(message):
        for status in message.status:
            of_node[status.name].update({value.key: value.value for value in status.values})

    node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, on_message, topics.QOS_STREAM)

    def wait(node_name, *names, until=lambda values: True):
        values = of_node[node_name]
        for _ in range(round(STARTS_S / 0.1)):
            executor.spin_once(timeout_sec=0.1)
            if set(names) <= set(values) and until(values):
                return values
        raise AssertionError(f"{node_name} says {values}")

    yield wait
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


def run_executor(tmp_path, **parameters):
    files = {"robot": str(on_a_timer(tmp_path)), "task": str(config_file("tasks", "screw"))}
    spec = NodeSpec("rlt_control", "chunk_executor", "chunk_executor", {**files, **parameters}, respawn=False)
    return GraphRunner([spec], tmp_path / "log")


def run_graph(tmp_path, robot, *names):
    """These nodes of the graph, each with priority 5."""
    task = str(prepare(tmp_path, robot=robot))
    graph = describe(resolve(GraphOptions(task=task, robot=robot, run=str(tmp_path), mode="train")))
    specs = [replace(spec, parameters={**spec.parameters, "priority": 5}) for spec in graph if spec.name in names]
    return GraphRunner(specs, tmp_path / "log")


def test_the_executor_stays_on_its_core_and_says_so(tmp_path, diagnostics):
    with run_executor(tmp_path, cpus=[CORE]) as runner:
        assert diagnostics("chunk_executor", "scheduling", "late_p999_ms")["scheduling"].endswith(f"cpus {CORE}")
        assert os.sched_getaffinity(runner.pid("chunk_executor")) == {CORE}


def test_a_priority_is_had_or_the_node_says_what_to_set(tmp_path, diagnostics):
    names = ("chunk_executor", "vla", "rl_policy")
    with run_graph(tmp_path, str(on_a_timer(tmp_path)), *names) as runner:
        for name in names:
            diagnostics(name, "scheduling", until=lambda values: " 5" in values["scheduling"])
            said = diagnostics(name)["scheduling"]
            if os.sched_getscheduler(runner.pid(name)) == os.SCHED_FIFO:
                assert said.startswith("SCHED_FIFO 5,")
            else:
                assert "rtprio 5" in said


def test_in_lockstep_nobody_takes_a_priority(tmp_path, diagnostics):
    with run_graph(tmp_path, "sim", "vla", "rl_policy") as runner:
        for name in ("vla", "rl_policy"):
            diagnostics(name, "scheduling")
            assert os.sched_getscheduler(runner.pid(name)) == os.SCHED_OTHER
