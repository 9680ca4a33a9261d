"""The robot's joints out of JointState messages: in any order, with others between them, on one or several topics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sensor_msgs.msg import JointState

from rlt_common.codecs import doubles, stamp_ns, to_time
from rlt_common.config import RobotConfig
from rlt_common.driver_config import MEASURED, StateConfig


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

    def pick(self, values: Sequence[float], what: str, lacking: np.ndarray | None = None) -> np.ndarray:
        """(n,) float64, 0 where `lacking` (n,) says that there is no value.

        Raises JointStateError for a wrong number of values, or one that is not finite.
        """
        names, order = self._known
        given = np.asarray(values, dtype=np.float64)
        if given.size != len(names):
            raise JointStateError(f"has {given.size} {what} for {len(names)} names")
        picked = given[order]
        if lacking is not None:
            picked[lacking] = 0.0
        if not np.isfinite(picked).all():
            joint = self._joint_names[int(np.argmin(np.isfinite(picked)))]
            advice = "" if what == "positions" else ": where no driver measures it, say so in `missing` of states"
            raise JointStateError(f"{what} of {joint} is not finite{advice}")
        return picked

    def positions(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
        """(n,) float64, rad or m. Raises JointStateError for a joint that is missing, named twice or not finite."""
        self.learn(names)
        return self.pick(positions, "positions")


class JointStateSources:
    """Makes one robot state of the entries in `states` of a robot file.

    The state is the newest of each entry and carries the oldest of their stamps: it is new when that stamp is, that is
    once every entry has been told anew. One that falls silent ends the states; whose fault it is, a watchdog says.

    A topic may have several publishers, such as the arms' broadcaster and a gripper's driver, with an entry for each:
    a message is for the entries of which it names a joint, and must then name all of theirs.
    """

    def __init__(self, robot: RobotConfig) -> None:
        self.topics = robot.state_topics
        self._robot = robot
        self._inputs = robot.state_inputs
        self._sources = [_Source(source, robot) for source in robot.states]
        self._order = JointOrder(robot.joint_names)
        self._as_it_is = len(robot.states) == 1 and self._sources[0].plain
        self._oldest_ns: int | None = None

    def inputs_of(self, topic: str, names: Sequence[str]) -> tuple[str, ...]:
        """The inputs (`state_inputs` of the robot) that a message with these joints is for; none: it is not for us."""
        known = set(names)
        return tuple(
            name
            for name, source in zip(self._inputs, self._sources, strict=True)
            if source.topic == topic and not source.names.isdisjoint(known)
        )

    def take(self, topic: str, message: JointState) -> JointState | None:
        """The robot's state, when this message makes one. One with none of the robot's joints makes none.

        Args:
            topic: one of `topics`.
            message: as it came.

        Raises:
            JointStateError: it lacks a joint, or its stamp is further than `state_timeout_s` behind another topic's.
            CodecError: its stamp is none.
        """
        inputs = self.inputs_of(topic, message.name)
        if not inputs:
            return None
        if self._as_it_is:
            return message
        told = [source for name, source in zip(self._inputs, self._sources, strict=True) if name in inputs]
        for source, parts in [(source, source.read(message)) for source in told]:
            source.parts = parts
        for source in told:
            self._check_behind(source)
        stamps = [one.stamp_ns for one in self._sources]
        if None in stamps or min(stamps) == self._oldest_ns:
            return None
        self._oldest_ns = min(stamps)
        return self._merged(self._oldest_ns)

    def _check_behind(self, source: _Source) -> None:
        for other, name in zip(self._sources, self._inputs, strict=True):
            behind_s = 0.0 if other.stamp_ns is None else (other.stamp_ns - source.stamp_ns) * 1e-9
            if behind_s > self._robot.state_timeout_s:
                raise JointStateError(f"is stamped {behind_s:.2f} s before {name}: synchronise the drivers' clocks")

    def _merged(self, oldest_ns: int) -> JointState:
        merged = JointState(name=list(self._robot.joint_names))
        merged.header.stamp = to_time(oldest_ns)
        names = [joint for source in self._sources for joint in source.joints]
        self._order.learn(names)
        for field in ("position", *MEASURED):
            parts = [getattr(source.parts, field) for source in self._sources]
            if all(part is not None for part in parts):
                setattr(merged, field, doubles(self._order.pick(np.concatenate(parts), field)))
        return merged


@dataclass(frozen=True)
class _Parts:
    """What one message says of an entry's joints, in our units; None: nothing."""

    stamp_ns: int
    position: np.ndarray
    velocity: np.ndarray | None
    effort: np.ndarray | None


class _Source:
    """One entry: its joints in our units, and what its newest message says."""

    def __init__(self, config: StateConfig, robot: RobotConfig) -> None:
        self.topic = config.topic
        self.joints = config.joints or robot.joint_names
        self.names = frozenset(config.names or self.joints)
        self._scale, self._offset = map(np.array, robot.units_of(config))
        self._lacking = {
            field: np.array([config.lacks(field, joint) for joint in self.joints], dtype=bool) for field in MEASURED
        }
        self.plain = not (config.names or config.missing or (self._scale != 1.0).any() or self._offset.any())
        self._order = JointOrder(config.names or self.joints)
        self.parts: _Parts | None = None

    @property
    def stamp_ns(self) -> int | None:
        """Of the newest message; None before the first."""
        return None if self.parts is None else self.parts.stamp_ns

    def read(self, message: JointState) -> _Parts:
        """What a message says. Raises JointStateError or CodecError."""
        stamp = stamp_ns(message.header.stamp)
        self._order.learn(message.name)
        position = self._order.pick(message.position, "positions")
        velocity, effort = self._of(message, "velocity", "velocities"), self._of(message, "effort", "efforts")
        # Power is the same in both units: what is divided for a position is multiplied for an effort.
        return _Parts(
            stamp_ns=stamp,
            position=(position - self._offset) / self._scale,
            velocity=None if velocity is None else velocity / self._scale,
            effort=None if effort is None else effort * self._scale,
        )

    def _of(self, message: JointState, field: str, what: str) -> np.ndarray | None:
        lacking, values = self._lacking[field], getattr(message, field)
        if lacking.all():
            return np.zeros(len(self.joints))
        return self._order.pick(values, what, lacking) if values else None
