"""Is this machine's part of the graph healthy? For a container's health check, a service manager or a person.

`ros2 run rlt_bringup healthcheck --host robot --mode deploy` takes the launch's own arguments, listens to
`/diagnostics` and ends with status 0 when every node that the launch starts here has spoken and none reports an error;
else with status 1 and a line per complaint. A mode that is one command (demo, adapt, handoff) has graphs at times or
never: there no node is expected, and those that speak must report no error. It only listens: it starts, stops and
moves nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Iterable, Mapping

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from rlt_bringup.discovery import stay_on_this_machine
from rlt_bringup.graph import GRAPH_MODES, NodeSpec, describe, resolve
from rlt_bringup.runner import add_options, options_from
from rlt_bringup.security import HEALTHCHECK, with_identity
from rlt_common import topics
from rlt_common.parameters import ParameterError

LISTEN_S = 5.0
"""Every node speaks once a second; the rest is for discovery on a busy machine, and for an error that passes."""


def expected(nodes: Iterable[NodeSpec], namespace: str = "") -> list[str]:
    """Names on /diagnostics of the nodes that are ours; drivers' nodes have names of their own."""
    own = namespace.strip("/")
    return [f"{own}/{node.name}".lstrip("/") for node in nodes if node.package.startswith("rlt_")]


def complaints(names: Collection[str], heard: Mapping[str, DiagnosticStatus]) -> list[str]:
    """What is wrong, a line each: nodes of `names` that were not heard, or whose last word was an error."""
    lines = []
    for name in names:
        status = heard.get(name)
        if status is None:
            lines.append(f"{name}: silent")
        elif status.level >= DiagnosticStatus.ERROR:
            lines.append(f"{name}: {status.message}")
    return lines


def listen(names: Collection[str] | None, seconds: float) -> dict[str, DiagnosticStatus]:
    """The last status of every node that spoke within `seconds` of wall time, or until there is no complaint.

    Without `names` nobody is expected, and it is listened to the end.
    """
    node = Node("healthcheck", enable_rosout=False, start_parameter_services=False)
    heard: dict[str, DiagnosticStatus] = {}

    def take(message: DiagnosticArray) -> None:
        heard.update({status.name: status for status in message.status})

    node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, take, topics.QOS_CONTROL)
    end = time.monotonic() + seconds
    while (names is None or complaints(names, heard)) and (left := end - time.monotonic()) > 0.0:
        rclpy.spin_once(node, timeout_sec=left)
    node.destroy_node()
    return heard


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup healthcheck`."""
    parser = argparse.ArgumentParser(prog="healthcheck", description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--seconds", type=float, default=LISTEN_S, help="how long to listen (default: %(default)s)")
    parsed = parser.parse_args(remove_ros_args(sys.argv)[1:] if arguments is None else arguments)
    stay_on_this_machine()
    try:
        options = options_from(parsed)
        resolved = resolve(options)
        names = expected(describe(resolved), options.namespace) if options.mode in GRAPH_MODES else None
    except ParameterError as error:
        sys.exit(f"healthcheck: {error}")
    rclpy.init(args=with_identity(sys.argv, HEALTHCHECK, options.namespace))
    try:
        heard = listen(names, parsed.seconds)
        names = sorted(heard) if names is None else names
        wrong = complaints(names, heard)
    finally:
        rclpy.try_shutdown()
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"healthy: {', '.join(names) or f'mode {options.mode} runs no node now'}")


if __name__ == "__main__":
    main()
