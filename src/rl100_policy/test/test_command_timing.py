# SPDX-License-Identifier: Apache-2.0
"""Ends of commands that come more or less late."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core.command_timing import CommandTiming

PERIOD_NS = 100_000_000
LIMITS = np.array([1.0, 2.0])


def ends(waits, commands=None):
    timing = CommandTiming(0.1, LIMITS)
    still = np.zeros((len(waits), 2)) if commands is None else commands
    return [
        timing.end_ns(step * PERIOD_NS, wait, command)
        for step, (wait, command) in enumerate(zip(waits, still, strict=True))
    ]


def test_commands_in_time_end_with_their_periods():
    assert ends([0.0] * 4) == [PERIOD_NS * step for step in (1, 2, 3, 4)]


def test_a_command_that_was_waited_for_ends_later_and_the_wait_is_caught_up_slowly():
    late = np.array(ends([0.0, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    late = late - PERIOD_NS * np.arange(1, 9)
    np.testing.assert_array_equal(late / 1e6, [0, 50, 40, 30, 20, 10, 0, 0])


def test_a_fast_arm_catches_nothing_up():
    commands = np.outer(np.arange(4), LIMITS) * 0.1  # at the limit of every joint
    late = np.array(ends([0.0, 0.05, 0.0, 0.0], commands)) - PERIOD_NS * np.arange(1, 5)
    np.testing.assert_array_equal(late / 1e6, [0, 50, 50, 50])


def test_after_a_pause_a_command_follows_nothing():
    timing = CommandTiming(0.1, LIMITS)
    timing.end_ns(0, 0.08, np.zeros(2))
    assert timing.end_ns(3 * PERIOD_NS, 0.0, np.ones(2)) == 4 * PERIOD_NS


@given(
    steps=st.lists(
        st.tuples(st.floats(0.0, 0.09), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0)),
        min_size=2,
        max_size=30,
    )
)
def test_no_wait_makes_a_joint_faster_than_its_limit(steps):
    waits = [wait for wait, _, _ in steps]
    moved = np.array([[a, b] for _, a, b in steps]) * LIMITS * 0.1
    commands = np.cumsum(moved, axis=0)
    found = np.array(ends(waits, commands))
    speeds = np.abs(np.diff(commands, axis=0)) / (np.diff(found)[:, None] * 1e-9)
    assert (speeds <= LIMITS * (1 + 1e-6)).all()
    given_ns = np.arange(len(waits)) * PERIOD_NS + np.array(waits) * 1e9
    assert (found >= given_ns + PERIOD_NS - 1).all(), "never less time than a period"
