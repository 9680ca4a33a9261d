"""What every driver's encoder has, and the command that it encodes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rlt_common.config import RobotConfig
from rlt_common.driver_config import DriverConfig
from rlt_common.parameters import ParameterError


@dataclass(frozen=True)
class Command:
    """What the arms are to do in one control step.

    Attributes:
        target: (n,) joint targets in the robot's order, rad or m, after every limit.
        measured: (n,) the joints as measured.
        holding: whether the arms are to stay where they are.
        stamp_ns: of the robot state that this answers.
    """

    target: np.ndarray
    measured: np.ndarray
    holding: bool
    stamp_ns: int


class Encoder(Protocol):
    """Turns commands into the messages of one driver's topic. Encoding must not block."""

    topic: str
    message_type: type
    speed: bool
    """The driver takes speeds: where nothing new can be commanded it must be told 0, not left alone."""

    def encode(self, command: Command) -> Any:
        """The message that commands it."""


class JointUnits:
    """A driver's joints, in its order and its units."""

    def __init__(self, robot: RobotConfig, driver: DriverConfig) -> None:
        self.joints = robot.joints_of(driver)
        self.names = driver.names or self.joints
        self._columns = np.array([robot.joint_names.index(joint) for joint in self.joints])
        self._scale, self._offset = map(np.array, robot.units_of(driver))

    def of(self, q: np.ndarray) -> np.ndarray:
        """(k,) scale * position + offset of the driver's joints, from the robot's (n,)."""
        return self._scale * q[self._columns] + self._offset


def optional_message(package: str, name: str, robot: RobotConfig, driver: DriverConfig) -> type:
    """A message type of a package that need not be installed. Raises ParameterError that says which is missing."""
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise ParameterError(
            f"robot {robot.name}: drivers: {driver.topic}: {driver.type} speaks {package}/msg/{name}, which is not "
            f"installed ({error}): build {package} and source its workspace before this one (drivers.repos says where "
            "it comes from)"
        ) from error
