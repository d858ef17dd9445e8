# SPDX-License-Identifier: Apache-2.0
"""A service of another node, asked without waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future


class Control:
    """Asks a service; whoever asked is told of the answer, or that there is nobody to ask."""

    def __init__(self, node: Node, kind: type, name: str) -> None:
        """Find the service."""
        self._client: Client = node.create_client(kind, name)

    def ask(
        self, request: Any, on_answer: Callable[[Any], None], on_absent: Callable[[str], None]
    ) -> None:
        """Send a request; never blocks.

        Args:
            request: What is asked.
            on_answer: Gets the response, on the executor's thread.
            on_absent: Gets why there will be none.
        """
        if not self._client.service_is_ready():
            on_absent(f"{self._client.srv_name} is not there; is its node running?")
            return

        def on_done(future: Future) -> None:
            if future.exception() is not None:
                on_absent(f"{self._client.srv_name} failed: {future.exception()}")
            elif not future.cancelled():
                on_answer(future.result())

        self._client.call_async(request).add_done_callback(on_done)
