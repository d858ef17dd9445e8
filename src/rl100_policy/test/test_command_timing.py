# SPDX-License-Identifier: Apache-2.0
"""Ends of commands that come more or less late."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core.command_timing import CommandTiming

PERIOD_NS = 100_000_000
LIMITS = np.array([1.0, 2.0])
HARDEST = np.array([10.0, 15.0])


def ends(waits, commands=None):
    timing = CommandTiming(0.1, LIMITS, HARDEST)
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


def test_a_fast_arm_catches_little_up():
    speeds = np.array([0.0, 0.5, 1.0, 1.0, 1.0, 1.0])[:, None] * LIMITS
    late = np.array(ends([0.0, 0.0, 0.0, 0.05, 0.0, 0.0], np.cumsum(speeds * 0.1, axis=0)))
    late = (late - PERIOD_NS * np.arange(1, 7)) / 1e6
    np.testing.assert_array_equal(late[:4], [0, 0, 0, 50])
    assert 50 == late[4] >= late[5] >= 48


def test_after_a_pause_a_command_follows_nothing():
    timing = CommandTiming(0.1, LIMITS, HARDEST)
    timing.end_ns(0, 0.08, np.zeros(2))
    assert timing.end_ns(3 * PERIOD_NS, 0.0, np.ones(2)) == 4 * PERIOD_NS


@given(
    steps=st.lists(
        st.tuples(st.floats(0.0, 0.05), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0)),
        min_size=2,
        max_size=30,
    )
)
def test_no_wait_makes_a_joint_faster_than_its_limits_or_change_faster(steps):
    """Regression: a way that had caught up and then braked was 23 % beyond them."""
    waits = [wait for wait, _, _ in steps]
    speeds = [np.zeros(2)]
    for _, *asked in steps:  # as the gate does: within the limits, were each in time
        change = np.clip(asked * LIMITS - speeds[-1], -HARDEST * 0.1, HARDEST * 0.1)
        speeds.append(speeds[-1] + change)
    commands = np.cumsum(np.array(speeds[1:]) * 0.1, axis=0)
    found = np.array(ends(waits, commands))
    took = np.diff(found)[:, None] * 1e-9
    velocity = np.diff(commands, axis=0) / took
    assert (np.abs(velocity) <= LIMITS * (1 + 1e-6)).all()
    acceleration = np.diff(velocity, axis=0) / ((took[1:] + took[:-1]) / 2.0)
    assert (np.abs(acceleration) <= HARDEST * (1 + 1e-6)).all()
    given_ns = np.arange(len(waits)) * PERIOD_NS + np.array(waits) * 1e9
    assert (found >= given_ns + PERIOD_NS - 1).all(), "never less time than a period"
    assert (found <= given_ns + 3 * PERIOD_NS).all(), "and not much more"
