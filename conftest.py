"""Test files run beside each other (pytest-xdist), each of its processes in a ROS domain of its own."""

import atexit
import importlib.util
import os
import time
from pathlib import Path


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


if "PYTEST_XDIST_WORKER" in os.environ:
    _own_domain()
