"""Which part of /diagnostics goes into this robot's episode files: several robots of one machine share it. Pure."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray

ABOUT_VLA = ("device", "threads", "torch")
"""What the VLA's node says about where it computes: on these the last digits of its chunks depend."""


def own(message: DiagnosticArray, namespace: str) -> DiagnosticArray | None:
    """The statuses of the robot whose nodes are in `namespace` ("/": none), None without any.

    A node's status is named after it, "cell_a/vla"; drivers may add what of theirs it is about, "driver: temperature".
    """
    inside = namespace.strip("/")
    found = [status for status in message.status if _of(status.name.lstrip("/").partition(":")[0], inside)]
    return DiagnosticArray(header=message.header, status=found) if found else None


def about_vla(message: DiagnosticArray) -> dict[str, str]:
    """Facts for an episode's metadata, where the VLA's node is among the statuses: `vla_device`, `vla_torch`, ..."""
    return {
        f"vla_{value.key}": value.value
        for status in message.status
        if status.name.rpartition("/")[2] == "vla"
        for value in status.values
        if value.key in ABOUT_VLA
    }


def _of(name: str, inside: str) -> bool:
    return name.startswith(inside + "/") if inside else "/" not in name
