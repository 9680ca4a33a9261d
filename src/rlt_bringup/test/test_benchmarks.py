"""Committed benchmark results have the agreed form, and the tables of benchmarks/README.md are made from them."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
RESULTS = sorted((FOLDER / "results").glob("*.json"))


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module


def test_there_are_results():
    assert RESULTS


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_a_result_says_how_it_was_made_and_what_it_wanted(path):
    document = json.loads(path.read_text())
    assert {"command", "commit", "machine", "seeds", "n", "rows", "goals"} <= set(document)
    for goal in document["goals"]:
        assert set(goal) == {"name", "value", "goal", "met"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_the_table_is_the_result_s(path, benchmark):
    module = benchmark(path.stem)
    table = module.table(json.loads(path.read_text()))
    assert table in (FOLDER / "README.md").read_text()


def test_a_result_is_published_with_its_table(benchmark, monkeypatch, tmp_path, capsys):
    results = benchmark("harness.results")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    results.README.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n")
    goal = results.Goal("speed", 2.0, ">= 1", True)
    results.publish(
        "x", lambda d: f"n = {d['n']}", command="make bench-x", seeds=[0], n=3, rows=[{"a": 1}], goals=[goal]
    )
    assert results.README.read_text() == "before\n<!-- x -->\nn = 3\n<!-- /x -->\nafter\n"
    document = json.loads((tmp_path / "results" / "x.json").read_text())
    assert (document["command"], document["rows"], document["goals"][0]["met"]) == ("make bench-x", [{"a": 1}], True)
    assert "| speed | 2 | >= 1 | yes |" in capsys.readouterr().out


def test_goals_are_judged_by_the_worst_seed(benchmark):
    module = benchmark("screw")

    def row(ratio, base, rlt, minutes):
        return {
            "ratio": {"throughput": ratio},
            "base": {"success_rate": base},
            "rlt": {"success_rate": rlt},
            "wall_minutes": minutes,
        }

    met = [goal.met for goal in module.goals([row(3.0, 0.4, 0.9, 30), row(2.6, 0.5, 0.8, 39)])]
    assert met == [True] * 5
    missed = [goal.met for goal in module.goals([row(3.0, 0.4, 0.9, 30), row(None, 0.1, 0.05, 41)])]
    assert missed == [False, False, False, True, False]
