# SPDX-License-Identifier: Apache-2.0
"""Running nodes in a test.

A private domain, this machine only, and a spinner with a time limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.node import Node

from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.latch import forget_stops
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.process import executor_of


@contextmanager
def isolated_ros(**parameters: object) -> Iterator[None]:
    """Initialise rclpy on a domain id no other test uses now.

    Discovery is restricted to this machine.

    Args:
        parameters: Given to every node created inside, as ``-p name:=value`` on the command line
            would.
    """
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    given = [
        word for name, value in parameters.items() for word in ("-p", f"{name}:={_text(value)}")
    ]
    with free_domain() as domain:
        forget_stops(domain)
        rclpy.init(args=["--ros-args", *given] if given else None, domain_id=domain)
        try:
            yield
        finally:
            rclpy.try_shutdown()


@contextmanager
def spinning(
    *nodes: Node, events: bool = True, start: bool = True
) -> Iterator[Callable[[Callable[[], bool]], bool]]:
    """Give a function that spins the nodes until a condition holds; destroys them at the end.

    By the executor that a node of one thread has in a process of its own.

    Args:
        nodes: Which ones.
        events: As of ``run_node``.
        start: Whether managed nodes are started.
    """
    executor, _ = executor_of(events=events)
    for node in nodes:
        if start and isinstance(node, ManagedNode) and not node.is_active:
            node.start()
        executor.add_node(node)

    def spin_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.02)
        return condition()

    try:
        yield spin_until
    finally:
        executor.shutdown()
        for node in nodes:
            node.destroy_node()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
