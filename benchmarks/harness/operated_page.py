"""The operator page on a real graph without learning, and a real browser: for its tests and `bench-page`."""

from __future__ import annotations

import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from rlt_bringup.graph import GraphOptions, config_file, describe, resolve
from rlt_bringup.runner import GraphRunner

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
STEPS = 100_000
"""Of each phase: nothing here ends by a time-out, however slow the machine."""
START_S = 120.0
POLL_S = 0.1


@dataclass
class Rig:
    """A running graph with the page. `restarts` of a node: `runner.restarts(name)`."""

    url: str
    run: Path
    runner: GraphRunner


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def operated(run: Path) -> Iterator[Rig]:
    """The graph of `mode:=collect` with `view:=true`: simulator, executor, cameras, manager, recorder, page."""
    port = free_port()
    task = yaml.safe_load(config_file("tasks", "screw").read_text())
    task |= {"max_base_steps": STEPS, "max_critical_steps": STEPS}
    task["nodes"]["operator_page"] = {"port": port}
    run.mkdir(parents=True, exist_ok=True)
    own = run / "own.yaml"
    own.write_text(yaml.safe_dump(task))
    options = GraphOptions(task=str(own), run=str(run), mode="collect", operator="human", joy="keyboard", view=True)
    rig = Rig(f"http://127.0.0.1:{port}/", run, GraphRunner(describe(resolve(options)), run / "log"))
    ended = threading.Event()
    with rig.runner:
        watch = threading.Thread(target=_watch, args=(rig.runner, ended), daemon=True)
        watch.start()
        try:
            _wait_until_served(rig, ended)
            yield rig
        finally:
            ended.set()
            watch.join()


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium with a profile of its own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield chromium
        finally:
            chromium.close()


def enabled(page: Page, name: str) -> bool:
    """Whether a decision's button may be pressed."""
    return page.get_attribute(f'[data-name="{name}"]', "aria-disabled") == "false"


def _watch(runner: GraphRunner, ended: threading.Event) -> None:
    """Start again what died."""
    while not ended.wait(POLL_S):
        runner.poll()


def _wait_until_served(rig: Rig, ended: threading.Event) -> None:
    tries = int(START_S / POLL_S)
    for _ in range(tries):
        try:
            with urllib.request.urlopen(rig.url, timeout=5):
                return
        except OSError:
            ended.wait(POLL_S)
    raise RuntimeError(f"the page was not served within {START_S:g} s:\n{rig.runner.log_end('operator_page')}")
