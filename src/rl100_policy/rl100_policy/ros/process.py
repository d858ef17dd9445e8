# SPDX-License-Identifier: Apache-2.0
"""Start and stop of a node process: one way for all nodes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import rclpy
from rclpy.executors import (
    Executor,
    ExternalShutdownException,
    MultiThreadedExecutor,
    SingleThreadedExecutor,
)
from rclpy.experimental import EventsExecutor
from rclpy.node import Node

from rl100_policy.core.errors import Rl100Error
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.scheduling import ORDINARY, go_first
from rl100_policy.ros.transport import keep_on_this_machine

_SHUTDOWN_LIMIT_S = 15
"""Longest end of a process [s]: a recorder may need some of it to bring its bag to disk."""
_WAIT_S = 1.0
"""Longest wait for the next callback [s], after which there is another."""


def run_node(
    create: Callable[[], Node],
    args: Sequence[str] | None = None,
    *,
    threads: int = 1,
    events: bool = True,
    images: bool = True,
) -> int:
    """Create one node, spin it until the process is asked to stop, destroy it.

    Args:
        create: Makes the node; called after rclpy is initialised. An ``Rl100Error`` it raises, or
            that the start of a managed node raises, is printed, not traced.
        args: Command line, ``sys.argv`` if None.
        threads: Executor threads; more than one only for a node whose docstring says why.
        events: Whether one thread may be the events executor's. Not that of a node that makes
            subscriptions and answers services later: rclpy 7.1.6 was seen to crash then.
        images: As of :func:`rl100_policy.ros.transport.settings`.

    Returns:
        Exit status: 0 after a stop, 2 when the node could not be created.
    """
    keep_on_this_machine(images=images)
    _interrupt_once()
    rclpy.init(args=list(args) if args is not None else None)
    node = None
    try:
        node = create()
        if isinstance(node, ManagedNode):
            _go_first(node)
            if node.autostart:
                node.start()
    except Rl100Error as error:
        sys.stderr.write(f"cannot start: {error}\n")
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        return 2
    executor, serve = executor_of(threads, events=events)
    executor.add_node(node)
    gc.collect()
    gc.freeze()  # what exists now lives as long as the process: keeps the collector's pauses short
    try:
        _spin(serve, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        _bound_shutdown()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def executor_of(threads: int = 1, *, events: bool = True) -> tuple[Executor, Callable[[], None]]:
    """An executor, and what serves callbacks for a while, or until one raises.

    Where it can be, one that does not build a set of all there is to wait for before every
    callback, which is a third of the work of a node here. It awaits no coroutine; and since its
    ``spin()`` serves nothing (rclpy 7.1.6: the limit of its wait overflows), it waits with one.

    Args:
        threads: As of :func:`run_node`.
        events: As of :func:`run_node`.
    """
    if threads > 1:
        several = MultiThreadedExecutor(threads)
        return several, several.spin
    if not events:
        single = SingleThreadedExecutor()
        return single, single.spin
    of_events = EventsExecutor()
    return of_events, partial(of_events.spin_once, timeout_sec=_WAIT_S)


def _go_first(node: ManagedNode[Any]) -> None:
    """Take the priority that its parameters say; in lockstep time waits for everybody."""
    ordinary = os.environ.get(ORDINARY) or getattr(node.parameters, "lockstep", False)
    if ordinary or not node.priority:
        return
    if problem := go_first(node.priority):
        node.get_logger().info(problem)


def _interrupt_once() -> None:
    """Let SIGTERM and SIGINT interrupt this process once; it takes no more orders while it ends.

    A second Ctrl-C, or SIGTERM from what grew impatient, would come in the middle of the end and
    leave a bag unclosed. The end itself is bounded by ``_bound_shutdown``.
    """
    asked = False

    def interrupt(*_: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)  # rclpy calls it, too, from its own
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _spin(serve: Callable[[], None], node: Node) -> None:
    """Serve callbacks until the process is asked to stop; one that raises does not end the node.

    What a callback expects to go wrong it handles itself. This is for the rest: a message that the
    client library cannot take (a clock with a negative time), an error of ours. A node that is
    gone can neither hold the arm nor close its bag.
    """
    while rclpy.ok():
        try:
            serve()
        except (KeyboardInterrupt, ExternalShutdownException):
            raise
        except Exception:  # whatever it is: said, with where, and the node goes on
            if isinstance(node, ManagedNode):
                node.note_failure()
            node.get_logger().error(
                f"a callback failed; the node goes on\n{traceback.format_exc()}",
                throttle_duration_sec=2.0,
            )


def _bound_shutdown() -> None:
    """Let the system end this process if its end hangs.

    Seen: the middleware spinning for ever, with the interpreter's lock held, while it removes a
    participant. No Python code can run then, so the default action of an alarm signal is used. Can
    go when the middleware no longer does that.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_SHUTDOWN_LIMIT_S)
