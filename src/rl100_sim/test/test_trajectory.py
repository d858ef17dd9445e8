# SPDX-License-Identifier: Apache-2.0
"""A way through places at given times."""

import numpy as np
import pytest

from rl100_sim.trajectory import Trajectory

HERE = np.array([0.0, 1.0])
WAY = np.array([[1.0, 1.0], [1.0, 3.0]])


def test_it_rests_until_it_is_told_something():
    np.testing.assert_array_equal(Trajectory(HERE).at(10**18), HERE)


def test_it_goes_straight_from_place_to_place_and_rests_at_the_last():
    trajectory = Trajectory(HERE)
    trajectory.replace(100, [200, 300], WAY)
    expected = {100: HERE, 150: (0.5, 1.0), 200: WAY[0], 250: (1.0, 2.0), 300: WAY[1], 900: WAY[1]}
    for at, place in expected.items():
        np.testing.assert_allclose(trajectory.at(at), place)


def test_what_it_is_told_anew_begins_where_it_is_and_leaves_out_what_is_over():
    trajectory = Trajectory(HERE)
    trajectory.replace(100, [200, 300], WAY)
    trajectory.replace(250, [240, 350], np.array([[9.0, 9.0], [0.0, 0.0]]))
    np.testing.assert_allclose(trajectory.at(250), (1.0, 2.0))
    np.testing.assert_allclose(trajectory.at(300), (0.5, 1.0))


@pytest.mark.parametrize("times", [[50, 100], [200, 200], [300, 200]])
def test_what_is_over_or_out_of_order_changes_nothing(times):
    trajectory = Trajectory(HERE)
    with pytest.raises(ValueError, match="times that increase and end after 100 ns"):
        trajectory.replace(100, times, WAY)
    np.testing.assert_array_equal(trajectory.at(200), HERE)
