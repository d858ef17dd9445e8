# SPDX-License-Identifier: Apache-2.0
"""Where an arm was told to be: between samples, along trajectories, before and after them."""

import numpy as np

from rl100_policy.bags.foreign.setpoints import followed, sampled

S = 10**9


def ns(*times: float) -> np.ndarray:
    return np.array([round(time * S) for time in times], dtype=np.int64)


def at(setpoints, *times: float) -> list[float]:
    return setpoints.at(ns(*times))[:, 0].tolist()


def row(value: float) -> np.ndarray:
    return np.array([value])


def test_between_samples_the_way_is_straight():
    told = sampled({0: row(0.0), S: row(1.0), 2 * S: row(5.0)}, longest_gap_s=1.0)
    assert at(told, 0.0, 0.25, 1.0, 1.5, 2.0) == [0.0, 0.25, 1.0, 3.0, 5.0]


def test_nothing_is_known_outside_of_the_samples_or_in_a_long_gap():
    told = sampled({S: row(1.0), 2 * S: row(2.0), 4 * S: row(4.0)}, longest_gap_s=1.5)
    assert np.isnan(at(told, 0.5, 3.0, 4.5)).all()
    assert at(told, 1.5, 4.0) == [1.5, 4.0]


def test_samples_may_be_reached_later():
    told = sampled({0: row(0.0), S: row(1.0)}, reached_after_s=0.5, longest_gap_s=2.0)
    assert at(told, 0.5, 1.0) == [0.0, 0.5]


def test_without_samples_nothing_is_known():
    assert np.isnan(sampled({}, longest_gap_s=1.0).at(ns(0.0, 1.0))).all()


def test_a_trajectory_begins_where_the_arm_is_and_stays_at_its_end():
    told = followed({S: [(2 * S, row(1.0)), (3 * S, row(0.0))]}, lambda _: row(-1.0))
    assert at(told, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0) == [-1.0, 0.0, 1.0, 0.5, 0.0, 0.0]
    assert np.isnan(at(told, 0.5)).all()


def test_a_newer_trajectory_takes_over_where_the_older_one_has_come_to():
    told = followed({0: [(2 * S, row(2.0))], S: [(2 * S, row(0.0))]}, lambda _: row(0.0))
    assert at(told, 0.5, 1.0, 1.5, 2.0, 5.0) == [0.5, 1.0, 0.5, 0.0, 0.0]


def test_after_a_pause_a_trajectory_begins_at_the_end_of_the_last():
    told = followed({0: [(S, row(1.0))], 10 * S: [(11 * S, row(3.0))]}, lambda _: row(0.0))
    assert at(told, 5.0, 10.0, 10.5, 11.0) == [1.0, 1.0, 2.0, 3.0]


def test_points_that_are_to_be_reached_at_once_replace_where_the_arm_was_told_to_be():
    told = followed({0: [(0, row(0.0))], S: [(S, row(1.0))]}, lambda _: row(7.0))
    assert at(told, 0.0, 1.0, 2.0) == [0.0, 1.0, 1.0]
