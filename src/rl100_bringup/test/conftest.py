# SPDX-License-Identifier: Apache-2.0
"""The signals that nodes are ended with, whatever this process was started by."""

import signal


def pytest_configure() -> None:
    """Undo what `nohup` and a shell's background jobs leave to their children: ignored signals."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
