"""How every node's process starts, spins and ends: one place for error words, Ctrl-C and clean-up."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from rlt_common.parameters import ParameterError, reject_unknown_qos

N = TypeVar("N", bound=Node)


def run_node(
    name: str,
    make: Callable[[], N],
    *errors: type[Exception],
    spin: Callable[[N, SingleThreadedExecutor], None] | None = None,
    work: Callable[[N, SingleThreadedExecutor, Callable[[], bool]], None] | None = None,
    at_exit: Callable[[N], None] | None = None,
) -> None:
    """Run a node until it is interrupted.

    Ctrl-C interrupts it wherever it is, but for `work`.

    Args:
        name: for error messages.
        make: builds the node.
        errors: what, beside ParameterError, means that the node was started wrongly: it ends with status 1 and the
            error's own words, without a traceback.
        spin: what to do with node and executor until the end; by default every callback as it comes.
        work: instead of `spin`, what must not be left half done: until its last argument says that a stop was asked
            for, by SIGINT or SIGTERM. It ends what it has in hand, with a context that is still valid, and returns soon
            after. A second SIGINT interrupts it.
        at_exit: called before the node is destroyed.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO if work else SignalHandlerOptions.ALL)
    try:
        node = make()
        reject_unknown_qos(node)
    except (ParameterError, *errors) as error:
        sys.exit(f"{name}: {error}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if work is not None:
            work(node, executor, _stop_request())
        elif spin is not None:
            spin(node, executor)
        else:
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if at_exit is not None:
            at_exit(node)
        node.destroy_node()
        rclpy.try_shutdown()


def _stop_request() -> Callable[[], bool]:
    """Whether a stop was asked for since this call. From here on the first signal only asks."""
    asked: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        # one SIGINT after a SIGTERM: a launcher that was told to end too hands its own on
        if number == signal.SIGINT and signal.SIGINT in asked:
            raise KeyboardInterrupt
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return lambda: bool(asked)
