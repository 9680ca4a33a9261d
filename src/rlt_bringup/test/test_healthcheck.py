"""The health check: who is expected, what counts as ill, and a real graph, whole and with a node killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from rlt_bringup.graph import GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.healthcheck import complaints, expected
from rlt_bringup.runner import GraphRunner
from rlt_bringup.security import HEALTHCHECK, with_identity

ROBOT_SIDE = {"sim_robot", "chunk_executor", "camera_ingest", "episode_manager", "joy_operator", "recorder"}


def status(name, level=DiagnosticStatus.OK, message="fine"):
    return {name: DiagnosticStatus(name=name, level=level, message=message)}


def check(run, *options, mode="collect", seconds=60):
    command = [sys.executable, "-m", "rlt_bringup.healthcheck", "--mode", mode, "--run", str(run), *options]
    return subprocess.run([*command, "--seconds", str(seconds)], capture_output=True, text=True, timeout=150)


def test_the_nodes_of_this_machine_are_expected(tmp_path):
    def names(**options):
        return set(expected(describe(resolve(GraphOptions(run=str(tmp_path), **options)))))

    assert names(host="gpu") == {"vla", "rl_policy", "rl_learner"}
    assert names(host="robot") == ROBOT_SIDE | {"scripted_operator"}


def test_a_drivers_node_is_not_asked_and_a_namespace_is_part_of_the_name():
    nodes = [NodeSpec("joy", "joy_node", "gamepad"), NodeSpec("rlt_control", "chunk_executor", "chunk_executor")]
    assert expected(nodes, "/robot_a/") == ["robot_a/chunk_executor"]


@pytest.mark.parametrize(
    ("heard", "lines"),
    [
        (status("vla"), []),
        (status("vla", DiagnosticStatus.WARN), []),
        (status("vla", DiagnosticStatus.ERROR, "no disk"), ["vla: no disk"]),
        (status("vla", DiagnosticStatus.STALE, "stale"), ["vla: stale"]),
        (status("other"), ["vla: silent"]),
    ],
)
def test_silence_and_errors_are_complaints_and_warnings_are_none(heard, lines):
    assert complaints(["vla"], heard) == lines


@pytest.mark.timeout(400)
def test_a_running_graph_is_healthy_until_a_node_is_gone(tmp_path):
    nodes = describe(resolve(GraphOptions(run=str(tmp_path), mode="collect", episodes=False)))
    with GraphRunner(nodes, tmp_path / "log") as runner:
        whole = check(tmp_path)
        assert whole.returncode == 0, whole.stdout + whole.stderr
        os.kill(runner.pid("recorder"), signal.SIGKILL)
        broken = check(tmp_path, seconds=5)
    assert broken.returncode == 1
    assert "recorder: silent" in broken.stderr


@pytest.mark.timeout(200)
def test_while_a_command_runs_nobody_is_expected_and_whoever_speaks_must_be_well(tmp_path):
    quiet = check(tmp_path, mode="demo", seconds=1)
    assert (quiet.returncode, quiet.stdout.strip()) == (0, "healthy: mode demo runs no node now")
    nodes = describe(resolve(GraphOptions(run=str(tmp_path), mode="collect")))
    with GraphRunner([node for node in nodes if node.name == "episode_manager"], tmp_path / "log"):
        end = time.monotonic() + 60
        while not (ill := check(tmp_path, mode="demo", seconds=5)).returncode:
            assert time.monotonic() < end, ill.stdout
    assert "episode_manager: no control_state: the chunk executor is gone" in ill.stderr


def test_where_sros2_is_on_it_has_an_identity_of_its_own(monkeypatch):
    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    assert with_identity(["healthcheck"], HEALTHCHECK, "cell") == ["healthcheck"]
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    own = ["healthcheck", "--ros-args", "--enclave", "/cell/healthcheck"]
    assert with_identity(["healthcheck"], HEALTHCHECK, "cell") == own
    assert with_identity(own, HEALTHCHECK) == own
