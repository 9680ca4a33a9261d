"""Subscriptions to what drivers publish, whose quality of service a user may have to fit to the driver's.

A reliable subscription hears nothing from a best-effort publisher (rclpy warns of it once). The parameters are those of
any ROS 2 node: `qos_overrides./joint_states.subscription.reliability: best_effort`, likewise `durability`, `history`
and `depth`, with the topic's full name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions
from rclpy.subscription import Subscription

from rlt_common.parameters import ParameterError

POLICIES = (QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY, QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)


def subscribe_to_driver(
    node: Node, kind: type, topic: str, callback: Callable[[Any], None], profile: QoSProfile, raw: bool = False
) -> Subscription:
    """A subscription with `profile`, unless the node's qos_overrides say otherwise. Raises ParameterError."""
    own = QoSProfile(**{name.lstrip("_"): getattr(profile, name) for name in profile.__slots__})  # rclpy changes it
    try:
        return node.create_subscription(
            kind, topic, callback, own, raw=raw, qos_overriding_options=QoSOverridingOptions(POLICIES)
        )
    except (
        InvalidParameterTypeException,
        InvalidParameterValueException,
        InvalidQosOverridesError,
        RuntimeError,
    ) as error:
        raise ParameterError(f"{node.get_name()}: qos_overrides of {topic}: {error}") from error
