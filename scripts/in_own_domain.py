"""Run a command in a ROS domain of its own: in_own_domain.py COMMAND [ARGUMENT ...].

Tests must meet neither a running robot nor another test session on this machine. A domain counts as free when
nothing here listens on its UDP ports; a lock file keeps two sessions from taking the same one. Afterwards the shared
memory that killed processes of the domain left behind is removed. The exit status is that of the command.
"""

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Domains up to 101 keep clear of Linux's ephemeral ports; 0 is everybody's default, so start above the low ones.
DOMAINS = range(20, 102)
PORTS_BEGIN, PORTS_PER_DOMAIN = 7400, 250  # RTPS specification, 9.6.1.1
SHARED_MEMORY = Path("/dev/shm")


def domain_of_port(port: int) -> int:
    """Return the ROS domain that a UDP port belongs to."""
    return (port - PORTS_BEGIN) // PORTS_PER_DOMAIN


def busy_domains() -> set[int]:
    """Return the domains with a bound UDP port on this machine."""
    domains = set()
    for table in (Path("/proc/net/udp"), Path("/proc/net/udp6")):
        if table.exists():
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                domains.add(domain_of_port(int(line.split()[1].rpartition(":")[2], 16)))
    return domains


def take_domain() -> tuple[int, int]:
    """Return a free domain and the descriptor of its lock, which holds until it is closed."""
    busy = busy_domains()
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        if domain in busy:
            continue
        path = Path(tempfile.gettempdir()) / f"rlt-ros-domain-{domain}.lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            continue
        return domain, lock
    raise SystemExit(
        f"error: every ROS domain from {DOMAINS[0]} to {DOMAINS[-1]} is in use here; end what is not needed"
    )


def remove_orphans(domain: int, since: float) -> int:
    """Remove what dead processes left in shared memory since `since` (epoch, s); return how many segments went.

    The owner of a segment NAME holds a lock on NAME_el for as long as it lives. Segments of images do not tell their
    domain; those of ports do, and only the ones of `domain` are touched. A segment is left alone for its first two
    seconds, in which its owner may not hold the lock yet.
    """
    removed = 0
    for lock_path in SHARED_MEMORY.glob("fastrtps_*_el"):
        name = lock_path.name.removesuffix("_el")
        port = name.removeprefix("fastrtps_port")
        if port.isdigit() and domain_of_port(int(port)) != domain:
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError, BlockingIOError), lock_path.open("rb") as lock:
            if not since <= os.fstat(lock.fileno()).st_mtime <= time.time() - 2.0:
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in (SHARED_MEMORY / name, SHARED_MEMORY / f"sem.{name}_mutex", lock_path):
                path.unlink(missing_ok=True)
            removed += 1
    return removed


def main() -> int:
    """Run the command of the command line in a free domain and return its exit status."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    domain, lock = take_domain()
    begin = time.time()
    print(f"ROS_DOMAIN_ID={domain}", flush=True)
    command = subprocess.Popen(sys.argv[1:], env={**os.environ, "ROS_DOMAIN_ID": str(domain)})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: command.send_signal(received))
    status = command.wait()
    remove_orphans(domain, begin)
    os.close(lock)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
