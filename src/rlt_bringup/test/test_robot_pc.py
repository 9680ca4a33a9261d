"""What docs/robot_pc.md sets reaches the processes: seen from outside, and in what the executor says of itself."""

import os

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from harness.untrained_run import on_a_timer
from rclpy.executors import SingleThreadedExecutor

from rlt_bringup.graph import NodeSpec, config_file
from rlt_bringup.runner import GraphRunner
from rlt_common import topics

CORE = max(os.sched_getaffinity(0))
STARTS_S = 60.0


@pytest.fixture
def diagnostics():
    """The executor's newest values, by name, once `wait` was called."""
    rclpy.init()
    node = rclpy.create_node("listener")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    values = {}

    def on_message(message):
        for status in message.status:
            if status.name == "chunk_executor":
                values.update({value.key: value.value for value in status.values})

    node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, on_message, topics.QOS_STREAM)

    def wait(*names):
        for _ in range(round(STARTS_S / 0.1)):
            executor.spin_once(timeout_sec=0.1)
            if set(names) <= set(values):
                return values
        raise AssertionError(f"none of {names} in {values}")

    yield wait
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


def run_executor(tmp_path, **parameters):
    files = {"robot": str(on_a_timer(tmp_path)), "task": str(config_file("tasks", "screw"))}
    spec = NodeSpec("rlt_control", "chunk_executor", "chunk_executor", {**files, **parameters}, respawn=False)
    return GraphRunner([spec], tmp_path / "log")


def test_the_executor_stays_on_its_core_and_says_so(tmp_path, diagnostics):
    with run_executor(tmp_path, cpus=[CORE]) as runner:
        assert diagnostics("scheduling", "late_p999_ms")["scheduling"].endswith(f"cpus {CORE}")
        assert os.sched_getaffinity(runner.pid("chunk_executor")) == {CORE}


def test_a_priority_is_had_or_the_executor_says_what_to_set(tmp_path, diagnostics):
    with run_executor(tmp_path, priority=5) as runner:
        said = diagnostics("scheduling")["scheduling"]
        if os.sched_getscheduler(runner.pid("chunk_executor")) == os.SCHED_FIFO:
            assert said.startswith("SCHED_FIFO 5,")
        else:
            assert "rtprio 5" in said
