"""Parameters as dataclasses: ranges, unknown keys, and declaration on a real node."""

from dataclasses import dataclass, field

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from rlt_common.parameters import ParameterError, declare, from_mapping, param, reject_unknown, validate


@dataclass(frozen=True)
class Inner:
    rate: float = param(0.5, "a rate", minimum=0.0, maximum=1.0)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class Outer:
    path: str = param(description="required")
    count: int = param(3, "a count", minimum=1)
    names: tuple[str, ...] = param(("a",), "names")
    mode: str = param("slow", "a mode", choices=("slow", "fast"))
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        validate(self)


@pytest.fixture
def make_node():
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []

    def make(**overrides):
        values = [Parameter(name, value=value) for name, value in overrides.items()]
        nodes.append(Node("subject", context=context, parameter_overrides=values))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_mapping_is_built_recursively_and_integers_pass_as_floats():
    outer = from_mapping(Outer, {"path": "p", "inner": {"rate": 1}, "names": ["x", "y"]}, "file")
    assert outer.inner.rate == 1.0
    assert outer.names == ("x", "y")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"path": "p", "coutn": 1}, "file: unknown key 'coutn'"),
        ({}, "file: missing key 'path'"),
        ({"path": "p", "count": 0}, "least allowed is 1"),
        ({"path": "p", "count": 1.5}, "expected int"),
        ({"path": "p", "count": True}, "expected int"),
        ({"path": "p", "mode": "quick"}, "choose one of slow, fast"),
        ({"path": "p", "inner": {"rate": 2.0}}, "most allowed is 1.0"),
        ({"path": "p", "inner": {"rate": float("nan")}}, "must be finite"),
        ({"path": "p", "names": "abc"}, "expected a list"),
        ({"path": "p", "inner": 3}, "expected a mapping of Inner"),
    ],
)
def test_a_bad_mapping_says_what_and_where(mapping, message):
    with pytest.raises(ParameterError, match=message):
        from_mapping(Outer, mapping, "file")


def test_declaring_gives_ranges_and_descriptions(make_node):
    node = make_node(path="here", **{"inner.rate": 0.25})
    assert declare(node, Outer) == Outer(path="here", inner=Inner(rate=0.25))
    descriptor = node.describe_parameter("inner.rate")
    assert descriptor.description == "a rate"
    assert (descriptor.floating_point_range[0].from_value, descriptor.floating_point_range[0].to_value) == (0.0, 1.0)
    assert node.describe_parameter("count").integer_range[0].from_value == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "'path' of subject is required"),
        ({"path": "p", "count": 0}, "'count' of subject"),
        ({"path": "p", "count": "three"}, "'count' of subject"),
        ({"path": "p", "inner.rate": 7.0}, "'inner.rate' of subject"),
        ({"path": "p", "mode": "quick"}, "choose one of"),
    ],
)
def test_a_bad_override_names_the_parameter(make_node, overrides, message):
    node = make_node(**overrides)
    with pytest.raises(ParameterError, match=message):
        declare(node, Outer)


def test_an_override_that_nobody_declared_is_an_error(make_node):
    node = make_node(path="p", beta=1.0, use_sim_time=True)
    declare(node, Outer)
    with pytest.raises(ParameterError, match=r"knows no parameter 'beta'.*count"):
        reject_unknown(node)
