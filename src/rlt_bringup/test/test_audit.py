"""The audit of the pinned packages: what counts as clean, and that everything is pinned."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_is_pinned_to_one_version(audit):
    files = audit.requirement_files()
    assert len(files) >= 5
    assert {file.name: audit.not_pinned(file.read_text()) for file in files} == {file.name: [] for file in files}
    loose = ["b>=2", "c", "d~=1.0", "e==2.*", "-e .", "git+https://example.org/f", "g==1,<2"]
    assert audit.not_pinned("\n".join(["a[x]==1.0.post1  # why", "# note", "-r other.txt", *loose])) == loose


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
