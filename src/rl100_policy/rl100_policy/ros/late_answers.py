# SPDX-License-Identifier: Apache-2.0
"""Services that answer later, without a coroutine.

rclpy 7.1.6 resumes a waiting coroutine in every turn of the executor, and its events executor
awaits none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.service import Service
from rclpy.task import Future

Answer = Callable[[Any, Any], Any]
"""Gets request and response; returns the response, or a Future of it."""


def create_late_service(node: Node, kind: type, name: str, answer: Answer) -> Service:
    """A service whose callback may return a Future: the answer goes out when that has a result.

    The executor is free meanwhile, and further requests are served. The result is set on the
    executor's thread.

    Args:
        node: Offers it.
        kind: Type of the service.
        name: Of the service.
        answer: The callback.
    """
    service = node.create_service(kind, name, answer)
    send = service.send_response

    def send_when_known(response: Any, header: Any) -> None:
        if isinstance(response, Future):
            response.add_done_callback(lambda known: send(known.result(), header))
        else:
            send(response, header)

    # Both executors hand what the callback returned to this method of the service.
    service.send_response = send_when_known  # type: ignore[method-assign]
    return service
