"""The launch files under launch itself, where ROS 2's launch is installed: it is not on PyPI."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("launch_ros", "launch_testing")),
    reason="launch_ros and launch_testing are not installed: they come with a ROS 2 installation",
)
def test_the_screw_launch_file_brings_up_a_graph_that_records_episodes():
    command = [sys.executable, "-m", "launch_testing.launch_test", HERE / "launch_screw.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, (result.stdout + result.stderr)[-8000:]
