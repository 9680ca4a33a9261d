"""The inputs that the executor depends on, by name, with their time-outs. One row each in /diagnostics.

In lockstep a simulator waits for every command, so wall time says nothing about the robot's side of it: there ages are
shown and only the human's commands are judged by them. What is refused is a fault everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlt_common.config import ArmConfig, RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_common.watchdog import NEVER, Watchdog

JOINT_STATES = "joint_states"
"""The input of a robot file without `states`; each entry there is an input by its own name (`state_inputs`)."""
MANAGER = "episode_state"
HUMAN = "teleop_command"
CHUNKS = "action_chunk"
COMMAND_TOPIC = "command_topic"

UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"
"""What the graph says of a publisher before it has heard of its node."""

HUMAN_TIMEOUT_S = 0.1
MANAGER_TIMEOUT_S = 0.5
WRENCH_TIMEOUT_S = 0.1


def wrench(arm: ArmConfig) -> str:
    """The name of an arm's force sensor as an input."""
    return f"wrench.{arm.name}"


def pose(arm: ArmConfig) -> str:
    """The name of an arm's measured tool pose as an input."""
    return f"pose.{arm.name}"


def ready(driver: DriverConfig) -> str:
    """The name of a driver's word that it obeys as an input."""
    return f"ready.{driver.topic}"


def readiness(robot: RobotConfig) -> tuple[str, ...]:
    """The inputs in which the robot's drivers say whether they obey."""
    return tuple(ready(driver) for driver in robot.drivers if driver.ready_topic)


def make_watchdog(
    robot: RobotConfig,
    human_timeout_s: float = HUMAN_TIMEOUT_S,
    manager_timeout_s: float = MANAGER_TIMEOUT_S,
    wrench_timeout_s: float = WRENCH_TIMEOUT_S,
) -> Watchdog:
    """The table of a robot's inputs. A late chunk needs no time-out: a step without a row holds by itself."""
    lockstep = robot.tick == "joint_states"
    timeouts = {
        **dict.fromkeys(robot.state_inputs, NEVER if lockstep else robot.state_timeout_s),
        MANAGER: NEVER if lockstep else manager_timeout_s,
        HUMAN: human_timeout_s,
        CHUNKS: NEVER,
        COMMAND_TOPIC: NEVER,
    }
    for arm in robot.arms:
        if arm.wrench_topic:
            timeouts[wrench(arm)] = NEVER if lockstep else wrench_timeout_s
        if arm.pose_topic:
            timeouts[pose(arm)] = NEVER if lockstep else robot.state_timeout_s
    watchdog = Watchdog(timeouts | dict.fromkeys(readiness(robot), NEVER))
    for driver in robot.drivers:
        if driver.ready_topic:
            watchdog.refuse(ready(driver), f"{driver.ready_topic} has not said yet whether the driver obeys")
    return watchdog


def not_ready(driver: DriverConfig) -> str:
    """What is said of a driver whose `ready_topic` is false."""
    return f"{driver.ready_topic} says that the driver does not obey: start the program on the robot"


def wrench_refusal(arm: ArmConfig, force: Sequence[float], torque: Sequence[float]) -> str:
    """Why the arm must not move under this wrench (N, N m, each (3,)); "" while it may."""
    norms = float(np.linalg.norm(force)), float(np.linalg.norm(torque))
    if not np.isfinite(norms).all():
        return "holds a value that is not finite"
    if norms[0] > arm.max_force:
        return f"force {norms[0]:.1f} N, limit {arm.max_force:g} N"
    if norms[1] > arm.max_torque:
        return f"torque {norms[1]:.2f} N m, limit {arm.max_torque:g} N m"
    return ""


def foreign_commanders(own: str, publishers: Sequence[str]) -> tuple[list[str], str]:
    """Who publishes on the command topic (fully qualified node names, one per publisher) beside the executor `own`.

    Returns the names of other nodes; and, in words, what may clear up by itself: a publisher whose node is not known
    yet, or a second one of this name, which may be an executor that was killed and is not forgotten yet.
    """
    others = {name for name in publishers if name != own}
    unknown = {name for name in others if name.rpartition("/")[2] == UNKNOWN_NODE}
    doubts = ["a node that does not give its name publishes on it too"] if unknown else []
    if sum(name == own for name in publishers) > 1:
        doubts.append(f"a second {own} publishes on it: end it; one that was killed is forgotten within half a minute")
    return sorted(others - unknown), "; ".join(doubts)
