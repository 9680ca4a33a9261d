"""Runs a graph of nodes where `ros2 launch` is not installed: a thin reader of the same description.

`python -m rlt_bringup.runner --task screw --robot sim --mode train --run runs/screw` starts every node as a process,
writes its output to <run>/log/<node>.log, starts what may be respawned again when it dies, and stops all on Ctrl-C. An
executor that died is started again when a person says so: with Enter, or with `restart_executor`. Where nobody is
there to ask (a scripted operator, no terminal) its death ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import functools
import os
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from rlt_bringup.drivers import command
from rlt_bringup.graph import GRAPH_MODES, RESPAWN_DELAY_S, GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.process_environment import set_defaults
from rlt_bringup.restart_consent import RestartConsent
from rlt_bringup.restart_executor import asked_for
from rlt_bringup.security import enclave, secured
from rlt_common.atomic import no_follow
from rlt_common.parameters import ParameterError
from rlt_common.reading import read_tail

STOP_TIMEOUT_S = 10.0
YOUNG_S = 10.0
"""A node that ends with an error sooner than that was started wrong: it would do so again."""
KEY = "; in the graph's own terminal Enter does"
RESTART_COMMAND = "scripts/with_env.sh python -m rlt_bringup.restart_executor"
KEYBOARD_COMMAND = "scripts/with_env.sh python -m rlt_teleop.keyboard_node"
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_LOG_END_BYTES = 64 * 1024


class RunnerError(RuntimeError):
    """A node that cannot be started, or that ended when it must not."""


@dataclass
class _Process:
    spec: NodeSpec
    popen: subprocess.Popen
    started_s: float
    restarts: int = 0
    restart_at_s: float | None = None
    asked: bool = False


class GraphRunner:
    """Starts, watches and stops the processes of a graph. Use as a context manager.

    Args:
        nodes: what to run.
        log_folder: where <node>.log goes.
        namespace, log_level: for every node.
        consent: asks a person when what must not be respawned has died; None: nobody is there, it ends the run.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        log_folder: Path,
        namespace: str = "",
        log_level: str = "info",
        consent: RestartConsent | None = None,
    ) -> None:
        self._nodes = list(nodes)
        self._log_folder = log_folder
        self._namespace = namespace
        self._log_level = log_level
        self._consent = consent
        self._processes: dict[str, _Process] = {}
        self._parameter_folder = tempfile.TemporaryDirectory(prefix="rlt_parameters_")

    def __enter__(self) -> GraphRunner:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every node. Raises RunnerError when an executable is missing."""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        commands = {spec.name: self._command(spec) for spec in self._nodes}
        for spec in self._nodes:
            self._processes[spec.name] = _Process(spec, self._spawn(spec, commands[spec.name]), time.monotonic())

    def poll(self) -> None:
        """Restart what died and may be respawned, or what a person has consented to.

        Raises RunnerError with the log's end for anything else that died, and for what was started wrong: it ended with
        an error in its first seconds.
        """
        now = time.monotonic()
        for process in self._processes.values():
            if process.restart_at_s is not None:
                if now >= process.restart_at_s:
                    process.restart_at_s = None
                    self._start_again(process)
                continue
            code = process.popen.poll()
            if code is None:
                continue
            wrong = code > 0 and not process.asked and now - process.started_s < YOUNG_S
            if wrong or (not process.spec.respawn and self._consent is None):
                raise RunnerError(f"{process.spec.name} ended with status {code}:\n{self.log_end(process.spec.name)}")
            if not process.spec.respawn:
                self._ask(process, code)
                continue
            self._tell(f"{process.spec.name} died (status {code}); starting it again")
            process.restart_at_s = now + RESPAWN_DELAY_S

    def pid(self, name: str) -> int:
        """Process id of a node."""
        return self._processes[name].popen.pid

    def restarts(self, name: str) -> int:
        """How often a node was started again."""
        return self._processes[name].restarts

    def start_again(self, name: str) -> None:
        """Start a node that ended and is not respawned by itself."""
        process = self._processes[name]
        if process.popen.poll() is None:
            raise RunnerError(f"{name} is still running")
        self._start_again(process)

    def _start_again(self, process: _Process) -> None:
        process.restarts += 1
        process.started_s, process.asked = time.monotonic(), False
        process.popen = self._spawn(process.spec, self._command(process.spec))

    def _ask(self, process: _Process, code: int) -> None:
        """Ask a person whether it may be started again, once; start it when the answer has come."""
        name, consent = process.spec.name, self._consent
        if not process.asked:
            process.asked = True
            self._tell(f"{name} died (status {code}); it waits for the operator's word")
            print(f"graph: {self.log_end(name)}")
            if problem := consent.ask(name, f"status {code}"):
                print(f"graph: from another terminal it cannot be started again: {problem}")
            print("graph: " + asked_for(consent.run, name, f"status {code}", RESTART_COMMAND) + KEY, flush=True)
        elif consent.given():
            self._tell(f"{name} is started again")
            self._start_again(process)

    def _tell(self, text: str) -> None:
        """Say it on the terminal and in <log folder>/graph.log, where a report of the run finds it."""
        print(f"graph: {text}", flush=True)
        with (
            contextlib.suppress(OSError),
            open(self._log_folder / "graph.log", "a", encoding="utf-8", opener=no_follow) as log,
        ):
            log.write(f"[WARN] [{time.time():.3f}] [graph]: {text}\n")

    def log_end(self, name: str, lines: int = 15) -> str:
        """The last lines of a node's log."""
        path = self._log_folder / f"{name}.log"
        text = read_tail(path, _LOG_END_BYTES) if path.exists() else ""
        return f"{path}:\n" + "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """Ask every process to end (SIGINT), then insist."""
        running = [p.popen for p in self._processes.values() if p.popen.poll() is None]
        for popen in running:
            popen.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for popen in running:
            try:
                popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
        self._processes.clear()
        if self._consent is not None:
            self._consent.withdraw()
        self._parameter_folder.cleanup()

    def _command(self, spec: NodeSpec) -> list[str]:
        try:
            executable = Path(get_package_prefix(spec.package)) / "lib" / spec.package / spec.executable
        except PackageNotFoundError as error:
            raise RunnerError(f"package {spec.package} is not built: run make setup") from error
        if not executable.is_file():
            raise RunnerError(f"no executable {executable}: run make setup")
        file = Path(self._parameter_folder.name) / f"{spec.name}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(spec.parameters)}}), encoding="utf-8")
        ros = ["-r", f"__node:={spec.name}", "--params-file", str(file), "--log-level", self._log_level]
        if secured():
            ros += ["--enclave", enclave(spec, self._namespace)]
        if self._namespace:
            ros += ["-r", f"__ns:=/{self._namespace.strip('/')}"]
        for name, other in spec.remap:
            ros += ["-r", f"{name}:={other}"]
        return [str(executable), "--ros-args", *ros]

    def _spawn(self, spec: NodeSpec, command: list[str]) -> subprocess.Popen:
        with open(self._log_folder / f"{spec.name}.log", "ab", opener=no_follow) as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=functools.partial(_die_with_parent, os.getpid()),
            )


def _die_with_parent(parent: int) -> None:
    """In the child: end when the runner dies, however it dies, so that no node is left behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked to be told
        os.kill(os.getpid(), signal.SIGKILL)


