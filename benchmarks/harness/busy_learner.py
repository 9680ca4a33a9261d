"""The learner at full load in a process of its own, to be switched on and off while something else is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

import torch

START_S = 120.0


class BusyLearner:
    """Switches the process, and counts what it does."""

    def __init__(self, context: Any) -> None:
        self.process: Any = None
        self.running, self.ready, self.stop = context.Event(), context.Event(), context.Event()
        self.updates = context.Value("Q", 0)
        self.seconds = context.Value("d", 0.0)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """It updates without a pause inside. Raises RuntimeError when the process has ended."""
        self.check()  # an Event that a killed process waited for can not be set any more
        before = self.updates.value
        self.running.set()
        try:
            while self.updates.value == before:  # the first update shows that it is at work
                self.check()
                time.sleep(0.001)
            yield
            self.check()
        finally:
            self.running.clear()

    def check(self) -> None:
        """Raises RuntimeError when the process has ended."""
        if not self.process.is_alive():
            raise RuntimeError(f"the learner's process ended with status {self.process.exitcode}")

    def updates_per_s(self) -> float:
        """Updates per second while it was at work."""
        return self.updates.value / self.seconds.value


@contextmanager
def busy_learner(
    build: Callable[[], Callable[[], object]], updates_per_call: int, niceness: int = 0
) -> Iterator[BusyLearner]:
    """A process that calls what `build` returns while it is switched on. `build` can be pickled.

    `niceness`: rl_learner's on a robot is its parameter's default. Raises RuntimeError when it does not come up, or has
    ended.
    """
    context = get_context("spawn")
    learner = BusyLearner(context)
    process = context.Process(target=_learn, args=(learner, build, updates_per_call, niceness), daemon=True)
    process.start()
    learner.process = process
    try:
        end = time.monotonic() + START_S
        while not learner.ready.wait(0.1):
            learner.check()
            if time.monotonic() > end:
                raise RuntimeError(f"the learner's process did not come up within {START_S:.0f} s")
        yield learner
    finally:
        learner.stop.set()
        process.join(START_S)


def _learn(
    learner: BusyLearner, build: Callable[[], Callable[[], object]], updates_per_call: int, niceness: int
) -> None:
    os.nice(niceness)
    torch.set_num_threads(1)
    update = build()
    update()
    learner.ready.set()
    while not learner.stop.is_set() and parent_process().is_alive():
        if not learner.running.wait(1.0):
            continue
        start = time.perf_counter()
        update()
        with learner.seconds.get_lock(), learner.updates.get_lock():
            learner.seconds.value += time.perf_counter() - start
            learner.updates.value += updates_per_call
