"""Which part of /diagnostics goes into this robot's episode files: several robots of one machine share it. Pure."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray


def own(message: DiagnosticArray, namespace: str) -> DiagnosticArray | None:
    """The statuses of the robot whose nodes are in `namespace` ("/": none), None without any.

    A node's status is named after it, "cell_a/vla"; drivers may add what of theirs it is about, "driver: temperature".
    """
    inside = namespace.strip("/")
    found = [status for status in message.status if _of(status.name.lstrip("/").partition(":")[0], inside)]
    return DiagnosticArray(header=message.header, status=found) if found else None


def _of(name: str, inside: str) -> bool:
    return name.startswith(inside + "/") if inside else "/" not in name
