"""What bench-gpu makes of its rows: goals, verdicts and the table, with parts that failed."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
MACHINE = {"gpu": "a GPU", "gpu_gb": 80.0, "driver": "1", "cpu": "a CPU", "cores": 16, "torch": "2", "cuda": "13"}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module("gpu")


def ms(p50):
    return {"p50": p50, "p95": 1.1 * p50, "n": 50}


def row(measure, **values):
    return {"part": "pi05", "measure": measure, "commit": "c" * 40, "took_s": 1.0, **values}


def boundary(measure, ten, **values):
    verdicts = {steps: {"prefetch_steps": 8, "fits": True, "problems": [], "notes": []} for steps in ("10", "5")}
    return row(
        measure,
        boundary_ms={"10": ms(ten), "5": ms(0.6 * ten)},
        verdicts=verdicts,
        peak_gb=9.0,
        difference={},
        **values,
    )


@pytest.fixture
def rows():
    bits = {"z": True, "rl_token": True, "chunk": True}
    return [
        row(
            "open",
            versions={"lerobot": "0.6.1"},
            values=3_600_000_000,
            token_values=200_000_000,
            disk_gb=7.6,
            write_s=1.0,
            load_s=60.0,
            weights_gb=7.7,
            host_peak_gb=22.0,
            tokens=768,
            width=2048,
            horizon=50,
        ),
        row("exact", chunk_error=0.0, chunk_spread=1.0, repeats=bits, batch=8, batch_error={"z": 0.01}),
        row("strided 16", batch=16, batch_ms=ms(400.0), per_s=40.0, peak_gb=12.0),
        boundary("eager highest", 304.0, encode_ms=ms(30.0), token_ms=ms(4.0)),
        boundary("compile reduce-overhead", 84.0, compile_s=70.0, repeats=bits),
        row("train lora", failed="OutOfMemoryError: no memory"),
    ]


def test_the_token_is_judged_by_the_fastest_forward_pass(gpu, rows):
    forward, prefix, chunk, rate = gpu.goals(rows)
    assert (forward.value, forward.met) == (pytest.approx(4.0 / 80.0), True)
    assert (prefix.value, prefix.met) == (pytest.approx(4.0 / 30.0), False)
    assert (chunk.met, rate.met) == (True, True)


def test_what_was_not_measured_meets_no_goal(gpu):
    goals = gpu.goals([row("open", failed="ImportError: no lerobot")])
    assert [(goal.value, goal.met) for goal in goals] == [(None, False)] * 4


def test_the_table_says_what_failed_and_why(gpu, rows):
    document = {
        "command": "make bench-gpu",
        "machine": MACHINE,
        "n": 50,
        "rows": rows,
        "goals": [vars(g) for g in gpu.goals(rows)],
    }
    text = gpu.table(document)
    assert "- pi05, train lora: OutOfMemoryError: no memory" in text
    assert "| 16 | 400.0, 440.0 | 40 | 12.0 |" in text
    assert "84.0, 92.4" in text


def test_a_measure_that_fails_is_a_row(gpu):
    found = gpu.attempt("compile", lambda: 1 / 0)
    assert (found["measure"], found["failed"]) == ("compile", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(("seconds", "steps", "fits"), [(0.06, 4, True), (0.25, 14, False), (2.0, 102, False)])
def test_a_verdict_asks_as_far_ahead_as_it_takes(gpu, seconds, steps, fits):
    robot, task = gpu.load_robot(gpu.ROBOT), replace(gpu.load_task(gpu.TASK), prefetch_steps=0)
    found = gpu.gpu_measures.verdict(robot, task, seconds, 0.0)
    assert (found["prefetch_steps"], found["fits"]) == (steps, fits)
