"""The scripted operator's decisions. Pure. It stands for a person who looks at the cell and presses buttons."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rlt_common.parameters import param, validate


class Press(enum.Enum):
    """A button of the joystick mapping (config/joy/scripted.yaml)."""

    HANDOFF = "handoff"
    SUCCESS = "success"
    FAILURE = "failure"
    NEXT_EPISODE = "next_episode"


@dataclass(frozen=True)
class OperatorConfig:
    """How patient the scripted operator is."""

    patience_steps: int = param(
        420, "control steps of the critical phase before the operator labels a failure", minimum=1, maximum=100_000
    )
    base_patience_steps: int = param(
        120, "control steps of the BASE phase before the operator hands off wherever the tool is", minimum=1
    )

    hand_off: bool = param(True, "hand off; false: the automatic hand-off does")
    next_episode: bool = param(True, "begin the next episode when the last one is over")
    demonstrate: bool = param(
        False, "drive the arms with leader arms, as the scripted tele-operator does, until success or the time-out"
    )

    def __post_init__(self) -> None:
        validate(self)


def decide(
    config: OperatorConfig, step: int, critical: bool, handoff_step: int, hand_off_ready: bool, success: bool
) -> Press | None:
    """What to press now, or None.

    Args:
        step: control step of the episode.
        critical: the episode is in its critical phase, which began at `handoff_step`.
        hand_off_ready, success: what the operator sees.
    """
    if not critical:
        if not config.hand_off:
            return None
        return Press.HANDOFF if hand_off_ready or step >= config.base_patience_steps else None
    if success:
        return Press.SUCCESS
    if config.demonstrate:
        return None
    return Press.FAILURE if step - handoff_step >= config.patience_steps else None
