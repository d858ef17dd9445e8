# SPDX-License-Identifier: Apache-2.0
"""Messages of ``/diagnostics`` (diagnostic_msgs)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

DIAGNOSTICS_TOPIC = "/diagnostics"


def diagnostic_status(
    name: str, hardware: str, message: str, values: Mapping[str, object], *, level: bytes
) -> DiagnosticStatus:
    """One status.

    Args:
        name: ``rl100: <node>`` or ``rl100: <node>: <part>``.
        hardware: What it is about.
        message: One line for people.
        values: Figures.
        level: Constants of DiagnosticStatus: OK, WARN, ERROR, STALE.
    """
    told = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(
        level=level, name=name, message=message, hardware_id=hardware, values=told
    )


def diagnostic_array(node: Node, status: Iterable[DiagnosticStatus]) -> DiagnosticArray:
    """What a node tells about itself now."""
    array = DiagnosticArray(status=list(status))
    array.header.stamp = node.get_clock().now().to_msg()
    return array
