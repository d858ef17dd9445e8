# SPDX-License-Identifier: Apache-2.0
"""The terminal that a person sits at: keys as they are pressed, whatever else is redirected.

It is ``/dev/tty``, not standard input: it works over SSH, in a container with a terminal, and
under a launcher that takes standard input away, and it needs no window system.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import time
import tty
from types import TracebackType
from typing import Self, TextIO

from rl100_policy.core.errors import ConfigError
from rl100_policy.core.key_decoder import (
    ASK_RELEASES,
    DISABLE_PASTE,
    DISABLE_RELEASES,
    ENABLE_PASTE,
    ENABLE_RELEASES,
    KeyDecoder,
    KeyEvent,
)

TTY = "/dev/tty"
_READ_S = 0.05
_ESCAPE_S = 0.2
"""An escape byte that nothing follows for this long is the escape key [s]: a slow link may bring
the rest of an arrow later than the first byte."""


class Terminal:
    """A terminal whose keys are read one by one, without echo; a context manager.

    One thread reads; ``screen`` may be written by another.
    """

    def __init__(self, path: str = TTY) -> None:
        """Open it.

        Raises:
            ConfigError: If this process has no terminal.
        """
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            self._before = termios.tcgetattr(self._descriptor)
        except (OSError, termios.error) as error:
            raise ConfigError(
                f"there is no terminal to read keys from ({path}: {error}). Start this node in a "
                "terminal of its own (`ros2 run` or `./rl100 run`, over SSH with `ssh -t`, in a "
                "container with `docker run -it`), not from a launch file. Joysticks and the "
                "services operator/* do the same without a terminal."
            ) from error
        self.screen: TextIO = os.fdopen(
            os.dup(self._descriptor), "w", encoding="utf-8", errors="replace"
        )
        self._decoder = KeyDecoder()
        self._heard_s = 0.0

    def __enter__(self) -> Self:
        """Read keys one by one, and ask whether the terminal tells releases."""
        tty.setcbreak(self._descriptor, termios.TCSANOW)
        self._write(ENABLE_RELEASES + ASK_RELEASES + ENABLE_PASTE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        with contextlib.suppress(OSError, ValueError, termios.error):
            self._write(DISABLE_RELEASES + DISABLE_PASTE)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            self.screen.close()
        os.close(self._descriptor)

    @property
    def tells_releases(self) -> bool:
        """Whether the terminal has answered that it does."""
        return self._decoder.reports_releases

    def read(self, timeout_s: float) -> list[KeyEvent]:
        """Keys that came, at once; after the timeout none.

        Raises:
            EOFError: If the terminal is gone.
        """
        ready, _, _ = select.select([self._descriptor], [], [], min(timeout_s, _READ_S))
        if not ready:
            late = time.monotonic() - self._heard_s > _ESCAPE_S
            return self._decoder.flush() if late else []
        self._heard_s = time.monotonic()
        try:
            data = os.read(self._descriptor, 1024)
        except OSError as error:
            raise EOFError("the terminal is gone") from error
        if not data:
            raise EOFError("the terminal is gone")
        return self._decoder.feed(data)

    def _write(self, text: str) -> None:
        os.write(self._descriptor, text.encode())
