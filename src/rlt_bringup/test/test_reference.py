"""The reference pages: generated from the sources, complete, and not stale."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from rlt_bringup.graph import NODE_NAMES

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "reference.py"
OTHERS = {"spacenav"}  # a node of another package


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_in_docs_are_what_the_sources_say():
    result = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_every_node_of_the_graph_has_a_table(reference):
    described = {name for _, name, _ in reference.nodes()}
    assert described >= set(NODE_NAMES) - OTHERS


def test_every_row_of_a_node_and_of_a_file_says_what_it_means(reference):
    page = reference.parameters_page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if row.rstrip().endswith("|  |")] == []


def test_every_interface_file_has_a_heading(reference):
    page = reference.messages_page()
    files = [path for kind in ("msg", "srv", "action") for path in (ROOT / "src/rlt_msgs" / kind).iterdir()]
    assert len(files) > 20
    assert [path.stem for path in files if f"### {path.stem}\n" not in page] == []


def test_ranges_choices_and_defaults_are_those_that_are_declared(reference):
    page = reference.parameters_page()
    assert "| `control_hz` | float | `50.0` | 1 to 1000 | Hz |" in page
    assert "| `tick` | text | `timer` | `timer`, `joint_states` |" in page
    assert "| `run_directory` | text | **required** |" in page
    assert "| `agent.beta` |" in page


def test_constants_and_comments_of_a_message_are_shown(reference):
    page = reference.messages_page()
    assert "| `PHASE_BASE=2` | `uint8` | the VLA drives to the critical phase |" in page
    assert "| `phase` | `uint8` | PHASE_* |" in page
