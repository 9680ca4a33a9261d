"""Test files run beside each other (pytest-xdist), each of its processes in a ROS domain of its own.

All tests begin with the priority that the session has.
"""

import atexit
import importlib.util
import os
import time
from pathlib import Path

import pytest


def _own_domain() -> None:
    """Take another domain than that which scripts/in_own_domain.py gave to all processes of this session."""
    path = Path(__file__).parent / "scripts" / "in_own_domain.py"
    spec = importlib.util.spec_from_file_location("in_own_domain", path)
    domains = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(domains)
    domain, lock = domains.take_domain()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    atexit.register(os.close, lock)
    atexit.register(domains.remove_orphans, domain, time.time())


SCHEDULER, PRIORITY = os.sched_getscheduler(0), os.sched_getparam(0)


@pytest.fixture(autouse=True)
def _same_priority():
    """A node with a priority takes it for this process, and so for all that later tests would start."""
    yield
    if os.sched_getscheduler(0) != SCHEDULER:
        os.sched_setscheduler(0, SCHEDULER, PRIORITY)


if "PYTEST_XDIST_WORKER" in os.environ:
    _own_domain()
