# SPDX-License-Identifier: Apache-2.0
"""Versions are made ready on a thread of their own, one at a time."""

import threading
import time

from rl100_policy.core.staging import Stager, Wanted


class Versions:
    """Makes none: it waits, and then fails."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def make(self, wanted: Wanted):
        self.goes_on.wait(10.0)
        raise MemoryError(wanted.path)


def collected(stager: Stager):
    end = time.monotonic() + 10.0
    while (done := stager.collect()) is None and time.monotonic() < end:
        time.sleep(0.01)
    return done


def test_what_nobody_thought_of_is_a_refusal_that_tells_where_it_happened():
    versions = Versions()
    versions.goes_on.set()
    stager = Stager(versions.make, lambda: None)
    stager.begin(Wanted("a", "one_step"), None)
    done = collected(stager)
    assert done.runner is None
    assert done.told == "refused: MemoryError: a"
    assert "test_staging.py" in done.traceback
    assert stager.wanted is None


def test_what_is_abandoned_is_refused_at_once_and_another_one_may_begin():
    """Regression: it was told to have failed, and drove a second later."""
    versions = Versions()
    stager = Stager(versions.make, lambda: None)
    stager.abandon("there is nothing yet")
    assert stager.collect() is None
    stager.begin(Wanted("a", "one_step"), None)
    stager.abandon("nobody waits any more")
    assert stager.collect().told == "refused: nobody waits any more"
    stager.begin(Wanted("b", "one_step"), None)
    assert stager.wanted.path == "b"
    assert stager.collect() is None
    versions.goes_on.set()
    assert "MemoryError: b" in collected(stager).told
    assert collected_nothing_more(stager)


def collected_nothing_more(stager: Stager) -> bool:
    time.sleep(0.1)
    return stager.collect() is None