def add_options(parser: argparse.ArgumentParser, leave_out: Sequence[str] = ()) -> None:
    """One command line option per field of GraphOptions."""
    hints = typing.get_type_hints(GraphOptions)
    for option in dataclasses.fields(GraphOptions):
        if option.name in leave_out:
            continue
        kind = hints[option.name]
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=_boolean if kind is bool else kind,
            default=option.default,
            choices=option.metadata["choices"],
            help=option.metadata["description"] + f" (default: {option.default!r})",
        )


def options_from(arguments: argparse.Namespace) -> GraphOptions:
    """GraphOptions out of parsed arguments."""
    names = {option.name for option in dataclasses.fields(GraphOptions)}
    return GraphOptions(**{k: v for k, v in vars(arguments).items() if k in names})


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup run_graph`."""
    parser = argparse.ArgumentParser(prog="run_graph", description="run the RLT graph without ros2 launch")
    add_options(parser)
    parsed = parser.parse_args(arguments)
    set_defaults()
    try:
        options = options_from(parsed)
        if options.mode not in GRAPH_MODES:
            parser.error(f"--mode must be one of {', '.join(GRAPH_MODES)}; the others are commands of their own")
        resolved = resolve(options)
        resolved.run.mkdir(parents=True, exist_ok=True)
        stop = _stop_on_signals()
        attended = sys.stdin.isatty() or not resolved.scripted
        consent = RestartConsent(resolved.run, _enter_pressed) if attended else None
        log = resolved.run / "log"
        with GraphRunner(describe(resolved), log, options.namespace, options.log_level, consent) as runner:
            print(f"graph: running; logs in {resolved.run / 'log'}; Ctrl-C stops it", flush=True)
            for note in resolved.notes:
                print(f"graph: {note}", flush=True)
            if resolved.joy_reader == "keyboard":
                print("graph: the keys are read in another terminal: " + KEYBOARD_COMMAND, flush=True)
            for driver in resolved.drivers:
                print("graph: start the driver by hand: " + command(driver, options.namespace), flush=True)
            while not stop():
                runner.poll()
                time.sleep(0.2)
    except (ParameterError, RunnerError, OSError) as error:
        sys.exit(f"run_graph: {error}")


def _enter_pressed() -> bool:
    """Whether Enter was pressed in this terminal since the last call."""
    if not sys.stdin.isatty() or not select.select([sys.stdin], [], [], 0.0)[0]:
        return False
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    return True


def _stop_on_signals() -> typing.Callable[[], bool]:
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopped.append(received))
    return lambda: bool(stopped)


if __name__ == "__main__":
    main()
