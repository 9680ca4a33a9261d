"""Parameters as frozen dataclasses: declared once with range, unit and description, usable without ROS.

A field made with :func:`param` carries its description and range. :func:`validate` checks an instance (call it from
``__post_init__``); :func:`declare` declares every field as a ROS parameter and returns the filled dataclass.
Nested dataclasses become dotted names (``agent.beta``). :func:`reject_unknown` turns an override that nobody
declared into an error, so a misspelt parameter never passes silently.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_INT_RANGE = (-(2**63), 2**63 - 1)
_ROS_OWN = ("use_sim_time", "start_type_description_service", "qos_overrides.")


class ParameterError(ValueError):
    """A parameter or configuration value that is unknown, of the wrong type or out of range."""


def param(
    default: Any = dataclasses.MISSING,
    description: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] | None = None,
    read_only: bool = True,
) -> Any:
    """A dataclass field with description and range. Without a default the parameter is required."""
    metadata = {
        "description": description,
        "minimum": minimum,
        "maximum": maximum,
        "choices": tuple(choices) if choices else None,
        "read_only": read_only,
    }
    if isinstance(default, list | tuple):
        frozen = tuple(default)
        return dataclasses.field(default_factory=lambda: frozen, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def validate(instance: Any) -> None:
    """Check types, finiteness, ranges and choices of every :func:`param` field. Raises ParameterError."""
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        where = f"{type(instance).__name__}.{field.name}"
        if not dataclasses.is_dataclass(value):
            value = _coerce(value, hints[field.name], where)
            object.__setattr__(instance, field.name, value)
        meta = field.metadata
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, float) and not math.isfinite(item):
                raise ParameterError(f"{where} is {item}: it must be finite")
            low, high = meta.get("minimum"), meta.get("maximum")
            if low is not None and item < low:
                raise ParameterError(f"{where} is {item}: the least allowed is {low}")
            if high is not None and item > high:
                raise ParameterError(f"{where} is {item}: the most allowed is {high}")
            if meta.get("choices") and item not in meta["choices"]:
                raise ParameterError(f"{where} is {item!r}: choose one of {', '.join(meta['choices'])}")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build a frozen dataclass from a mapping (YAML, JSON). Unknown and missing keys are errors.

    Nested dataclasses and tuples of dataclasses are built recursively. `where` names the source in errors.
    """
    if not isinstance(mapping, Mapping):
        raise ParameterError(f"{where}: expected a mapping of {cls.__name__}, got {type(mapping).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(map(str, mapping)) - set(fields))
    if unknown:
        raise ParameterError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _build(mapping[name], hints[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ParameterError(f"{where}: missing key {name!r} of {cls.__name__}")
    return cls(**values)


def declare(node: Any, cls: type[T], prefix: str = "") -> T:
    """Declare every field of `cls` on an rclpy node and return the filled, validated dataclass.

    Raises ParameterError (with the parameter's full name) when a required one is missing or a value does not fit.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
    from rclpy.parameter import Parameter

    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        name = prefix + field.name
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            values[field.name] = declare(node, hint, name + ".")
            continue
        meta = field.metadata
        descriptor = ParameterDescriptor(description=meta.get("description", ""), read_only=meta.get("read_only", True))
        low, high = meta.get("minimum"), meta.get("maximum")
        if (low is not None or high is not None) and hint is float:
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=-1e300 if low is None else float(low),
                    to_value=1e300 if high is None else float(high),
                )
            ]
        elif (low is not None or high is not None) and hint is int:
            descriptor.integer_range = [
                IntegerRange(
                    from_value=_INT_RANGE[0] if low is None else int(low),
                    to_value=_INT_RANGE[1] if high is None else int(high),
                    step=1,
                )
            ]
        if meta.get("choices"):
            descriptor.additional_constraints = "one of: " + ", ".join(meta["choices"])
        default = _default_of(field)
        try:
            if default is dataclasses.MISSING:
                value = node.declare_parameter(name, _ros_type(hint, Parameter), descriptor).value
                if value is None:
                    raise ParameterError(
                        f"parameter {name!r} of {node.get_name()} is required: {descriptor.description}"
                    )
            else:
                if isinstance(default, tuple) and not default:
                    value = node.declare_parameter(name, _ros_type(hint, Parameter), descriptor).value or ()
                else:
                    default = list(default) if isinstance(default, tuple) else default
                    value = node.declare_parameter(name, default, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ParameterError(f"parameter {name!r} of {node.get_name()}: {error}") from error
        values[field.name] = _coerce(value, hint, f"parameter {name!r} of {node.get_name()}")
    return cls(**values)


def reject_unknown(node: Any) -> None:
    """Raise ParameterError when the node was given an override for a parameter that it does not declare.

    Call it after everything is declared. Overrides of a subscription's quality of service are declared with the
    subscription: :func:`reject_unknown_qos` judges those, once the node is made.
    """
    overrides = node._parameter_overrides
    unknown = sorted(name for name in overrides if not node.has_parameter(name) and not name.startswith(_ROS_OWN))
    if unknown:
        raise ParameterError(
            f"{node.get_name()} knows no parameter {unknown[0]!r}; "
            f"it has: {', '.join(sorted(p for p in node._parameters if not p.startswith(_ROS_OWN)))}"
        )


def reject_unknown_qos(node: Any) -> None:
    """Raise ParameterError for a qos_overrides of a topic or a policy that the node does not let anybody override."""
    given = (name for name in node._parameter_overrides if name.startswith("qos_overrides."))
    unknown = sorted(name for name in given if not node.has_parameter(name))
    if unknown:
        known = sorted(name for name in node._parameters if name.startswith("qos_overrides."))
        raise ParameterError(
            f"{node.get_name()} knows no parameter {unknown[0]!r}; it has: {', '.join(known) or 'none'}"
        )


def _default_of(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


def _ros_type(hint: Any, parameter: Any) -> Any:
    table = {bool: "BOOL", int: "INTEGER", float: "DOUBLE", str: "STRING"}
    if typing.get_origin(hint) is tuple:
        return parameter.Type[table[typing.get_args(hint)[0]] + "_ARRAY"]
    return parameter.Type[table[hint]]


def _build(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where)
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and args and dataclasses.is_dataclass(args[0]):
        if not isinstance(value, list | tuple):
            raise ParameterError(f"{where}: expected a list, got {type(value).__name__}")
        return tuple(from_mapping(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    return _coerce(value, hint, where)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
        origin = typing.get_origin(hint)
    if origin is tuple:
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            raise ParameterError(f"{where}: expected a list, got {value!r}")
        item = typing.get_args(hint)[0]
        return tuple(_coerce(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if origin in (dict, Mapping) or hint in (dict, Mapping, Any):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, hint):
        return value
    raise ParameterError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
