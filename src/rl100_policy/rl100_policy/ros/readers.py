# SPDX-License-Identifier: Apache-2.0
"""Who reads what a node publishes."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.publisher import Publisher


def readers_of(node: Node, publisher: Publisher) -> list[str]:
    """Nodes that a publisher is known to reach, with their namespaces, sorted.

    A reader finds its writer before or after the writer finds it, and what is written in between
    is lost without a trace; only the writer's side can tell.
    """
    found = node.get_subscriptions_info_by_topic(publisher.topic_name)
    return sorted({f"{each.node_namespace.rstrip('/')}/{each.node_name}" for each in found})
