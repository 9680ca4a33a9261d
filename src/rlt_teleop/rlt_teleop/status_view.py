"""A snapshot of the graph as text: a panel for a terminal, one line for a log. Pure, but for `rich`'s shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlt_teleop.episode_machine import Label, Phase
from rlt_teleop.operator_actions import actions
from rlt_teleop.status_model import Snapshot

COLOURS = {"ok": "green", "warn": "yellow", "error": "bold red", "silent": "bold red", "unheard": "dim"}
PHASE_COLOURS = {Phase.BASE: "cyan", Phase.CRITICAL: "bold magenta", Phase.ESTOP: "bold red"}
NOTHING = "–"


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
    return "; ".join(parts)


def panel(snapshot: Snapshot) -> Panel:
    """The whole view."""
    border = "red" if snapshot.estop or snapshot.phase == Phase.ESTOP else "yellow" if snapshot.troubles else "green"
    parts = [_episode(snapshot), _presses(snapshot), _learning(snapshot), _nodes(snapshot)]
    if snapshot.drops:
        parts.append(_titled("lost, refused or late", snapshot.drops))
    return Panel(Group(*parts), title=f"RLT {snapshot.task}".strip(), border_style=border)


def _episode(snapshot: Snapshot) -> Table:
    phase = snapshot.phase.name if snapshot.phase is not None else "no word from the episode manager"
    table = _grid()
    table.add_row("episode", f"{snapshot.episode_id} ({snapshot.purpose})" if snapshot.episode_id else NOTHING)
    table.add_row("phase", Text(phase, style=PHASE_COLOURS.get(snapshot.phase, "white")))
    table.add_row("because", snapshot.reason or NOTHING)
    if snapshot.waiting_for:
        table.add_row("waits for you", Text(snapshot.waiting_for, style="bold yellow"))
    table.add_row("drives", Text(snapshot.driver, style="bold" if snapshot.moving else "dim"))
    if snapshot.hold_reason:
        table.add_row("holds", Text(snapshot.hold_reason, style="red" if snapshot.estop else "yellow"))
    table.add_row("last label", snapshot.label.name.lower() if snapshot.label != Label.NONE else NOTHING)
    table.add_row(
        "episodes", f"{snapshot.episodes}, {snapshot.successes} successes ({share(snapshot.success_rate)} of all)"
    )
    seen = ", ".join(f"{count} {label}" for label, count in snapshot.labels.items()) or NOTHING
    table.add_row("seen here", f"{seen}; success {share(snapshot.recent_success_rate)} lately")
    table.add_row("interventions", f"in {share(snapshot.intervention_rate)} of these episodes")
    if snapshot.recorder_error:
        table.add_row("recorder", Text(snapshot.recorder_error, style="bold red"))
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
            "Q": _number(training.q_mean),
            "updates": f"{training.updates}, {training.update_debt:.0f} owed, {training.updates_per_s:.0f} per s",
            "replay": f"{training.transitions} transitions of {training.episodes} episodes",
            **({"says": training.message} if training.message else {}),
        },
    )


def _number(value: float, unit: str = "") -> str:
    return f"{value:.2f} {unit}".strip() if math.isfinite(value) else NOTHING


def _nodes(snapshot: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2))
    for node in snapshot.health:
        style = COLOURS[node.level]
        table.add_row(Text("●", style=style), node.name, Text(node.level, style=style), Text(node.message, style="dim"))
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
    table.add_row(Text(title, style="bold underline"), "")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=16)
    table.add_column(overflow="fold")
    return table
