# SPDX-License-Identifier: Apache-2.0
"""Which samples begin a control period, at any rate of the stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl100_policy.core.cadence import Cadence

PERIOD = 100_000_000


def picked(stamps):
    cadence = Cadence(PERIOD)
    return [stamp for stamp in stamps if cadence.begins(stamp)]


@pytest.mark.parametrize("rate", [30, 100, 125, 500, 1000])
def test_a_faster_stream_is_thinned_to_exactly_the_control_rate(rate):
    stamps = [round(n * 1e9 / rate) for n in range(20 * rate)]
    begins = np.array(picked(stamps))
    assert len(begins) == 200
    grid = PERIOD * np.arange(200)
    assert np.abs(begins - grid).max() <= 0.5e9 / rate + 1


def test_a_stream_at_the_control_rate_is_taken_whole_in_spite_of_jitter():
    rng = np.random.default_rng(0)
    stamps = (PERIOD * np.arange(500) + rng.integers(-9_000_000, 9_000_000, 500)).tolist()
    assert picked(stamps) == stamps


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(101_000_000, 900_000_000), min_size=1, max_size=30))
def test_a_slower_stream_is_taken_whole(gaps):
    stamps = np.cumsum(gaps).tolist()
    assert picked(stamps) == stamps


def test_after_a_pause_the_next_sample_begins_a_period():
    assert picked([0, 100_000_000, 5_037_000_000, 5_080_000_000, 5_137_000_000]) == [
        0,
        100_000_000,
        5_037_000_000,
        5_137_000_000,
    ]


def test_after_a_restart_the_clock_may_have_been_set_back():
    cadence = Cadence(PERIOD)
    assert cadence.begins(7 * PERIOD)
    cadence.restart()
    assert cadence.begins(0)
    assert not cadence.begins(PERIOD // 10)
