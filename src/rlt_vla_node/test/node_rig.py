"""A node under test beside a probe that publishes and collects, over real DDS."""

import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from rlt_common import topics
from rlt_common.codecs import to_time
from rlt_msgs.msg import Observation

LIMIT_S = 20.0
PERIOD_NS = 20_000_000
INGEST_OUTPUTS = (
    (topics.OBSERVATION, Observation, topics.QOS_OBSERVATION),
    (topics.DIAGNOSTICS, DiagnosticArray, topics.QOS_CONTROL),
)
INGEST_INPUTS = (
    (topics.JOINT_STATES, JointState, topics.QOS_CONTROL),
    ("base/image_raw", Image, topics.QOS_CAMERA_LOCKSTEP),
    ("wrist/image_raw", Image, topics.QOS_CAMERA_LOCKSTEP),
)


class Probe(Node):
    """Publishes and collects what the node under test takes and gives."""

    def __init__(self, outputs, inputs):
        super().__init__("probe")
        self.seen = {topic: [] for topic, _, _ in outputs}
        for topic, kind, qos in outputs:
            self.create_subscription(kind, topic, self.seen[topic].append, qos)
        self.out = {topic: self.create_publisher(kind, topic, qos) for topic, kind, qos in inputs}

    def matched(self):
        published = all(p.get_subscription_count() for p in self.out.values())
        return published and all(self.count_publishers(topic) for topic in self.seen)

    def level(self, name):
        levels = [s for m in self.seen[topics.DIAGNOSTICS] for s in m.status if s.name == name]
        return (levels[-1].level, levels[-1].message) if levels else (None, "")


class Rig:
    """A node under test, a probe, and one executor."""

    def __init__(self, node, probe, spin=None):
        self.node, self.probe, self.spin = node, probe, spin
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(node)
        self.executor.add_node(probe)

    def until(self, condition, what):
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {LIMIT_S} s for {what}"
            self.turn()

    def turn(self):
        if self.spin is not None:
            self.spin(self.node, self.executor)
        else:
            self.executor.spin_once(timeout_sec=0.1)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.probe.destroy_node()


def joint_state(robot, stamp_ns, position=0.1):
    count = len(robot.joint_names)
    message = JointState(
        name=list(reversed(robot.joint_names)),
        position=[position * i for i in reversed(range(count))],
        velocity=[0.0] * count,
        effort=[1.0] * count,
    )
    message.header.stamp = to_time(stamp_ns)
    return message


def image(rgb, stamp_ns):
    message = Image(height=rgb.shape[0], width=rgb.shape[1], encoding="rgb8", step=3 * rgb.shape[1], data=rgb.tobytes())
    message.header.stamp = to_time(stamp_ns)
    return message
