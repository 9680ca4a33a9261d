"""What is wrong with a robot's joint states, sensors and command topics, judged before anything moves. Pure.

Times come in as arguments, what the ROS graph knows as plain data. Every finding says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan

import numpy as np
from geometry_msgs.msg import PoseStamped, WrenchStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from rlt_common.codecs import CodecError, stamp_ns
from rlt_common.config import RobotConfig
from rlt_common.driver_config import MEASURED, StateConfig
from rlt_common.joint_states import JointOrder, JointStateError, JointStateSources
from rlt_common.kinematics import ArmKinematics, build_kinematics
from rlt_control.arms import motion_limits
from rlt_control.inputs import WRENCH_TIMEOUT_S
from rlt_control.measured_pose import MeasuredPose

MOST_AHEAD_S, MOST_AGE_S = 0.02, 0.1
"""s that a stamp may lie ahead of this machine's clock, or behind it."""


@dataclass(frozen=True)
class Endpoints:
    """What the ROS graph says of a topic: types and full node names of its publishers and its subscribers."""

    publishers: Sequence[str] = ()
    publisher_types: Sequence[str] = ()
    subscribers: Sequence[str] = ()
    subscriber_types: Sequence[str] = ()
    publishers_latch: Sequence[bool] = ()
    """Whether each publisher is transient local."""


