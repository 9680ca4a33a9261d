"""The robot's joints out of JointState messages: in any order, with others between them, on one or several topics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sensor_msgs.msg import JointState

from rlt_common.codecs import doubles
from rlt_common.config import RobotConfig
from rlt_common.driver_config import StateConfig


class JointStateError(ValueError):
    """Joint states that cannot be used; says why."""


class JointOrder:
    """Picks joints, in this order, out of named values."""

    def __init__(self, joint_names: Sequence[str]) -> None:
        self._joint_names = tuple(joint_names)
        self._known: tuple[list[str], list[int]] | None = None

    def learn(self, names: Sequence[str]) -> None:
        """Whose the values of the next calls are. Raises JointStateError for a joint that is missing or named twice."""
        names = list(names)
        if self._known is not None and self._known[0] == names:
            return
        for joint in self._joint_names:
            if names.count(joint) != 1:
                times = "no joint" if joint not in names else f"{names.count(joint)} times the joint"
                raise JointStateError(f"has {times} {joint!r}; it names {names}")
        self._known = (names, [names.index(joint) for joint in self._joint_names])

    def pick(self, values: Sequence[float], what: str) -> np.ndarray:
        """(n,) float64. Raises JointStateError for a wrong number of values, or one that is not finite."""
        names, order = self._known
        given = np.asarray(values, dtype=np.float64)
        if given.size != len(names):
            raise JointStateError(f"has {given.size} {what} for {len(names)} names")
        picked = given[order]
        if not np.isfinite(picked).all():
            raise JointStateError(f"{what} of {self._joint_names[int(np.argmin(np.isfinite(picked)))]} is not finite")
        return picked

    def positions(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
        """(n,) float64, rad or m. Raises JointStateError for a joint that is missing, named twice or not finite."""
        self.learn(names)
        return self.pick(positions, "positions")


class JointStateSources:
    """Makes one robot state of the topics in `states` of a robot file.

    A message on the first topic is a new state, with the newest of the others; those must not be older than
    `state_timeout_s`. The state carries the first one's stamp, so its topic should be the one of highest rate.
    """

    def __init__(self, robot: RobotConfig) -> None:
        self.topics = tuple(source.topic for source in robot.states)
        self._robot = robot
        self._sources = [_Source(source, robot.joint_names) for source in robot.states]
        self._order = JointOrder(robot.joint_names)
        self._as_it_is = len(robot.states) == 1 and self._sources[0].plain

    def take(self, topic: str, message: JointState, now_s: float) -> JointState | None:
        """The robot's state, when this message makes one.

        Args:
            topic: one of `topics`.
            message: as it came.
            now_s: monotonic time, s.

        Raises:
            JointStateError: it lacks a joint, or another topic is silent or too old.
        """
        if self._as_it_is:
            return message
        index = self.topics.index(topic)
        try:
            self._sources[index].take(message, now_s)
        except JointStateError as error:
            raise JointStateError(f"{topic} {error}") from error
        if index != 0:
            return None
        for source, name in zip(self._sources, self.topics, strict=True):
            age_s = source.age_s(now_s)
            if age_s is None or age_s > self._robot.state_timeout_s:
                said = "was never heard" if age_s is None else f"is {age_s * 1e3:.0f} ms old"
                raise JointStateError(f"{name} {said}")
        return self._merged(message)

    def _merged(self, first: JointState) -> JointState:
        merged = JointState(header=first.header, name=list(self._robot.joint_names))
        names = [joint for source in self._sources for joint in source.joints]
        self._order.learn(names)
        for field in ("position", "velocity", "effort"):
            parts = [getattr(source, field) for source in self._sources]
            if all(part is not None for part in parts):
                setattr(merged, field, doubles(self._order.pick(np.concatenate(parts), field)))
        return merged


class _Source:
    """One topic: its joints in our units, and when it was heard."""

    def __init__(self, config: StateConfig, joint_names: Sequence[str]) -> None:
        self.joints = config.joints or tuple(joint_names)
        self.plain = not (config.names or config.scale or config.offset)
        self._order = JointOrder(config.names or self.joints)
        self._scale = np.array(config.scale or (1.0,) * len(self.joints))
        self._offset = np.array(config.offset or (0.0,) * len(self.joints))
        self._heard_s: float | None = None
        self.position: np.ndarray | None = None
        self.velocity: np.ndarray | None = None
        self.effort: np.ndarray | None = None

    def age_s(self, now_s: float) -> float | None:
        return None if self._heard_s is None else now_s - self._heard_s

    def take(self, message: JointState, now_s: float) -> None:
        self._order.learn(message.name)
        self.position = (self._order.pick(message.position, "positions") - self._offset) / self._scale
        self.velocity = self._order.pick(message.velocity, "velocities") / self._scale if message.velocity else None
        # Power is the same in both units: what is divided for a position is multiplied for an effort.
        self.effort = self._order.pick(message.effort, "efforts") * self._scale if message.effort else None
        self._heard_s = now_s
