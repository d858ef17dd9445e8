# SPDX-License-Identifier: Apache-2.0
"""An emergency stop that outlives the process that keeps it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rclpy.node import Node


class StopLatch:
    """Remembers on this machine that a node's emergency stop is latched, until it is released.

    A gate that is killed and started anew would otherwise come up without it. The mark is of this
    machine's run (the folder for temporary files), of one user, ROS domain and node. A file system
    that takes no file costs the memory, not the stop.
    """

    def __init__(self, node: Node) -> None:
        """Look at nothing yet."""
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        if node.context.ok():
            domain = str(node.context.get_domain_id())
        name = node.get_fully_qualified_name().strip("/").replace("/", "_")
        folder = Path(tempfile.gettempdir()) / f"rl100_{os.getuid()}"
        self._mark, self._log = folder / f"estop_{domain}_{name}", node.get_logger()

    def is_set(self) -> bool:
        """Whether a process of this name was stopped and ended before it was released."""
        return self._mark.exists()

    def set(self) -> None:
        """Remember it."""
        try:
            self._mark.parent.mkdir(mode=0o700, exist_ok=True)
            self._mark.touch()
        except OSError as error:
            self._log.error(f"the emergency stop will not outlive this process: {error}")

    def clear(self) -> None:
        """It was released, or its process ends in order."""
        try:
            self._mark.unlink(missing_ok=True)
        except OSError as error:
            self._log.error(f"the emergency stop is still marked in {self._mark}: {error}")
