# SPDX-License-Identifier: Apache-2.0
"""Processes on the way from the sensors to the arm run before others, where the system lets them.

Priorities are Linux's (SCHED_FIFO, 1 to 99). The controller manager of ros2_control asks for 50;
everything here stays below it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

DRIVER, PERSON, GATE, POLICY = 42, 41, 40, 38
"""Of a simulated arm; of what a person stops it with; of the gate; of what sees and decides."""

ORDINARY = "RL100_ORDINARY"
"""With this environment variable no node asks for one, as in tests: several graphs share a
machine there, and whoever watches them must not wait."""

_ADVICE = (
    "let the user have it: 'rtprio 98' in /etc/security/limits.d, or --cap-add SYS_NICE of a "
    "container"
)


def go_first(priority: int, *, alone: bool = False) -> str:
    """Give every thread of this process a real-time priority; those made later have it, too.

    Args:
        priority: 1 to 99.
        alone: Those made later, and processes that are begun, have none.

    Returns:
        Why not, for people; empty if they have it.
    """
    policy = os.SCHED_FIFO | (os.SCHED_RESET_ON_FORK if alone else 0)
    try:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))
    except OSError as error:
        return _refusal(priority, error)
    return ""


def go_as_usual() -> None:
    """Give the calling thread no priority over others; what it begins has none either."""
    found = os.sched_getscheduler(0)
    inherited = found & os.SCHED_RESET_ON_FORK
    if found - inherited in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER | inherited, os.sched_param(0))


def why_not(priority: int) -> str:
    """What :func:`go_first` would return; nothing is changed."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return _refusal(priority, error)
    os.sched_setscheduler(0, *before)
    return ""


def _refusal(priority: int, error: OSError) -> str:
    return f"no real-time priority {priority} ({error.strerror}): {_ADVICE}"
