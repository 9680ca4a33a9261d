"""A snapshot of the graph as text: a panel for a terminal, one line for a log. Pure, but for `rich`'s shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlt_common.advice_rules import Severity
from rlt_msgs.msg import EpisodeState
from rlt_teleop.episode_machine import Label, Phase
from rlt_teleop.operator_actions import actions
from rlt_teleop.printable import printable
from rlt_teleop.status_model import Snapshot

COLOURS = {"ok": "green", "warn": "yellow", "error": "bold red", "silent": "bold red", "unheard": "dim"}
PHASE_COLOURS = {Phase.BASE: "cyan", Phase.CRITICAL: "bold magenta", Phase.ESTOP: "bold red"}
NOTHING = "–"
CONFIRMED = {
    EpisodeState.CONFIRMATION_PENDING: " (not confirmed yet)",
    EpisodeState.CONFIRMATION_LOST: " (lost: no whole file came of it)",
}


def share(value: float | None) -> str:
    """A share in per cent, or a dash."""
    return NOTHING if value is None else f"{100 * value:.0f} %"


def line(snapshot: Snapshot) -> str:
    """What matters most, in one line without colours: for logs, and for telling whether something changed."""
    phase = snapshot.phase.name if snapshot.phase is not None else "no word from the episode manager"
    parts = [f"episode {snapshot.episode_id} {phase}"]
    if snapshot.estop:
        parts.append("EMERGENCY STOP")
    if snapshot.moving:
        parts.append(f"drives: {snapshot.driver}")
    elif snapshot.label != Label.NONE:
        parts.append(snapshot.label.name.lower())
    parts.append(f"{snapshot.successes} of {snapshot.episodes} successes")
    if snapshot.reason:
        parts.append(snapshot.reason)
    if snapshot.waiting_for:
        parts.append(f"waits for you: {snapshot.waiting_for}")
    parts += [f"{node.name} {node.level}: {node.message}" for node in snapshot.troubles]
    if snapshot.recorder_error:
        parts.append(f"recorder: {snapshot.recorder_error}")
    parts += [f"advice: {advice.text}" for advice in snapshot.advice]
    return printable("; ".join(parts))


def panel(snapshot: Snapshot) -> Panel:
    """The whole view."""
    border = "red" if snapshot.estop or snapshot.phase == Phase.ESTOP else "yellow" if snapshot.troubles else "green"
    parts = [_episode(snapshot), _presses(snapshot)]
    if snapshot.advice:
        parts.append(_advice(snapshot))
    parts += [_learning(snapshot), _nodes(snapshot)]
    if snapshot.drops:
        parts.append(_titled("lost, refused or late", snapshot.drops))
    return Panel(Group(*parts), title=_text(f"RLT {snapshot.task}".strip()), border_style=border)


def _text(value: object, style: str = "") -> Text:
    """As it is: rich would take brackets in a plain string for markup, and control characters for commands."""
    return Text(printable(value), style=style)


def _episode(snapshot: Snapshot) -> Table:
    phase = snapshot.phase.name if snapshot.phase is not None else "no word from the episode manager"
    table = _grid()
    rows: list[tuple[str, str, str]] = [
        ("episode", f"{snapshot.episode_id} ({snapshot.purpose})" if snapshot.episode_id else NOTHING, ""),
        ("phase", phase, PHASE_COLOURS.get(snapshot.phase, "white")),
        ("because", snapshot.reason or NOTHING, ""),
    ]
    if snapshot.waiting_for:
        rows.append(("waits for you", snapshot.waiting_for, "bold yellow"))
    rows.append(("drives", snapshot.driver, "bold" if snapshot.moving else "dim"))
    if snapshot.hold_reason:
        rows.append(("holds", snapshot.hold_reason, "red" if snapshot.estop else "yellow"))
    label = snapshot.label.name.lower() + CONFIRMED.get(snapshot.confirmation, "")
    counts = ", ".join(f"{count} {name}" for name, count in snapshot.labels.items()) or NOTHING
    rows += [
        ("last label", label if snapshot.label != Label.NONE else NOTHING, ""),
        ("episodes", f"{snapshot.episodes}: {counts}", ""),
        (
            "success",
            f"{share(snapshot.success_rate)} of all, {share(snapshot.recent_success_rate)} of the last ones seen here",
            "",
        ),
        ("interventions", f"in {share(snapshot.intervention_rate)} of all", ""),
    ]
    if snapshot.recorder_error:
        rows.append(("recorder", snapshot.recorder_error, "bold red"))
    for name, value, style in rows:
        table.add_row(name, _text(value, style))
    return table


def _learning(snapshot: Snapshot) -> Table:
    training = snapshot.training
    if training is None:
        return _titled("learning", {"learner": "no word from it"})
    return _titled(
        "learning",
        {
            "stage": training.stage + (", at work" if training.busy else ""),
            "actor": f"version {training.actor_version}" + ("" if training.ready else ", may not drive yet"),
            "|pi - reference|": _number(training.reference_distance, "spreads"),
            "Q": f"{_number(training.q_mean)}, returned {_number(training.return_mean)}",
            "beta": f"{training.beta:.3g}",
            "updates": f"{training.updates}, {training.update_debt:.0f} owed, {training.updates_per_s:.0f} per s",
            "replay": f"{training.transitions} transitions of {training.episodes} episodes",
            **({"says": training.message} if training.message else {}),
        },
    )


def _advice(snapshot: Snapshot) -> Table:
    table = _grid()
    table.add_row(_text("advice", "bold underline"), "")
    for advice in snapshot.advice:
        style = "bold yellow" if advice.severity == Severity.WARNING else ""
        table.add_row(_text(advice.rule), _text(advice.text, style))
        table.add_row("", _text(advice.why, "dim"))
    return table


def _number(value: float, unit: str = "") -> str:
    return f"{value:.2f} {unit}".strip() if math.isfinite(value) else NOTHING


def _nodes(snapshot: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2))
    for node in snapshot.health:
        style = COLOURS[node.level]
        table.add_row(_text("●", style), _text(node.name), _text(node.level, style), _text(node.message, "dim"))
    return table


def _presses(snapshot: Snapshot) -> Table:
    human, buttons = snapshot.driver.startswith("human"), snapshot.buttons
    possible = actions(snapshot.phase, human, snapshot.relabelling)
    found = {
        buttons.get(name, name.replace("_", " ")): text for name, text in possible if not buttons or name in buttons
    }
    if snapshot.phase == Phase.ESTOP or snapshot.estop:
        found = {"service reset_estop": "releases the emergency stop; then a new episode has to be begun"}
    return _titled("press", found)


def _titled(title: str, rows: Mapping[str, object]) -> Table:
    table = _grid()
    table.add_row(_text(title, "bold underline"), "")
    for name, value in rows.items():
        table.add_row(_text(name), _text(value))
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=16)
    table.add_column(overflow="fold")
    return table
