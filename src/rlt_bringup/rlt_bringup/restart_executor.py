"""Start a chunk executor that ended again: `ros2 run rlt_bringup restart_executor --run runs/screw`.

What commands the arms never comes back by itself. The graph says that it ended and waits; this is the operator's word
that it may come back. Without ROS installed: `scripts/with_env.sh python -m rlt_bringup.restart_executor`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from rlt_bringup.restart_consent import ConsentError, RestartConsent, answer, question

LOOK_S = 0.2


def asked_for(run: Path, node: str, why: str, command: str) -> str:
    """The question in words."""
    return (
        f"{node} ended ({why}): nothing commands the arms, and it does not come back by itself. Look at the arms; then "
        f"start it again with: {command} --run {run}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Ends with status 1 and a reason when there is nothing to start again."""
    parser = argparse.ArgumentParser(prog="restart_executor", description="start a chunk executor that ended again")
    parser.add_argument("--run", required=True, type=Path, help="run directory of the graph")
    parser.add_argument("--wait", default="", metavar="NODE", help="ask, and wait for the answer: the launch uses this")
    parser.add_argument("--why", default="", help="with --wait: how the node ended")
    given = parser.parse_args(arguments)
    run = given.run.expanduser().resolve()
    try:
        if given.wait:
            _wait(RestartConsent(run), given.wait, given.why)
            return
        found = question(run)
        answer(run, found["token"])
    except (ConsentError, OSError) as error:
        sys.exit(f"restart_executor: {error}")
    print(
        f"{found['node']} is started again. Where an episode was moving, the emergency stop is latched: reset_estop "
        "releases it; then begin a new episode"
    )


def _wait(consent: RestartConsent, node: str, why: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        if problem := consent.ask(node, why):
            raise ConsentError(f"{problem}: the question cannot be put; stop the launch and start it again")
        print(asked_for(consent.run, node, why, "ros2 run rlt_bringup restart_executor"), flush=True)
        while not consent.given():
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        consent.withdraw()


if __name__ == "__main__":
    main()
