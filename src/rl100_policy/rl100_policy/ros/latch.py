# SPDX-License-Identifier: Apache-2.0
"""An emergency stop that outlives the process that keeps it, but not its graph."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rclpy.node import Node

_PREFIX = "estop"


class StopLatch:
    """Remembers on this machine that a node's emergency stop is latched, until it is released.

    A gate that ends and is started anew would otherwise come up without it. The mark is of this
    machine's run (the folder for temporary files), of one user, ROS domain and node. A file system
    that takes no file costs the memory, not the stop.
    """

    def __init__(self, node: Node) -> None:
        """Look at nothing yet."""
        domain, name = node.context.get_domain_id(), node.get_fully_qualified_name()
        self._mark, self._log = _mark(domain, name), node.get_logger()

    def is_set(self) -> bool:
        """Whether a process of this name was stopped and ended before it was released."""
        return self._mark.exists()

    def set(self) -> None:
        """Remember it."""
        try:
            folder = self._mark.parent
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.lstat().st_uid != os.getuid():
                raise OSError(f"{folder} is another user's")
            self._mark.touch()
        except OSError as error:
            self._log.error(f"the emergency stop will not outlive this process: {error}")

    def clear(self) -> None:
        """It was released."""
        try:
            self._mark.unlink(missing_ok=True)
        except OSError as error:
            self._log.error(f"the emergency stop is still marked in {self._mark}: {error}")


def forget_stops(domain: int | str | None = None, gate: str = "command_gate") -> None:
    """A whole graph is started by a person: no emergency stop of an earlier one is in force.

    A gate that runs and is stopped remembers it again by itself.

    Args:
        domain: ROS domain of the graph; None: that of this process's environment.
        gate: Full name of its command gate.
    """
    of_domain = os.environ.get("ROS_DOMAIN_ID", "0") if domain is None else domain
    _mark(of_domain, gate).unlink(missing_ok=True)


def _mark(domain: int | str, node: str) -> Path:
    return _folder() / f"{_PREFIX}_{domain}_{node.strip('/').replace('/', '_')}"


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"rl100_{os.getuid()}"
