"""The graph is found on this machine alone, whatever it is started with, unless the caller chose a range."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlt_bringup import demo, replay, runner
from rlt_bringup.discovery import VARIABLE

ROOT = Path(__file__).resolve().parents[3]
SHOW = [sys.executable, "-c", f"import os; print(os.environ.get({VARIABLE!r}))"]
SOURCED = ["bash", "-c", ". scripts/env.sh; " + shlex.join(SHOW)]


def discovery_range(command, **given):
    """What a child of `command` gets, when nothing but `given` is in the environment already."""
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | given
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()[-1]


@pytest.mark.parametrize("command", [["scripts/with_env.sh", *SHOW], SOURCED])
def test_the_environment_keeps_discovery_on_this_machine_unless_asked_otherwise(command):
    assert discovery_range(command) == "LOCALHOST"
    assert discovery_range(command, **{VARIABLE: "SUBNET"}) == "SUBNET"


@pytest.mark.parametrize("main", [demo.main, runner.main, replay.main])
@pytest.mark.parametrize("chosen", [None, "SUBNET"])
def test_so_do_demo_runner_and_replay_without_that_environment(main, chosen, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, chosen or "")
    if chosen is None:
        monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    arguments = {
        demo.main: ["--task", "absent", "--run", str(tmp_path)],
        runner.main: ["--task", "absent", "--run", str(tmp_path)],
        replay.main: ["--bag", str(tmp_path / "absent.mcap")],
    }
    with pytest.raises(SystemExit):
        main(arguments[main])
    assert os.environ[VARIABLE] == (chosen or "LOCALHOST")
