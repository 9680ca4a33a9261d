"""Parameters of the episode manager."""

from __future__ import annotations

from dataclasses import dataclass

from rlt_common.parameters import param, validate
from rlt_teleop.episode_machine import Driver, Purpose

PURPOSES = tuple(purpose.name.lower() for purpose in Purpose)
DRIVERS = (Driver.RL.name.lower(), Driver.VLA.name.lower())


@dataclass(frozen=True)
class ManagerParameters:
    """Parameters of the episode manager."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    run_directory: str = param(description="folder of the run; episode ids go on after those in <run>/episodes")
    purpose: str = param(
        "train",
        "what an episode is for that the operator begins from IDLE with the next-episode button",
        choices=PURPOSES,
    )
    driver: str = param(
        "rl",
        "who drives the critical phase of such an episode, but of demonstrations: rl, or vla alone",
        choices=DRIVERS,
    )
    seed: int = param(0, "reset seed of such an episode is this plus its id", minimum=0, maximum=2**31 - 1)
    demonstration_limits: int = param(
        1,
        "a demonstration (purpose collect) may take so many times the task's step limits",
        minimum=1,
        maximum=1000,
    )
    record: bool = param(True, "a recorder is running: no episode counts before its file is durable")
    recorder_timeout_s: float = param(
        10.0, "s to wait for the recorder to open a file, and to confirm it", minimum=0.1, maximum=600.0
    )
    reset_timeout_s: float = param(60.0, "s to wait for the reset_scene service", minimum=0.1, maximum=3600.0)
    peer_timeout_s: float = param(
        60.0, "s to wait for the first word of executor and learner before an episode", minimum=0.1, maximum=3600.0
    )
    remind_after_s: float = param(
        30.0, "s between two reminders that the operator is waited for", minimum=1.0, maximum=3600.0
    )
    reset_wait_s: float = param(
        0.0,
        "s to wait for an operator who resets the scene, then the episode is discarded; 0: for ever",
        minimum=0.0,
        maximum=86400.0,
    )
    label_wait_s: float = param(
        0.0,
        "s to wait for the operator's label, the arms holding, where a phase has reached its step limit; then the "
        "episode is a time-out; 0: at once",
        minimum=0.0,
        maximum=86400.0,
    )
    pick_wait_s: float = param(
        60.0,
        "s to wait for the other label of an ended episode that the operator has picked; then it keeps its label; "
        "0: for ever",
        minimum=0.0,
        maximum=86400.0,
    )
    control_timeout_s: float = param(2.0, "s without control_state before no episode begins", minimum=0.6, maximum=60.0)
    executor_timeout_s: float = param(
        10.0,
        "s without control_state before the executor counts as gone: a running episode is discarded, and the operator "
        "is told",
        minimum=1.0,
        maximum=600.0,
    )

    def __post_init__(self) -> None:
        validate(self)
