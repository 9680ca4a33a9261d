"""Starts, stops, pauses and kills policy servers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """A policy server of a kind at one port, through its lives."""

    def __init__(self, kind, log):
        self.kind, self.port, self._log = kind, free_port(), log
        self._faults = log.with_suffix(".fault")
        self._process = None

    def start(self, *arguments):
        """Start it and wait until it listens."""
        own = ("--port", self.port, "--faults", self._faults)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, HERE / "policy_server.py", self.kind, *map(str, own), *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
            )
        line = self._process.stdout.readline()
        assert line.startswith(b"ready"), Path(self._log).read_text()

    def fail_by(self, fault):
        """Spoil the answers from now on by this fault; by none: ''."""
        self._faults.write_text(fault)

    def kill(self):
        """kill -9, and wait for its end."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def pause(self):
        """It answers nothing more, and its connections stay."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self):
        """What came meanwhile is answered now."""
        self._process.send_signal(signal.SIGCONT)

    def close(self):
        """End it, in whatever state it is."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.kill()
