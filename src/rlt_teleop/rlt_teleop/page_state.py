"""What the operator page shows, as one JSON object, from what the status model knows. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlt_common.advice_rules import Severity
from rlt_msgs.msg import EpisodeState
from rlt_teleop.episode_machine import Label, Phase
from rlt_teleop.operator_actions import MEANING, actions
from rlt_teleop.page_presses import RELABEL, RESET_ESTOP, LogLine, Seen
from rlt_teleop.printable import printable
from rlt_teleop.status_model import Snapshot

BUTTONS = ("next_episode", "handoff", "success", "failure", "discard", "undo")
"""In the order of the page; none of them moves or goes away."""
MANAGER, EXECUTOR = "episode_manager", "chunk_executor"
CONFIRMATION = {
    EpisodeState.CONFIRMATION_PENDING: "pending",
    EpisodeState.CONFIRMATION_DONE: "done",
    EpisodeState.CONFIRMATION_LOST: "lost",
}
_TRAINING = ("stage", "ready", "busy", "episodes", "transitions", "updates", "update_debt", "actor_version")
_CURVES = ("q_mean", "reference_distance", "updates_per_s", "critic_loss", "actor_loss")


def silent(snapshot: Snapshot, name: str) -> bool:
    """Whether a node of the robot's own namespace is not heard."""
    found = [node for node in snapshot.health if node.name.rpartition("/")[2] == name]
    return not found or all(node.level in ("silent", "unheard") for node in found)


def possible(snapshot: Snapshot, *, scene_resets_itself: bool, ended: bool) -> dict[str, str]:
    """Buttons that the episode manager would accept now -> what they do.

    Args:
        snapshot: how things stand.
        scene_resets_itself: a service says when the scene is reset, not the operator.
        ended: there is an episode whose label can be taken back.
    """
    stopped = snapshot.estop or snapshot.phase == Phase.ESTOP
    found: dict[str, str] = {}
    if not silent(snapshot, MANAGER):
        human = snapshot.driver.startswith("human")
        found = {name: text for name, text in actions(snapshot.phase, human, snapshot.relabelling) if name in BUTTONS}
        if snapshot.phase == Phase.RESETTING and scene_resets_itself and not snapshot.relabelling:
            found.pop("next_episode", None)
        if snapshot.estop:  # the executor has latched it, the manager has not heard yet
            found = {}
        if not ended:
            found.pop("undo", None)
        if snapshot.phase != Phase.LABELLED:
            found[RELABEL] = "give an ended episode another label"
    if stopped and not silent(snapshot, EXECUTOR):
        found[RESET_ESTOP] = "release the emergency stop; then a new episode has to be begun"
    return found


def seen_of(snapshot: Snapshot, stops: int) -> Seen:
    """The state that presses are to carry."""
    phase = int(snapshot.phase) if snapshot.phase is not None else 255
    return Seen(snapshot.episode_id, snapshot.epoch, phase, snapshot.relabelling, stops)


def page_state(
    snapshot: Snapshot,
    seen: Seen,
    buttons: Mapping[str, str],
    log: Sequence[LogLine],
    history: int,
) -> dict[str, Any]:
    """The page's picture. `history`: number of the newest state of the run's episodes; a new one is to be fetched."""
    stopped = snapshot.estop or snapshot.phase == Phase.ESTOP
    return {
        "task": snapshot.task,
        "phase": snapshot.phase.name if snapshot.phase is not None else "",
        "purpose": snapshot.purpose,
        "episode_id": snapshot.episode_id,
        "reason": snapshot.reason,
        "driver": snapshot.driver,
        "moving": snapshot.moving,
        "hold_reason": snapshot.hold_reason,
        "step": snapshot.step,
        "silent": [name for name in (MANAGER, EXECUTOR) if silent(snapshot, name)],
        "estop": stopped,
        "label": snapshot.label.name.lower() if snapshot.label != Label.NONE else "",
        "confirmation": CONFIRMATION.get(snapshot.confirmation, "unknown"),
        "episodes": snapshot.episodes,
        "labels": dict(snapshot.labels),
        "success_rate": snapshot.success_rate,
        "intervention_rate": snapshot.intervention_rate,
        "relabelling": snapshot.relabelling,
        "waiting_for": snapshot.waiting_for,
        "reminders": snapshot.reminders,
        "recorder_error": snapshot.recorder_error,
        "training": _training(snapshot),
        "advice": [
            {"text": advice.text, "why": advice.why, "warning": advice.severity == Severity.WARNING}
            for advice in snapshot.advice
        ],
        "drops": dict(snapshot.drops),
        "health": [asdict(node) for node in snapshot.health],
        "buttons": [
            {"name": name, "text": buttons.get(name, MEANING[name]), "enabled": name in buttons} for name in BUTTONS
        ],
        "can_reset": RESET_ESTOP in buttons,
        "can_relabel": RELABEL in buttons,
        "pad": dict(snapshot.buttons),
        "seen": seen.to_json(),
        "log": [asdict(line) for line in log],
        "history": history,
    }


def to_json(value: object) -> str:
    """As text. What steers a terminal, or is not finite, is not in it."""
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def _training(snapshot: Snapshot) -> dict[str, Any] | None:
    training = snapshot.training
    if training is None:
        return None
    return {name: getattr(training, name) for name in (*_TRAINING, *_CURVES, "message")}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {printable(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