@dataclass
class Heard:
    """Messages of one input: when they came and what they were stamped, ns by the ROS clock."""

    stamps: list[int] = field(default_factory=list)
    came: list[int] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """Why messages were refused, and how many for each reason."""

    def refuse(self, reason: str) -> None:
        """Count a message that cannot be used."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def take(self, stamp_ns: int, now_ns: int) -> None:
        """Count one that can."""
        self.stamps.append(stamp_ns)
        self.came.append(now_ns)

    @property
    def rate_hz(self) -> float | None:
        """By arrival; None before two messages."""
        span = self.came[-1] - self.came[0] if len(self.came) > 1 else 0
        return (len(self.came) - 1) * 1e9 / span if span else None

    @property
    def age_s(self) -> float | None:
        """Median from stamp to arrival."""
        return float(np.median(np.subtract(self.came, self.stamps))) * 1e-9 if self.came else None

    @property
    def longest_gap_s(self) -> float:
        """Between two arrivals."""
        return float(np.diff(self.came).max()) * 1e-9 if len(self.came) > 1 else 0.0


class RobotCheck:
    """Gathers what a robot's drivers say. Raises ValueError for a kinematics model that does not fit the robot file."""

    def __init__(self, robot: RobotConfig) -> None:
        self._robot = robot
        self._sources = JointStateSources(robot)
        self._order = JointOrder(robot.joint_names)
        self.kinematics: ArmKinematics = build_kinematics(robot)
        self._limits = motion_limits(robot, self.kinematics)
        self.states = {name: Heard() for name in robot.state_inputs}
        self.topics = self._sources.topics
        """Topics of joint states."""
        self.wrenches = {arm.name: Heard() for arm in robot.arms if arm.wrench_topic}
        self.poses = {arm.name: Heard() for arm in robot.arms if arm.pose_topic}
        self._judges = {a.name: MeasuredPose(robot, a, self.kinematics) for a in robot.arms if a.pose_topic}
        self._obeys: dict[str, bool | None] = {d.ready_topic: None for d in robot.drivers if d.ready_topic}
        self._force = dict.fromkeys(self.wrenches, 0.0)
        self._torque = dict.fromkeys(self.wrenches, 0.0)
        self._lacking: set[str] = set()
        self._others: dict[str, tuple[str, ...]] = {}
        self.q: np.ndarray | None = None
        """(n,) newest joints, in the robot's order."""

    def on_state(self, topic: str, message: JointState, now_ns: int) -> None:
        """A message of one of the state topics."""
        inputs = self._sources.inputs_of(topic, message.name)
        if not inputs:
            self._others[topic] = tuple(message.name)
        try:
            stamp = stamp_ns(message.header.stamp)
            merged = self._sources.take(topic, message)
            if merged is not None:
                self.q = self._in_order(merged)
        except (CodecError, JointStateError) as error:
            for name in inputs:
                self.states[name].refuse(str(error))
            return
        for name, state in zip(self._robot.state_inputs, self._robot.states, strict=True):
            if name in inputs:
                self.states[name].take(stamp, now_ns)
                self._lacking |= {f"{name}: {lack}" for lack in self._lacks(state, message)}

    def _lacks(self, state: StateConfig, message: JointState) -> list[str]:
        """What the proprioception needs of an entry's joints, and the message does not say."""
        found = []
        joints = state.joints or self._robot.joint_names
        for measured in MEASURED:
            wanted = [
                name
                for joint, name in zip(joints, state.names or joints, strict=True)
                if not state.lacks(measured, joint)
            ]
            values = dict(zip(message.name, getattr(message, measured), strict=False))
            if wanted and not values:
                found.append(f"no {measured}")
            else:
                found += [
                    f"{measured} of {name} is not finite" for name in wanted if not isfinite(values.get(name, nan))
                ]
        return found

    def _in_order(self, message: JointState) -> np.ndarray:
        return self._order.positions(message.name, message.position)

    def on_wrench(self, arm: str, message: WrenchStamped, now_ns: int) -> None:
        """A message of an arm's force sensor."""
        heard, wrench = self.wrenches[arm], message.wrench
        force = np.array([wrench.force.x, wrench.force.y, wrench.force.z])
        torque = np.array([wrench.torque.x, wrench.torque.y, wrench.torque.z])
        if not (np.isfinite(force).all() and np.isfinite(torque).all()):
            heard.refuse("holds a value that is not finite")
            return
        try:
            heard.take(stamp_ns(message.header.stamp), now_ns)
        except CodecError as error:
            heard.refuse(str(error))
            return
        self._force[arm] = max(self._force[arm], float(np.linalg.norm(force)))
        self._torque[arm] = max(self._torque[arm], float(np.linalg.norm(torque)))

    def on_pose(self, arm: str, message: PoseStamped, now_ns: int) -> None:
        """A measured tool pose of an arm; judged once the joints are known."""
        heard = self.poses[arm]
        try:
            stamp = stamp_ns(message.header.stamp)
        except CodecError as error:
            heard.refuse(str(error))
            return
        if self.q is not None and (reason := self._judges[arm].refusal(message, self.q)):
            heard.refuse(reason)
            return
        heard.take(stamp, now_ns)

    def on_ready(self, topic: str, message: Bool) -> None:
        """Whether a driver obeys."""
        self._obeys[topic] = message.data

    # ---- findings

    def problems(
        self,
        graph: Mapping[str, Endpoints],
        types: Mapping[str, str],
        executor: str,
        orders: Mapping[str, Sequence[str]] | None = None,
    ) -> list[str]:
        """One sentence per problem.

        Args:
            graph: command topic or `ready_topic` -> who is there.
            types: command topic -> message type that the executor would send.
            executor: full name of the chunk executor, which may command.
            orders: command topic -> `joints` of the controller that takes it, where it could be read.
        """
        found = []
        for state, (name, heard) in zip(self._robot.states, self.states.items(), strict=True):
            found += self._stream(name, heard, self._robot.state_timeout_s, self._robot.control_hz, state.topic)
        found += sorted(
            f"{lack}: the proprioception needs it: have the driver measure it, or say `missing` in states"
            for lack in self._lacking
        )
        for arm in self._robot.arms:
            if arm.wrench_topic:
                found += self._stream(arm.wrench_topic, self.wrenches[arm.name], WRENCH_TIMEOUT_S, 0.0)
                found += self._at_rest(arm.name, arm.max_force, arm.max_torque)
            if arm.pose_topic:
                found += self._stream(arm.pose_topic, self.poses[arm.name], self._robot.state_timeout_s, 0.0)
        for topic, obeys in self._obeys.items():
            if not obeys:
                said = "was never heard" if obeys is None else "is false"
                found.append(f"{topic} {said}: its driver does not obey: start the program on the robot")
            if topic in graph and not all(graph[topic].publishers_latch):
                found.append(
                    f"{topic}: its publisher is volatile, and the executor asks for what was said before it came: it "
                    "would hear nothing: have the driver latch it, or give chunk_executor in the task file "
                    f"qos_overrides./{topic.lstrip('/')}.subscription.durability: volatile, with the topic's full name"
                )
        found += self._where()
        for topic, kind in types.items():
            if topic in graph:
                found += _command_topic(topic, graph[topic], kind, executor)
        for driver in self._robot.drivers:
            if orders and driver.topic in orders:
                found += _order(driver.topic, driver.names or self._robot.joints_of(driver), orders[driver.topic])
        return found

    def ordered_by_number(self) -> tuple[str, ...]:
        """Command topics whose messages name no joints: only the controller's own order says which value is whose."""
        return tuple(driver.topic for driver in self._robot.drivers if driver.type == "joint_positions")

    def _stream(
        self, name: str, heard: Heard, timeout_s: float, least_hz: float, topic: str | None = None
    ) -> list[str]:
        topic, found, refused = topic or name, [], sum(heard.refused.values())
        if refused:
            reason = max(heard.refused, key=heard.refused.__getitem__)
            found = [f"{name} {reason} ({refused} of {refused + len(heard.came)} messages were refused)"]
        if not heard.came:
            if not found and topic in self._others:
                names = ", ".join(self._others[topic]) or "none"
                return [
                    f"{name}: messages came, and they name none of its joints, only: {names}: correct names in states"
                ]
            return found or [f"{name}: nothing came: start the arm's driver, or correct the topic in the robot file"]
        topic, age_s, rate = name, heard.age_s, heard.rate_hz
        if age_s < -MOST_AHEAD_S:
            found.append(f"{topic}: stamps are {-age_s:.3f} s ahead of this machine's clock: synchronise the clocks")
        elif age_s > MOST_AGE_S:
            found.append(
                f"{topic}: messages are {age_s:.2f} s old when they come: synchronise the clocks, or see what delays"
            )
        if rate is not None and rate < 0.9 * least_hz:
            found.append(
                f"{topic}: {rate:.1f} Hz, and the arms are controlled at {least_hz:g} Hz: raise the driver's rate"
            )
        if heard.longest_gap_s > timeout_s:
            found.append(
                f"{topic}: a gap of {heard.longest_gap_s * 1e3:.0f} ms: the arms would hold ({timeout_s * 1e3:.0f} ms)"
            )
        if len(heard.stamps) > 1 and np.diff(heard.stamps).min() <= 0:
            found.append(f"{topic}: stamps that repeat or go back: two publishers, or a driver without a clock")
        return found

    def _at_rest(self, arm: str, max_force: float, max_torque: float) -> list[str]:
        found = []
        for value, limit, unit in ((self._force[arm], max_force, "N"), (self._torque[arm], max_torque, "N m")):
            if value > limit / 2:
                found.append(
                    f"arm {arm}: {value:.1f} {unit} with the arm at rest, and it holds above {limit:g} {unit}: zero "
                    "the sensor, give it the tool's weight, or raise the limit"
                )
        return found

    def _where(self) -> list[str]:
        if self.q is None:
            return []
        found = []
        for joint, value, low, high in zip(
            self._robot.joint_names, self.q, self._limits.joint_lower, self._limits.joint_upper, strict=True
        ):
            if not low - 1e-3 <= value <= high + 1e-3:
                found.append(
                    f"joint {joint} is at {value:.4f}, outside {low:.4f} to {high:.4f}: move it inside by hand, or "
                    "correct unit, sign or joint_limits"
                )
        for arm, (position, _) in zip(self._robot.arms, self.kinematics.forward(self.q), strict=True):
            low, high = np.array(arm.workspace_min), np.array(arm.workspace_max)
            if (position < low).any() or (position > high).any():
                found.append(
                    f"arm {arm.name}: the tool is at {np.round(position, 3).tolist()} m, outside its workspace "
                    f"{low.tolist()} to {high.tolist()}: move it inside, or correct where the arm stands in the model"
                )
        return found


def _order(topic: str, sent: Sequence[str], taken: Sequence[str]) -> list[str]:
    if list(sent) == list(taken):
        return []
    if sorted(sent) == sorted(taken):
        return [
            f"{topic}: its controller's joints are in the order {', '.join(taken)}, and the robot file's in the order "
            f"{', '.join(sent)}: every value would move another joint: give joints of this driver in the controller's"
        ]
    return [
        f"{topic}: its controller moves {', '.join(taken)}, and the robot file sends {', '.join(sent)}: correct joints "
        "of this driver, or say in names what the controller calls them"
    ]


def _command_topic(topic: str, endpoints: Endpoints, kind: str, executor: str) -> list[str]:
    found = []
    if not endpoints.subscribers:
        found.append(f"{topic}: no driver listens: start it (its controller must be active), or correct the topic")
    elif kind not in endpoints.subscriber_types:
        found.append(
            f"{topic}: its driver takes {', '.join(sorted(set(endpoints.subscriber_types)))}, not {kind}: choose "
            "another type in drivers"
        )
    if others := sorted(set(endpoints.publishers) - {executor}):
        found.append(f"{topic}: {', '.join(others)} publishes there too: end it; only the chunk executor may command")
    return found
