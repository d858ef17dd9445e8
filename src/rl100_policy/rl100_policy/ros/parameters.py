# SPDX-License-Identifier: Apache-2.0
"""Parameters of a node as one frozen dataclass.

Each is declared with type, description and range, and read once.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from rl100_policy.core.errors import ConfigError

_Parameters = TypeVar("_Parameters")
_OF_RCLPY = ("use_sim_time", "qos_overrides.", "start_type_description_service")
"""Beginnings of names of parameters that rclpy itself reads."""


def parameter(
    default: Any, description: str, *, low: float | None = None, high: float | None = None
) -> Any:
    """Declare one field.

    Its default, what it means with its unit, and its range if it is a number.
    """
    metadata = {"description": description, "low": low, "high": high}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def read_parameters(node: Node, kind: type[_Parameters]) -> _Parameters:
    """Declare every field of a dataclass as a read-only parameter of the node and read it.

    Raises:
        ConfigError: If a value given to the node has the wrong type or is out of range; names
            parameter and range.
    """
    values = {
        item.name: declare(node, item.name, item)
        for item in fields(kind)  # type: ignore[arg-type]
    }
    return kind(**values)


def unknown_parameters(node: Node) -> str:
    """What was given to a node that it does not have, for people; empty if nothing.

    Call it when all are declared. It is no error: what is given to all nodes of a process, or in
    a file for several, need not be everybody's.
    """
    given = {name for name in node._parameter_overrides if not name.startswith(_OF_RCLPY)}
    unknown = sorted(name for name in given if not node.has_parameter(name))
    if not unknown:
        return ""
    has = sorted(name for name in node._parameters if not name.startswith(_OF_RCLPY))
    return (
        f"no parameter {', '.join(map(repr, unknown))} of node {node.get_name()!r}: misspelt? It "
        f"has {', '.join(has)}"
    )


def declare(node: Node, name: str, item: Field[Any]) -> Any:
    """Declare one field as a read-only parameter and read it; raises as above."""
    default = item.default if item.default_factory is MISSING else item.default_factory()
    low, high = item.metadata["low"], item.metadata["high"]
    descriptor = ParameterDescriptor(description=item.metadata["description"], read_only=True)
    if low is not None and isinstance(default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high or 1e9))
        ]
    elif low is not None and isinstance(default, int):
        descriptor.integer_range = [
            IntegerRange(from_value=int(low), to_value=int(high or 2**31), step=1)
        ]
    try:
        return node.declare_parameter(name, default, descriptor).value
    except (InvalidParameterValueException, InvalidParameterTypeException) as error:
        bounds = f" in [{low}, {high}]" if low is not None else ""
        raise ConfigError(
            f"parameter {name!r} of node {node.get_name()!r} "
            f"must be a {type(default).__name__}{bounds}: {error}"
        ) from error
