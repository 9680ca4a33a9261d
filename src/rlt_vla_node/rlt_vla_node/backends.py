"""Which VLA backends there are, by the name that a VLA file gives. Any installed package may bring one.

A backend is an entry point of the group `rlt_vla_node.backends`: a function that takes the VLA file and gives a
:class:`~rlt_vla_node.backend.VlaBackend`. Names are looked up among these alone, so that what a checkpoint says imports
nothing that nobody installed as a backend. docs/backends.md shows how to write one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from rlt_common.parameters import ParameterError
from rlt_common.vla_config import VlaConfig
from rlt_vla_node.backend import BackendError, VlaBackend

GROUP = "rlt_vla_node.backends"
OpenBackend = Callable[[VlaConfig], VlaBackend]


def registered() -> dict[str, EntryPoint]:
    """The backends that are installed, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def find_backend(name: str) -> EntryPoint:
    """The backend of this name. Raises ParameterError when there is none."""
    known = registered()
    if name not in known:
        raise ParameterError(f"backend: no {name!r}; installed: {', '.join(sorted(known)) or 'none'}")
    return known[name]


def open_backend(config: VlaConfig) -> VlaBackend:
    """Open the VLA that a VLA file names, its instruction filled in.

    Raises ParameterError for a backend that there is not, BackendError where it cannot be opened.
    """
    found = find_backend(config.backend)
    try:
        function: OpenBackend = found.load()
    except ImportError as error:
        raise BackendError(
            f"backend {config.backend}: its packages are not installed ({error}): docs/backends.md names them"
        ) from error
    return function(config)


def with_policy(config: VlaConfig, folder: Path) -> VlaConfig:
    """The VLA file with another folder of the policy: its `source` is relative to it, `folder` to where we are."""
    return replace(config, source=str(Path(folder).resolve()))
