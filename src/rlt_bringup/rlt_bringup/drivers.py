"""The drivers' own launch files that a robot file names: where they are, and how to start them by hand."""

from __future__ import annotations

import shlex
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
            "(drivers.repos); or start the driver yourself and give drivers:=false"
        ) from error
    for path in (share / "launch" / driver.file, share / driver.file):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.name for p in (share / "launch").glob("*launch*"))) or "none"
    raise ParameterError(f"launch: {driver.package} has no launch file {driver.file!r}; there are: {known}")


def command(driver: DriverLaunch, namespace: str = "") -> str:
    """What starts the driver by hand, for a shell."""
    words = ["ros2", "launch", driver.package, driver.file, *(f"{n}:={v}" for n, v in driver.arguments.items())]
    own = namespace.strip("/")
    return shlex.join(words) + (f"   # in namespace /{own}" if own else "")
