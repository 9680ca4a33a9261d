"""The runner with real processes: kills, restarts, and ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlt_bringup.graph import GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.runner import GraphRunner, RunnerError

LIMIT_S = 30.0


def nodes(tmp_path, *names):
    return [node for node in describe(resolve(GraphOptions(run=str(tmp_path)))) if node.name in names]


def until(condition):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        os.sched_yield()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_node_is_started_again(tmp_path):
    with GraphRunner(nodes(tmp_path, "sim_robot"), tmp_path / "log") as runner:
        first = runner.pid("sim_robot")
        os.kill(first, signal.SIGKILL)

        def restarted():
            runner.poll()
            return runner.restarts("sim_robot") == 1

        until(restarted)
        second = runner.pid("sim_robot")
        assert second != first
        assert alive(second)
    assert not alive(second)


def test_a_killed_executor_stays_down_until_somebody_starts_it(tmp_path):
    with GraphRunner(nodes(tmp_path, "chunk_executor"), tmp_path / "log") as runner:
        os.kill(runner.pid("chunk_executor"), signal.SIGKILL)
        with pytest.raises(RunnerError, match="chunk_executor ended with status -9"):
            until(lambda: runner.poll())
        runner.start_again("chunk_executor")
        assert alive(runner.pid("chunk_executor"))


def test_a_node_that_refuses_its_parameters_ends_the_run_with_its_own_words(tmp_path):
    spec = nodes(tmp_path, "sim_robot")[0]
    wrong = NodeSpec(spec.package, spec.executable, spec.name, {**spec.parameters, "gate_stpes": 3})
    message = "sim_robot knows no parameter 'gate_stpes'"
    with GraphRunner([wrong], tmp_path / "log") as runner, pytest.raises(RunnerError, match=message):
        until(lambda: runner.poll())


def test_a_missing_executable_is_named(tmp_path):
    with pytest.raises(RunnerError, match=r"no executable .*rlt_sim/nothing: run make setup"):
        GraphRunner([NodeSpec("rlt_sim", "nothing", "nothing")], tmp_path / "log").start()


def test_nodes_do_not_outlive_a_killed_runner(tmp_path):
    command = [sys.executable, "-m", "rlt_bringup.runner", "--run", str(tmp_path), "--mode", "collect"]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def children():
        path = Path(f"/proc/{runner.pid}/task/{runner.pid}/children")
        return path.read_text().split() if path.exists() else []

    until(lambda: len(children()) >= 5)
    nodes = [int(pid) for pid in children()]
    runner.kill()
    runner.wait()
    until(lambda: not any(alive(pid) for pid in nodes))
