"""What every process of the graph finds in its environment, unless the caller has chosen otherwise.

`scripts/env.sh` sets the same for a shell; this is for a graph that is started from a shell which sourced ROS alone.
A test holds the two against each other.
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

from rlt_bringup.discovery import VARIABLE, stay_on_this_machine

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(64 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(64 * 1024 * 1024),
}
"""glibc keeps freed image buffers, instead of giving them back to the kernel and faulting them in again per frame."""
THREADS = {"OMP_NUM_THREADS": "1"}
"""One process per node, one thread per process: more threads on busy cores are several times slower."""
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Where Fast DDS finds config/fastdds.xml: the first is read up to Jazzy, the second from Kilted."""


def set_defaults() -> dict[str, str]:
    """Set what nobody has set, in this process and thereby for its children; return all as it is now.

    Call it before rclpy.init. Fast DDS and glibc read theirs when a process begins: they are for the children.
    """
    stay_on_this_machine()
    profile = str(Path(get_package_share_directory("rlt_bringup")) / "config" / "fastdds.xml")
    defaults = {**MALLOC, **THREADS, **dict.fromkeys(PROFILES, profile)}
    for name, value in defaults.items():
        if not os.environ.get(name):
            os.environ[name] = value
    return {name: os.environ[name] for name in (VARIABLE, *defaults)}
