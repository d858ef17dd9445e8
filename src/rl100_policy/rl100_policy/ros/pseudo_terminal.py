# SPDX-License-Identifier: Apache-2.0
"""A person at a terminal, for tests: types keys into a command and reads what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

_END_S = 20.0


class PseudoTerminal:
    """A command whose controlling terminal is this object; a context manager that ends it."""

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        size: tuple[int, int] = (45, 140),
    ) -> None:
        """Start the command.

        Args:
            command: Words of the command line.
            variables: Added to this process's environment.
            size: Lines and columns.
        """
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], list(command), {**os.environ, **variables})
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.shown = b""
        """Everything that was written to the terminal."""
        self._status: int | None = None

    def __enter__(self) -> Self:
        """The command runs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, however it takes that."""
        if self.exit_status(0.0) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            if self.exit_status(_END_S) is None:
                os.kill(self.pid, signal.SIGKILL)
                self.exit_status(_END_S)
        os.close(self.descriptor)

    def type(self, keys: bytes) -> None:
        """Type some keys at once."""
        os.write(self.descriptor, keys)

    def look(self) -> bytes:
        """Read what is there; returns everything that was shown."""
        while select.select([self.descriptor], [], [], 0.0)[0]:
            try:
                data = os.read(self.descriptor, 65536)
            except OSError:
                break
            if not data:
                break
            self.shown += data
        return self.shown

    def wait_for(self, text: bytes, timeout_s: float) -> bool:
        """Read until something new is shown that contains a text; whether it was."""
        seen, deadline = len(self.look()), time.monotonic() + timeout_s
        while text not in self.shown[max(0, seen - len(text)) :]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
            self.look()
        return True

    def pause(self, seconds: float) -> None:
        """Let time pass, reading on."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.look()
            time.sleep(0.02)

    def exit_status(self, timeout_s: float) -> int | None:
        """Exit status of the command once it has ended; None if it has not."""
        deadline = time.monotonic() + timeout_s
        while self._status is None:
            self.look()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.02)
        return self._status
