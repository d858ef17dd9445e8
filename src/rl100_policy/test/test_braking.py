# SPDX-License-Identifier: Apache-2.0
"""The way to rest: whatever the motion is, it keeps the limits and ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core.braking import velocities_to_rest

JOINTS = 3


@st.composite
def _motions(draw):
    """A velocity, its last change within the limits, and the limits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest_change = 10.0 ** rng.uniform(-2, 1, JOINTS)
    largest_turn = largest_change * 10.0 ** rng.uniform(-1.5, 1.0, JOINTS)
    velocity = rng.uniform(-3, 3, JOINTS) * draw(st.sampled_from([0.0, 0.01, 1.0]))
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return (
        velocity,
        share * rng.uniform(-1, 1, JOINTS) * largest_change,
        largest_change,
        largest_turn,
    )


@given(_motions())
def test_every_motion_comes_to_rest_within_the_limits(motion):
    velocity, change, largest_change, largest_turn = motion
    path = velocities_to_rest(*motion)
    velocities = np.vstack([velocity, path, np.zeros((2, JOINTS))])
    changes = np.vstack([change, np.diff(velocities, axis=0)])
    assert (np.abs(changes) <= largest_change + 1e-9).all()
    assert (np.abs(np.diff(changes, axis=0)) <= largest_turn + 1e-9).all()


@given(_motions())
def test_a_way_to_rest_goes_on_where_it_was(motion):
    """After one period of it, the rest of it is a way to rest that is no longer."""
    velocity, _, largest_change, largest_turn = motion
    path = velocities_to_rest(*motion)
    if len(path):
        again = velocities_to_rest(path[0], path[0] - velocity, largest_change, largest_turn)
        assert len(again) <= len(path) - 1


def test_without_a_limit_of_the_jerk_it_brakes_straight_and_as_fast_as_it_may():
    velocity, largest_change = np.array([1.0, -0.5]), np.array([0.3, 0.3])
    path = velocities_to_rest(velocity, np.zeros(2), largest_change, np.full(2, 9.0))
    np.testing.assert_allclose(path, np.outer([0.7, 0.4, 0.1], velocity))
    exact = velocities_to_rest(np.array([0.6]), np.zeros(1), np.array([0.3]), np.array([9.0]))
    np.testing.assert_allclose(exact, [[0.3]])


def test_what_can_rest_at_once_does():
    still = velocities_to_rest(np.zeros(1), np.array([0.1]), np.array([0.3]), np.array([0.2]))
    slow = velocities_to_rest(np.array([0.1]), np.array([0.0]), np.array([0.3]), np.array([0.2]))
    assert len(still) == len(slow) == 0


def test_an_acceleration_that_must_fade_goes_on_for_a_while():
    path = velocities_to_rest(np.zeros(1), np.array([0.3]), np.array([0.3]), np.array([0.1]))
    assert path[0, 0] >= 0.2
    assert path[1, 0] > path[0, 0]


def test_impossible_limits_are_an_error():
    with pytest.raises(ValueError, match="no way to rest"):
        velocities_to_rest(np.ones(1), np.zeros(1), np.full(1, 1e-9), np.full(1, 1e-9))
