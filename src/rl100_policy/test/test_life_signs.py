# SPDX-License-Identifier: Apache-2.0
"""When a policy says that it lives, and what it has seen."""

import numpy as np
import pytest

from rl100_policy.core.life_signs import LifeSigns

PERIOD_S = 0.1


def told(frames_s, until_s: float = 1.0) -> list[tuple[float, int]]:
    """Times [s] and frames that are told of: with each, and whenever the timer asks."""
    signs, heard = LifeSigns(PERIOD_S), []
    ticks = np.arange(0.0, until_s, signs.every_s)
    frames = [(at, number) for number, at in enumerate(frames_s)]
    for now_s, frame in sorted([*((at, -1) for at in ticks), *frames]):
        if frame >= 0:
            signs.see(frame)
        if (stamp := signs.due(now_s)) is not None:
            heard.append((now_s, stamp))
    return heard


def test_nothing_is_told_before_there_is_a_frame():
    assert told([]) == []


@pytest.mark.parametrize("after_tick_s", [0.0, 0.001, 0.004, 0.009, 0.011, 0.019])
def test_a_new_frame_is_told_at_once_in_whatever_phase_it_comes(after_tick_s):
    """Regression: one shortly after a tick of the timer waited for the next tick."""
    frames = after_tick_s + np.arange(0.1, 0.9, PERIOD_S)
    heard = dict(reversed([(frame, at) for at, frame in told(frames)]))
    np.testing.assert_allclose([heard[at] for at in range(len(frames))], frames)


def test_in_between_it_lives_every_fifth_of_a_period():
    heard = [at for at, _ in told([0.1])]
    np.testing.assert_allclose(np.diff(heard), 0.02)


def test_however_fast_frames_come_it_is_told_of_a_hundred_a_second_at_most():
    frames = np.arange(0.0, 1.0, 1e-3)
    heard = [at for at, _ in told(frames)]
    assert 80 <= len(heard) <= 110
