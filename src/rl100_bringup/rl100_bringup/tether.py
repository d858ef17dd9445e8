# SPDX-License-Identifier: Apache-2.0
"""Runs a command that is asked to end when its parent ends, even if the parent was killed.

``python -I -S tether.py PARENT_PID COMMAND [ARGUMENT ...]``. A program of its own, because hardly
anything may be done between fork and exec in a process that has threads. Linux only; elsewhere the
command runs untethered. The system watches the parent's *thread*: start this from one that lives
as long as its process.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Tie this process to its parent and become the command; does not return."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(f"process {parent}, which wanted {command[0]}, is gone")
    os.execv(command[0], command)


def tied(command: list[str]) -> list[str]:
    """The command line that runs ``command`` tied to this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
