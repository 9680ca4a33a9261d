"""Quality of service that a user can fit to a driver's, on real nodes."""

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import JointState

from rlt_common import topics
from rlt_common.parameters import ParameterError, reject_unknown, reject_unknown_qos
from rlt_common.subscriptions import subscribe_to_driver

RELIABILITY = "qos_overrides./cell/joint_states.subscription.reliability"
DEPTH = "qos_overrides./cell/joint_states.subscription.depth"


@pytest.fixture
def context():
    own = rclpy.Context()
    rclpy.init(context=own)
    yield own
    rclpy.try_shutdown(context=own)


def make(context, overrides, heard=None):
    values = [Parameter(name, value=value) for name, value in overrides.items()]
    node = Node("listener", namespace="cell", context=context, parameter_overrides=values)
    callback = [].append if heard is None else heard.append
    reject_unknown(node)
    return node, subscribe_to_driver(node, JointState, topics.JOINT_STATES, callback, topics.QOS_CONTROL)


def test_without_an_override_it_is_the_profile_of_the_table(context):
    _, subscription = make(context, {})
    assert subscription.qos_profile == topics.QOS_CONTROL


def test_an_override_changes_this_subscription_and_not_the_table(context):
    before = topics.QOS_CONTROL.reliability, topics.QOS_CONTROL.depth
    node, subscription = make(context, {RELIABILITY: "best_effort", DEPTH: 3})
    reject_unknown_qos(node)
    assert (subscription.qos_profile.reliability, subscription.qos_profile.depth) == (ReliabilityPolicy.BEST_EFFORT, 3)
    assert (topics.QOS_CONTROL.reliability, topics.QOS_CONTROL.depth) == before


@pytest.mark.parametrize(("overrides", "arrives"), [({}, False), ({RELIABILITY: "best_effort"}, True)])
def test_a_best_effort_driver_is_heard_only_with_the_override(context, overrides, arrives):
    heard = []
    node, _ = make(context, overrides, heard)
    driver = Node("driver", namespace="cell", context=context)
    publisher = driver.create_publisher(JointState, topics.JOINT_STATES, topics.QOS_SENSOR)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.add_node(driver)
    driver.create_timer(0.02, lambda: publisher.publish(JointState()))
    for _ in range(500 if arrives else 100):
        executor.spin_once(timeout_sec=0.05)
        if heard:
            break
    assert bool(heard) == arrives


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({RELIABILITY: "reliabel"}, "listener: qos_overrides of joint_states: .*reliabel"),
        ({RELIABILITY: 1}, "listener: qos_overrides of joint_states: "),
        ({DEPTH: -1}, "listener: qos_overrides of joint_states: "),
    ],
)
def test_a_wrong_value_is_named(context, overrides, message):
    with pytest.raises(ParameterError, match=message):
        make(context, overrides)


@pytest.mark.parametrize(
    "name",
    [
        "qos_overrides./joint_states.subscription.reliability",
        "qos_overrides./cell/joint_states.subscription.reliabilty",
        "qos_overrides./cell/joint_states.publisher.reliability",
    ],
)
def test_an_override_of_something_else_is_no_silent_nothing(context, name):
    node, _ = make(context, {name: "best_effort"})
    with pytest.raises(ParameterError, match=rf"knows no parameter '{name}'; it has: .*{RELIABILITY}"):
        reject_unknown_qos(node)
