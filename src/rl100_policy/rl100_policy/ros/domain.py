# SPDX-License-Identifier: Apache-2.0
"""A ROS domain of its own for a graph, so that two graphs of a machine do not hear each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

from domain_coordinator import domain_id

_DOMAINS = range(1, 101)


@contextmanager
def free_domain() -> Iterator[int]:
    """Reserve a ROS domain id for as long as the context lasts.

    It differs from that of every other demo, evaluation and test on this machine (what uses
    ``domain_coordinator``), and from the one in this process's environment, where a graph of
    ``rl100 up`` may be running.
    """
    own = os.environ.get("ROS_DOMAIN_ID", "0")
    reservation = domain_id((n for n in cycle(_DOMAINS) if str(n) != own).__next__)
    domain = reservation.__enter__()
    try:
        yield domain
    finally:
        # Not by a with statement: the reservation would take any OSError inside for its own.
        reservation.__exit__(None, None, None)
