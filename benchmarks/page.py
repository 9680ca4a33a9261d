"""`make bench-page`: how long an emergency stop takes that is pressed on the operator page, in a real browser.

The page runs in a headless Chromium on the machine of the graph (simulator, executor, cameras, manager, recorder), with
its three cameras live, and is pressed while an episode runs. Two times, both from the press in the browser: until
another node hears from the executor (`control_state`) that the stop is latched, and until the page shows it. All clocks
are the machine's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from harness.operated_page import CHROMIUM, browser, operated
from harness.results import Goal, goal_table, markdown_table, publish, quick, show_committed
from playwright.sync_api import Page
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from rlt_common import topics
from rlt_msgs.msg import ControlState

NAME = "page"
ROUNDS = 100
LIMIT_S = 120.0
WATCH = """() => {
  window.stops = [];
  const note = () => {
    if (document.body.dataset.estop === "true" && stops.length && !stops.at(-1).shown)
      stops.at(-1).shown = performance.timeOrigin + performance.now();
  };
  new MutationObserver(note).observe(document.body, { attributes: true, attributeFilter: ["data-estop"] });
  document.querySelector("#estop").addEventListener("click",
    () => stops.push({ pressed: performance.timeOrigin + performance.now() }), { capture: true });
}"""


class Listener:
    """Hears from the executor when it has latched an emergency stop. Unix time in s."""

    def __init__(self) -> None:
        rclpy.init()
        self._node = Node("bench_page")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self.latched = False
        self.at_s = 0.0
        self._node.create_subscription(ControlState, topics.CONTROL_STATE, self._hear, topics.QOS_LATCHED_READER)

    def _hear(self, message: ControlState) -> None:
        if message.estop and not self.latched:
            self.at_s = time.time()
        self.latched = message.estop

    def until(self, latched: bool) -> None:
        """Spin until the executor says so. Raises TimeoutError."""
        end = time.monotonic() + LIMIT_S
        while self.latched != latched:
            if time.monotonic() > end:
                raise TimeoutError(f"no control_state with estop {latched} within {LIMIT_S:g} s")
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()


def until(page: Page, script: str) -> None:
    """Wait until the page's state is so. Raises TimeoutError."""
    end = time.monotonic() + LIMIT_S
    while not page.evaluate(script):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {LIMIT_S:g} s: {script}")
        page.wait_for_timeout(20)


def one_round(page: Page, listener: Listener) -> tuple[float, float]:
    """An episode, the stop in it, the release. Returns ms from the press to the executor's word, and to the page's."""
    until(page, """document.querySelector('[data-name="next_episode"]').ariaDisabled === "false" """)
    page.click('[data-name="next_episode"]')
    until(page, 'document.body.dataset.phase === "BASE"')
    page.evaluate("document.querySelector('#estop').click()")
    listener.until(True)
    until(page, "!!stops.at(-1).shown && document.querySelector('#reset-open').ariaDisabled === 'false'")
    stop = page.evaluate("stops.at(-1)")
    page.click("#reset-open")
    page.check("#reset-looked")
    page.click("#reset-do")
    listener.until(False)
    until(page, 'document.body.dataset.phase === "IDLE"')
    return listener.at_s * 1e3 - stop["pressed"], stop["shown"] - stop["pressed"]


def measure(rounds: int) -> list[dict[str, Any]]:
    """All rounds."""
    took: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="rlt_bench_page_") as folder, operated(Path(folder) / "run") as rig:
        listener = Listener()
        try:
            with browser() as chromium:
                page = chromium.new_page(viewport={"width": 1280, "height": 900})
                page.goto(rig.url)
                until(page, "[...document.querySelectorAll('#health b')].some(b => b.innerText === 'chunk_executor')")
                page.evaluate(WATCH)
                for i in range(rounds):
                    took.append(one_round(page, listener))
                    print(
                        f"page: stop {i + 1} of {rounds}: {took[-1][0]:.1f} ms, shown {took[-1][1]:.1f} ms", flush=True
                    )
        finally:
            listener.close()
    return [
        {
            "what": what,
            "n": len(values),
            "median_ms": float(np.median(values)),
            "p90_ms": float(np.percentile(values, 90)),
            "p99_ms": float(np.percentile(values, 99)),
            "worst_ms": max(values),
        }
        for what, values in zip(("latched in the executor", "shown on the page"), zip(*took, strict=True), strict=True)
    ]


def goals(rows: list[dict[str, Any]], rounds: int) -> list[Goal]:
    """Every stop latched; how soon has no goal."""
    latched = rows[0]["n"] / rounds
    return [Goal("share of the pressed emergency stops that latched", latched, "1", latched == 1.0)]


def table(document: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    machine = document["machine"]
    head = (
        f"`{document['command']}`, commit `{document['commit'][:10]}`, {machine['cpu']}, {machine['cores']} cores; "
        f"n = {document['n']} presses, each in a running episode."
    )
    figures = ("median_ms", "p90_ms", "p99_ms", "worst_ms")
    rows = [(row["what"], *(f"{row[name]:.0f}" for name in figures)) for row in document["rows"]]
    shown = markdown_table(("from the press until it is", "median, ms", "90 %", "99 %", "worst"), rows)
    return f"{head}\n\n{shown}\n\n{goal_table(document['goals'])}"


def main() -> None:
    """Measure, write the result and the table."""
    if not CHROMIUM:
        raise SystemExit("page: no chromium on the PATH: apt-get install chromium")
    if quick():
        show_committed(NAME, str(measure(3)))
        return
    rows = measure(ROUNDS)
    publish(NAME, table, command="make bench-page", seeds=[], n=ROUNDS, rows=rows, goals=goals(rows, ROUNDS))


if __name__ == "__main__":
    main()
