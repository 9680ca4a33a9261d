"""The graph's runner with some of its processes replaced by ones that do the same and keep a record of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlt_bringup.graph import NodeSpec
from rlt_bringup.runner import GraphRunner

HARNESS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Script:
    """A file of this folder that stands for a node.

    Attributes:
        file: its name.
        options: of its command line; the node's ROS arguments follow.
        apart: topics and services that get a name of their own, below the node's, so that the graph hears nothing.
    """

    file: str
    options: tuple[str, ...]
    apart: tuple[str, ...] = ()


class RecordingRunner(GraphRunner):
    """Runs `scripts` (by node) in the place of these nodes' executables."""

    def __init__(self, scripts: Mapping[str, Script], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scripts = scripts

    def _command(self, spec: NodeSpec) -> list[str]:
        command = super()._command(spec)
        if (script := self._scripts.get(spec.name)) is None:
            return command
        apart = [word for name in script.apart for word in ("-r", f"{name}:={spec.name}/{name}")]
        return [sys.executable, str(HARNESS / script.file), *script.options, *command[1:], *apart]
