"""The drivers' own launch files that a robot file names: where they are, and how to start them by hand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from rlt_common.driver_launch import DriverLaunch
from rlt_common.parameters import ParameterError


def launch_file(driver: DriverLaunch) -> Path:
    """The launch file in the installed package. Raises ParameterError saying what is missing."""
    try:
        share = Path(get_package_share_directory(driver.package))
    except (PackageNotFoundError, ValueError) as error:
        raise ParameterError(
            f"launch: package {driver.package!r} is not installed: install it, or build it from source "
            "(drivers.repos); or start the driver yourself and give "
            f"{'cameras' if driver.starts == 'cameras' else 'drivers'}:=false"
        ) from error
    for path in (share / "launch" / driver.file, share / driver.file):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.name for p in (share / "launch").glob("*launch*"))) or "none"
    raise ParameterError(f"launch: {driver.package} has no launch file {driver.file!r}; there are: {known}")


def arguments(driver: DriverLaunch) -> dict[str, str]:
    """Its launch arguments, every $(find-pkg-share PACKAGE) in place. Raises ParameterError naming what is missing."""

    def share(found: re.Match[str]) -> str:
        package = found.group(1)
        try:
            return get_package_share_directory(package)
        except (PackageNotFoundError, ValueError) as error:
            raise ParameterError(
                f"launch: {driver.package}/{driver.file}: arguments: package {package!r} is not installed"
            ) from error

    return {name: re.sub(r"\$\(find-pkg-share ([^)\s]+)\)", share, value) for name, value in driver.arguments.items()}


def included(entries: Sequence[DriverLaunch], arms: bool, cameras: bool, leaders: bool) -> tuple[DriverLaunch, ...]:
    """The entries of a robot file that are to be started: each kind when it is asked for, leaders with the arms."""
    wanted = {"arms": arms, "cameras": cameras, "leaders": arms and leaders}
    return tuple(entry for entry in entries if wanted[entry.starts])


def namespace_of(driver: DriverLaunch, namespace: str = "") -> str:
    """Where its nodes live, without a leading /: its own namespace in the robot's."""
    return "/".join(filter(None, (namespace.strip("/"), driver.namespace.strip("/"))))


def command(driver: DriverLaunch, namespace: str = "") -> str:
    """What starts the driver by hand, for a shell."""
    words = ["ros2", "launch", driver.package, driver.file, *(f"{n}:={v}" for n, v in arguments(driver).items())]
    own = namespace_of(driver, namespace)
    return shlex.join(words) + (f"   # in namespace /{own}" if own else "")
