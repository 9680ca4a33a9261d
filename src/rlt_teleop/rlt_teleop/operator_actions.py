"""What the operator may press, phase by phase: the names of a joystick mapping's buttons. Pure.

The episode manager decides; this only tells a person beforehand what it would accept.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlt_teleop.episode_machine import Phase

MEANING: Mapping[str, str] = {
    "next_episode": "begin the next episode",
    "handoff": "hand off: the critical phase begins",
    "enable": "hold to take over",
    "success": "success",
    "failure": "failure",
    "discard": "discard",
    "undo": "take the last label back",
    "estop": "EMERGENCY STOP",
}
"""Button of a mapping -> what pressing it does now."""
BUTTON = "button "
"""In joy_operator's diagnostics: before the name of a button whose value is what is written on it."""
RESET_MEANING = "the scene is reset: move"
RUNNING = ("enable", "success", "failure", "discard", "estop")
BY_PHASE: Mapping[Phase, tuple[str, ...]] = {
    Phase.IDLE: ("next_episode", "undo", "estop"),
    Phase.RESETTING: ("next_episode", "discard", "undo", "estop"),
    Phase.BASE: ("handoff", *RUNNING),
    Phase.CRITICAL: RUNNING,
    Phase.LABELLED: ("estop",),
    Phase.ESTOP: (),
}
RELABELLING: Mapping[str, str] = {
    "success": "episode {0} was a success",
    "failure": "episode {0} was a failure",
    "discard": "episode {0} is discarded",
    "undo": "not this one: the one before it",
    "next_episode": "episode {0} keeps its label",
    "estop": MEANING["estop"],
}
"""The same while an ended episode is picked."""


def actions(phase: Phase | None, human_in_control: bool = False, relabelling: int = 0) -> list[tuple[str, str]]:
    """(button's name in the mapping, what it does now), in the order of :data:`BY_PHASE`."""
    if relabelling:
        return [(name, text.format(relabelling)) for name, text in RELABELLING.items()]
    found = []
    for name in BY_PHASE.get(phase, ("estop",)):
        text = RESET_MEANING if (name, phase) == ("next_episode", Phase.RESETTING) else MEANING[name]
        if name == "enable" and human_in_control:
            text = "let go to give back"
        found.append((name, text))
    return found
