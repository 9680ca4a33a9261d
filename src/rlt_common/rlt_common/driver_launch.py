"""Launch files of a robot file: the drivers of its arms and cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlt_common.parameters import ParameterError, param, validate

STARTS = ("arms", "cameras", "leaders")


@dataclass(frozen=True)
class DriverLaunch:
    """One launch file of a driver's own package, included in the robot's namespace and beside the robot only."""

    package: str = param(description="package that has the launch file")
    file: str = param(description="name of the launch file in the package's launch folder")
    arguments: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "description": "its launch arguments: name -> text, number, true or false. $(find-pkg-share PACKAGE) in a "
            "text is the package's share folder"
        },
    )
    namespace: str = param("", "namespace in the robot's own for all that it starts, e.g. left; empty: the robot's")
    starts: str = param(
        "arms",
        "what it starts: arms (and grippers): left out by drivers:=false; cameras: left out by cameras:=false; "
        "leaders: included only where motion comes from leader arms (joy), and left out by drivers:=false",
        choices=STARTS,
    )

    def __post_init__(self) -> None:
        validate(self)
        where = f"launch: {self.package}/{self.file}"
        if not self.package or not self.file or "/" in self.package:
            raise ParameterError(f"{where}: give the package's name and the launch file's")
        if self.namespace.startswith("/"):
            raise ParameterError(f"{where}: namespace {self.namespace!r}: it lies in the robot's: leave the / out")
        if not isinstance(self.arguments, Mapping):
            raise ParameterError(f"{where}: arguments: expected a mapping, got {self.arguments!r}")
        texts = {str(name): _text(value, f"{where}: arguments: {name}") for name, value in self.arguments.items()}
        object.__setattr__(self, "arguments", texts)


def _text(value: object, where: str) -> str:
    """A launch argument as `name:=value` writes it. Raises ParameterError for a list or a mapping."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise ParameterError(f"{where}: expected text, a number, true or false, got {value!r}")
