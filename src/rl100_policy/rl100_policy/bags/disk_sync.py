# SPDX-License-Identifier: Apache-2.0
"""Bringing a growing file to disk while it is being written.

What was handed to the system survives the end of a process, what is on disk that of the machine. A
disk may take seconds for it, and whoever writes must not wait so long: what it has not handed over
by then, a crash would take.
"""

from __future__ import annotations

import os
import queue
import threading


class DiskSync:
    """Waits for the disk on a thread of its own."""

    def __init__(self) -> None:
        """Start the thread."""
        self._wanted: queue.Queue[int | None] = queue.Queue(maxsize=1)
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="disk sync", daemon=True)
        self._thread.start()

    def request(self, descriptor: int) -> None:
        """Bring an open file to disk soon, or after what is being done; never blocks.

        Args:
            descriptor: Of the file; it may be closed afterwards.

        Raises:
            OSError: What an earlier request for this file met.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error
        own = os.dup(descriptor)
        try:
            self._wanted.put_nowait(own)
        except queue.Full:  # the one that waits already will do for this, too
            os.close(own)

    def forget(self) -> None:
        """Another file follows: errors of the one before are not its own."""
        self._error = None

    def shutdown(self, timeout_s: float) -> None:
        """End the thread when it has done what it does now; the disk may take too long for it."""
        try:
            self._wanted.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (descriptor := self._wanted.get()) is not None:
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                self._error = error
            finally:
                os.close(descriptor)
