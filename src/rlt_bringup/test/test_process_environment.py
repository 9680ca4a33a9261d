"""What processes find in their environment: the same, whether a shell sourced scripts/env.sh or ROS alone."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlt_bringup.discovery import VARIABLE
from rlt_bringup.graph import NodeSpec
from rlt_bringup.process_environment import MALLOC, PROFILES, THREADS, set_defaults
from rlt_bringup.runner import GraphRunner

ROOT = Path(__file__).resolve().parents[3]
NAMES = (VARIABLE, *MALLOC, *THREADS, *PROFILES)


@pytest.fixture
def bare(monkeypatch):
    """As a shell has it that sourced ROS and the workspace, and nothing of ours."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)
    return monkeypatch


def test_they_are_those_of_the_shell_s_script(bare):
    show = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    said = subprocess.run(["scripts/with_env.sh", *show], capture_output=True, text=True, timeout=60, cwd=ROOT)
    shell, ours = json.loads(said.stdout.splitlines()[-1]), set_defaults()
    assert set(ours) == set(NAMES)
    for name in PROFILES:
        assert Path(shell.pop(name)).read_bytes() == Path(ours.pop(name)).read_bytes()
    assert {name: shell[name] for name in ours} == ours


def test_what_the_caller_chose_stays(bare):
    bare.setenv("OMP_NUM_THREADS", "4")
    bare.setenv(VARIABLE, "SUBNET")
    chosen = set_defaults()
    assert (chosen["OMP_NUM_THREADS"], chosen[VARIABLE]) == ("4", "SUBNET")


def test_every_node_that_the_runner_starts_has_them(bare, tmp_path):
    set_defaults()
    executor = NodeSpec("rlt_teleop", "operator_page", "operator_page")
    with GraphRunner([executor], tmp_path) as runner:
        environment = Path(f"/proc/{runner.pid('operator_page')}/environ").read_bytes().decode().split("\0")
    assert {f"{name}={os.environ[name]}" for name in NAMES} <= set(environment)


def function(name):
    tree = ast.parse((ROOT / "src/rlt_bringup/rlt_bringup/launch_graph.py").read_text(encoding="utf-8"))
    return ast.unparse(next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name))


@pytest.mark.parametrize("description", ["launch_description", "replay_description"])
def test_launch_files_set_them_before_anything_starts(description):
    """`launch` is not on PyPI: where it is not installed it is read and not run; test_launch.py runs it."""
    assert "set_defaults()" in function(description).split("\n")[2]


def test_a_driver_s_launch_file_has_them_although_launch_resets_its_environment():
    text = function("_driver")
    assert "SetEnvironmentVariable(name, value) for name, value in environment.items()" in text
    assert "GroupAction([*variables, " in text
