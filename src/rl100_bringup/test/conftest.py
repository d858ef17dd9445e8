# SPDX-License-Identifier: Apache-2.0
"""The signals that nodes are ended with and the width of tables, wherever the tests are run."""

import os
import signal


def pytest_configure() -> None:
    """Give tables one width; take back the ignored signals that `nohup` and a shell leave."""
    os.environ["COLUMNS"] = "120"
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
