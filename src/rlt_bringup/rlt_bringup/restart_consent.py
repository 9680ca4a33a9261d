"""A person's word that what commands the arms may be started again. Files of the run directory, no ROS.

    <run>/executor_stopped.json   the question: which node ended, how, and a token
    <run>/executor_restart.json   the answer: the same token

Nothing but an answer to the question that stands counts: not an old one, not a file that was removed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

from rlt_common.atomic import write_atomic
from rlt_common.reading import read_json
from rlt_common.run_files import inside

QUESTION, ANSWER = "executor_stopped.json", "executor_restart.json"
MAX_BYTES = 64 * 1024


class ConsentError(RuntimeError):
    """There is nothing to consent to, or the run directory refuses."""


class RestartConsent:
    """The asking side.

    Args:
        run: the run directory.
        pressed: whether the person has said so in another way since the last call, such as Enter in a terminal.
    """

    def __init__(self, run: Path, pressed: Callable[[], bool] = lambda: False) -> None:
        self.run, self._pressed = run, pressed
        self._token = ""

    def ask(self, node: str, why: str) -> str:
        """Put the question. Returns "" or why it cannot be answered from another terminal."""
        self._token = secrets.token_hex(16)
        self._pressed()  # what was pressed before the question is no answer
        question = {"node": node, "why": why, "token": self._token}
        try:
            self.run.mkdir(parents=True, exist_ok=True)  # under launch nobody may have written anything yet
            write_atomic(inside(self.run, QUESTION), json.dumps(question).encode())
        except OSError as error:
            return f"{self.run / QUESTION}: {error.strerror}"
        return ""

    def given(self) -> bool:
        """Whether the question is answered; then it stands no longer."""
        if not self._token or not (self._pressed() or self._answered()):
            return False
        self.withdraw()
        return True

    def withdraw(self) -> None:
        """The question stands no longer."""
        self._token = ""
        for name in (QUESTION, ANSWER):
            try:
                (self.run / name).unlink(missing_ok=True)
            except OSError:  # a disk that refuses: the token is gone, so what is left means nothing
                continue

    def _answered(self) -> bool:
        try:
            answer = read_json(self.run / ANSWER, MAX_BYTES)
        except (OSError, ValueError):
            return False
        return isinstance(answer, dict) and answer.get("token") == self._token


def question(run: Path) -> dict[str, str]:
    """The question that stands: node, why, token. Raises ConsentError when there is none."""
    try:
        found = read_json(run / QUESTION, MAX_BYTES)
    except FileNotFoundError as error:
        raise ConsentError(
            f"nothing in {run} waits to be started again: give the --run of the graph whose executor ended"
        ) from error
    except (OSError, ValueError) as error:
        raise ConsentError(f"{run / QUESTION}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("node", "why", "token")):
        raise ConsentError(f"{run / QUESTION}: no question of a graph of ours")
    return found


def answer(run: Path, token: str) -> None:
    """Say yes to the question of this token. Raises ConsentError."""
    try:
        write_atomic(inside(run, ANSWER), json.dumps({"token": token}).encode())
    except OSError as error:
        raise ConsentError(f"{run / ANSWER}: {error.strerror}") from error
