"""The chunk executor's process with a record of every tick: when it was due and when it started.

`--loop executor` is the executor as it is. `--loop timer` is the same node, ticked by an rclpy timer that an rclpy
executor spins, in a process as rclpy makes it: what one would write first. Both do the same work per tick.
The record is written at the end: float64 (ticks, 2), monotonic s: deadline, start.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.utilities import remove_ros_args

from rlt_common.process import run_node
from rlt_control import chunk_executor_node
from rlt_control.chunk_executor_node import ChunkExecutorNode
from rlt_control.real_time import publish_from_another_thread

LOOPS = ("executor", "timer")


class RecordingExecutor(ChunkExecutorNode):
    """Keeps the deadline and the start of every tick."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(**node_arguments)
        self._ticks: list[tuple[float, float]] = []

    def timer_tick(self, late_s: float) -> None:
        """As the executor does, and keep when."""
        now = time.monotonic()
        self._ticks.append((now - late_s, now))
        super().timer_tick(late_s)

    def write(self, path: Path) -> None:
        """Write the record: (N, 2) float64, row-major."""
        np.asarray(self._ticks, np.float64).tofile(path)


def spin_by_timer(node: ChunkExecutorNode, executor: SingleThreadedExecutor) -> None:
    """A plain rclpy timer. rclpy has set its next call when the tick begins: one period before, this one was due."""
    period_s = node.robot.period_s

    def tick() -> None:
        node.timer_tick(period_s - timer.time_until_next_call() * 1e-9)

    timer = node.create_timer(period_s, tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
    executor.spin()


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="file of pairs of float64")
    options = parser.parse_args(remove_ros_args()[1:])
    if options.loop == "executor":
        publish_from_another_thread()
    run_node(
        "chunk_executor",
        RecordingExecutor,
        ValueError,
        spin=chunk_executor_node.spin if options.loop == "executor" else spin_by_timer,
        at_exit=partial(RecordingExecutor.write, path=options.out),
    )


if __name__ == "__main__":
    main()
