"""How every node's process starts, spins and ends: one place for error words, Ctrl-C and clean-up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from rlt_common.parameters import ParameterError, reject_unknown_qos

N = TypeVar("N", bound=Node)


def run_node(
    name: str,
    make: Callable[[], N],
    *errors: type[Exception],
    spin: Callable[[N, SingleThreadedExecutor], None] | None = None,
    at_exit: Callable[[N], None] | None = None,
) -> None:
    """Run a node until it is interrupted.

    Args:
        name: for error messages.
        make: builds the node.
        errors: what, beside ParameterError, means that the node was started wrongly: it ends with status 1 and the
            error's own words, without a traceback.
        spin: what to do with node and executor until the end; by default every callback as it comes.
        at_exit: called before the node is destroyed.
    """
    rclpy.init()
    try:
        node = make()
        reject_unknown_qos(node)
    except (ParameterError, *errors) as error:
        sys.exit(f"{name}: {error}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if spin is None:
            executor.spin()
        else:
            spin(node, executor)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if at_exit is not None:
            at_exit(node)
        node.destroy_node()
        rclpy.try_shutdown()
