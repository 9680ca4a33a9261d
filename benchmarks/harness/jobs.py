"""The work of a benchmark over many run directories, some at a time: adapt VLAs, evaluate them, train on them.

Every piece keeps its result in its run directory, so that the same command goes on where it was interrupted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from harness.experiment import Experiment
from harness.in_process import BASE, EVALUATION_JSON, FOLDER, evaluate, evaluate_base, prepare
from rlt_bringup.demo import QUICK
from rlt_bringup.graph import GraphOptions, resolve
from rlt_bringup.report import ReportError
from rlt_common.parameters import ParameterError
from rlt_vla_node.checkpoint import CheckpointError
from rlt_vla_node.demonstration_encoding import FOLDER as ENCODED
from rlt_vla_node.inference import LayoutError

ADAPT_COST, BASE_COST = 0.8, 0.5
"""Rough cost of an adaptation and of a base VLA's evaluation in units of training and evaluating the full system."""
SMALL = {
    "training_episodes": QUICK.training_episodes,
    "evaluation_episodes": 2,
    "execute_steps": (10,),
    "budget": {key.removeprefix("budget."): value for key, value in QUICK.learner.items()},
}
"""What a quick run changes of its experiments."""


@dataclass(frozen=True)
class Job:
    """A piece of work for a process of its own."""

    name: str
    work: Callable[[], None]
    """Can be pickled."""
    cost: float
    """Rough, for the time left; 0: a result is there, which has only to be looked at."""
    needs: str = ""
    """Name of the job that must be done before."""


def adaptation(run: Path, task: str, seed: int, quick: bool) -> Job:
    """Demonstrations, adapted VLA and RL token in a run directory, where they are not there yet."""
    return Job(_adapt_name(run), partial(_adapt, run, task, seed, quick), 0.0 if _adapted(run) else ADAPT_COST)


def base_evaluation(run: Path, todo: Experiment) -> Job:
    """The base VLA of a run directory on the held-out resets; needs its :func:`adaptation`."""
    there = all(any((run / FOLDER / BASE).glob(f"executes-{rows}-*.json")) for rows in todo.execute_steps)
    work = partial(_evaluate, run, todo, True)
    return Job(f"{run.name}: {BASE}", work, 0.0 if there else BASE_COST, _adapt_name(run))


def experiment(run: Path, todo: Experiment, cost: float = 1.0) -> Job:
    """Training, selection and evaluation on the VLA of a run directory; needs its :func:`adaptation`."""
    there = (run / FOLDER / todo.name / EVALUATION_JSON).exists()
    work = partial(_evaluate, run, todo, False)
    return Job(f"{run.name}: {todo.name}", work, 0.0 if there else cost, _adapt_name(run))


def run_jobs(title: str, jobs: Sequence[Job], workers: int) -> None:
    """Run every job in a process of its own, in the order given as far as what they need allows it.

    Args:
        title: of the benchmark, before each line that says how long it will take.
        jobs: with names of their own; what a job needs is one of them.
        workers: processes at a time.

    Raises what a job raised, when those that were running beside it are done.
    """
    unknown = {job.needs for job in jobs if job.needs} - {job.name for job in jobs}
    if unknown:
        raise ValueError(f"nothing makes {min(unknown)!r}, which a job needs")
    left, running = list(jobs), dict[Future, Job]()
    finished: set[str] = set()
    start, done, total = time.monotonic(), 0.0, sum(job.cost for job in jobs)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while left or running:
            ready = [job for job in left if not job.needs or job.needs in finished]
            for job in ready[: workers - len(running)]:
                left.remove(job)
                running[pool.submit(job.work)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if future.exception() is not None and running:
                    print(f"[{title}] {job.name} failed; {len(running)} other jobs end before this does", flush=True)
                future.result()
                finished.add(job.name)
                done += job.cost
                if done:
                    left_min = (time.monotonic() - start) / done * (total - done) / 60.0
                    print(f"[{title}] {len(finished)} of {len(jobs)} jobs, about {left_min:.0f} min left", flush=True)


def run_resumable(title: str, work: Callable[[], None]) -> None:
    """Run a benchmark: errors of configuration and data end it without a traceback."""
    try:
        work()
    except (ParameterError, CheckpointError, LayoutError, ReportError, subprocess.CalledProcessError) as error:
        sys.exit(f"[{title}] failed: {error}")
    except KeyboardInterrupt:
        sys.exit(f"[{title}] interrupted; the same command goes on from here")


# ---- the work, in processes of its own


def _adapt_name(run: Path) -> str:
    return f"{run.name}: VLA"


def _adapted(run: Path) -> bool:
    """Whether the stage that adapts is done and all demonstrations are encoded, which it did not always do."""
    shown, encoded = (len(list(folder.glob("*.mcap"))) for folder in (run / "demonstrations", run / "vla" / ENCODED))
    return _has_vla(run) and encoded >= max(shown, 1)


def _has_vla(run: Path) -> bool:
    return (run / "stages" / "adapt.json").exists()


def _adapt(run: Path, task: str, seed: int, quick: bool) -> None:
    if _adapted(run):
        return
    own = ("--task", task, "--run", str(run), "--seed", str(seed))
    if not _has_vla(run):
        _command(run, "rlt_bringup.demo", "--prepare", *own, *(["--quick"] if quick else []))
    if not _adapted(run):
        resolved = resolve(GraphOptions(task=task, robot="sim", run=str(run), seed=seed))
        files = ("--robot", str(resolved.robot_file), "--task", str(resolved.task_file), "--seed", str(seed))
        folders = ("--demonstrations", str(run / "demonstrations"), "--checkpoint", str(resolved.checkpoint))
        _command(run, "rlt_vla_node.encode_command", *files, *folders)


def _command(run: Path, module: str, *arguments: str) -> None:
    """Run one of our commands; its progress goes to the terminal, with the run's name before it."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, errors="replace", env=environment, **streams) as process:
        for line in process.stdout:
            print(f"[{run.name}] {line}", end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _evaluate(run: Path, todo: Experiment, base: bool) -> None:
    def say(text: str) -> None:
        print(f"[{run.name}] {text}", flush=True)

    setting = prepare(todo, run)
    if base:
        evaluate_base(setting, say)
    else:
        evaluate(setting, say)
