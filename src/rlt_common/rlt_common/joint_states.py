"""The robot's joints out of JointState messages: in any order, with others between them, on one or several topics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sensor_msgs.msg import JointState

from rlt_common.codecs import doubles, stamp_ns, to_time
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

    The state is the newest of each topic and carries the oldest of their stamps: it is new when that stamp is, that is
    once every topic has spoken anew. A topic that falls silent ends the states; whose fault it is, a watchdog says.
    """

    def __init__(self, robot: RobotConfig) -> None:
        self.topics = tuple(source.topic for source in robot.states)
        self._robot = robot
        self._sources = [_Source(source, robot) for source in robot.states]
        self._order = JointOrder(robot.joint_names)
        self._as_it_is = len(robot.states) == 1 and self._sources[0].plain
        self._oldest_ns: int | None = None

    def take(self, topic: str, message: JointState) -> JointState | None:
        """The robot's state, when this message makes one.

        Args:
            topic: one of `topics`.
            message: as it came.

        Raises:
            JointStateError: it lacks a joint, or its stamp is further than `state_timeout_s` behind another topic's.
            CodecError: its stamp is none.
        """
        if self._as_it_is:
            return message
        source = self._sources[self.topics.index(topic)]
        source.take(message)
        stamps = [one.stamp_ns for one in self._sources]
        self._check_behind(source)
        if None in stamps or min(stamps) == self._oldest_ns:
            return None
        self._oldest_ns = min(stamps)
        return self._merged(self._oldest_ns)

    def _check_behind(self, source: _Source) -> None:
        for other, name in zip(self._sources, self.topics, strict=True):
            behind_s = 0.0 if other.stamp_ns is None else (other.stamp_ns - source.stamp_ns) * 1e-9
            if behind_s > self._robot.state_timeout_s:
                raise JointStateError(f"is stamped {behind_s:.2f} s before {name}: synchronise the drivers' clocks")

    def _merged(self, oldest_ns: int) -> JointState:
        merged = JointState(name=list(self._robot.joint_names))
        merged.header.stamp = to_time(oldest_ns)
        names = [joint for source in self._sources for joint in source.joints]
        self._order.learn(names)
        for field in ("position", "velocity", "effort"):
            parts = [getattr(source, field) for source in self._sources]
            if all(part is not None for part in parts):
                setattr(merged, field, doubles(self._order.pick(np.concatenate(parts), field)))
        return merged


class _Source:
    """One topic: its joints in our units, and the stamp of its newest message."""

    def __init__(self, config: StateConfig, robot: RobotConfig) -> None:
        self.joints = config.joints or robot.joint_names
        self._scale, self._offset = map(np.array, robot.units_of(config))
        self._missing = config.missing
        self.plain = not (config.names or config.missing or (self._scale != 1.0).any() or self._offset.any())
        self._order = JointOrder(config.names or self.joints)
        self.stamp_ns: int | None = None
        self.position: np.ndarray | None = None
        self.velocity: np.ndarray | None = None
        self.effort: np.ndarray | None = None

    def take(self, message: JointState) -> None:
        stamp = stamp_ns(message.header.stamp)
        self._order.learn(message.name)
        position = self._order.pick(message.position, "positions")
        velocity, effort = self._of(message, "velocity", "velocities"), self._of(message, "effort", "efforts")
        self.position = (position - self._offset) / self._scale
        self.velocity = None if velocity is None else velocity / self._scale
        # Power is the same in both units: what is divided for a position is multiplied for an effort.
        self.effort = None if effort is None else effort * self._scale
        self.stamp_ns = stamp

    def _of(self, message: JointState, field: str, what: str) -> np.ndarray | None:
        if field in self._missing:
            return np.zeros(len(self.joints))
        values = getattr(message, field)
        return self._order.pick(values, what) if values else None
