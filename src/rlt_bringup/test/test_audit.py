"""The audit of the pinned packages: what counts as clean, and that everything is pinned."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def audit():
    return script("audit")


@pytest.fixture(scope="module")
def constraints():
    return script("constraints")


def without_ros():
    kind = Path(sys.prefix) / ".rlt-kind"
    return kind.is_file() and kind.read_text().startswith("wheels ")


def test_every_package_is_pinned_to_one_version(audit):
    files = audit.requirement_files()
    assert len(files) >= 6
    assert ROOT / "constraints.txt" in files, "what the named packages need in turn is audited too"
    assert {file.name: audit.not_pinned(file.read_text()) for file in files} == {file.name: [] for file in files}
    loose = ["b>=2", "c", "d~=1.0", "e==2.*", "-e .", "git+https://example.org/f", "g==1,<2"]
    assert audit.not_pinned("\n".join(["a[x]==1.0.post1  # why", "# note", "-r other.txt", *loose])) == loose


@pytest.mark.skipif(not without_ros(), reason="with ROS 2 installed, its own packages are used")
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the constraints are those of Python 3.11")
def test_what_the_named_packages_need_in_turn_is_pinned_to_what_is_installed(constraints):
    lines = constraints.FILE.read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned == constraints.needed(), "make constraints"
    assert len(pinned) > 100
    assert "ros-rcl" in pinned, "needed by ros-rclpy alone"


def test_the_closure_holds_what_is_needed_by_what_is_needed_and_leaves_out_what_no_marker_asks_for(
    constraints, monkeypatch
):
    packages = {
        "named": ["Child.One>=1", "other; extra == 'more'", "never; python_version < '3'"],
        "child-one": ["grand_child", "nvidia-cuda==1", "named"],
        "other": [],
        "grand-child": [],
    }

    class Installed:
        version = "7"

        def __init__(self, name):
            self.requires = packages[name]

    monkeypatch.setattr(constraints, "distribution", Installed)
    monkeypatch.setattr(constraints, "required", lambda: {"named": set()})
    assert constraints.needed() == {"child-one": "7", "grand-child": "7"}
    monkeypatch.setattr(constraints, "required", lambda: {"named": {"more"}})
    assert set(constraints.needed()) == {"child-one", "grand-child", "other"}


def test_setup_takes_the_constraints_and_makes_the_environment_anew_when_they_change():
    text = (ROOT / "scripts" / "setup.sh").read_text()
    wheels = re.search(r'if \[ "\$way" = wheels \]; then\n(.*?)\n  else', text, flags=re.DOTALL).group(1)
    assert "-c constraints.txt" in wheels
    hashed = re.search(r"hash_environment\(\) \{\n(.*?)\n\}", text, flags=re.DOTALL).group(1)
    assert "constraints.txt" in hashed


def test_the_drivers_sources_are_fixed_to_commits():
    repositories = yaml.safe_load((ROOT / "drivers.repos").read_text())["repositories"]
    assert len(repositories) >= 6
    loose = [name for name, own in repositories.items() if not re.fullmatch(r"[0-9a-f]{40}", str(own["version"]))]
    assert loose == []


def test_the_audit_runs_with_what_python_itself_brings():
    """The workflow runs it without this project's environment."""
    code = f"import runpy; runpy.run_path({str(ROOT / 'scripts' / 'audit.py')!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)


def said(*packages):
    return json.dumps({"dependencies": list(packages), "fixes": []})


def test_clean_is_only_what_was_looked_up(audit):
    good = {"name": "good", "version": "1", "vulns": []}
    bad = {"name": "bad", "version": "2", "vulns": [{"id": "CVE-1"}]}
    unknown = {"name": "unknown", "skip_reason": "not found"}
    assert audit.verdict(said(good), "")[0] == 0
    assert audit.verdict(said(good, unknown), "") == (
        audit.COULD_NOT_ASK,
        "1 of 2 packages looked up, 0 vulnerabilities; NOT looked up: unknown",
    )
    status, words = audit.verdict(said(good, bad, unknown), "")
    assert status == audit.FOUND
    assert "bad 2: CVE-1" in words
    assert audit.verdict("", "trace\nConnectionError: no route") == (
        audit.COULD_NOT_ASK,
        "NOT DONE: ConnectionError: no route",
    )
