# SPDX-License-Identifier: Apache-2.0
"""When a policy says that it lives and what it has seen, and what keeps it from driving."""

import numpy as np
import pytest

from rl100_policy.core.life_signs import LifeSigns, Readiness, longest_sight_s

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


# What keeps it from driving


def ready(now_s: float = 10.0) -> Readiness:
    """One that has heard the gate and seen something just now."""
    readiness = Readiness(PERIOD_S)
    readiness.hear_gate(now_s)
    readiness.see(now_s)
    return readiness


def test_a_policy_that_hears_and_sees_lacks_nothing():
    readiness = ready(10.0)
    assert readiness.why_undecided(10.0, 0.05) == ""
    assert readiness.why_blind(10.0, has_seen=True, is_of_now=True) == ""


def test_one_whose_decision_failed_lacks_that_until_one_goes_well():
    readiness = ready()
    readiness.decide(failed=True)
    assert "failed" in readiness.why_undecided(10.0, 0.05)
    readiness.decide(failed=False)
    assert readiness.why_undecided(10.0, 0.05) == ""


@pytest.mark.parametrize(("after_s", "hangs"), [(0.14, False), (0.16, True)])
def test_one_hangs_that_is_at_work_for_a_period_longer_than_usual(after_s, hangs):
    readiness = ready()
    readiness.begin(10.0)
    assert bool(readiness.why_undecided(10.0 + after_s, 0.05)) == hangs
    readiness.end()
    assert readiness.why_undecided(99.0, 0.05) == ""


def test_one_that_does_not_hear_the_gate_lacks_it():
    assert "command gate" in Readiness(PERIOD_S).why_blind(0.0, has_seen=True, is_of_now=True)
    readiness = ready(10.0)
    assert readiness.why_blind(11.4, has_seen=True, is_of_now=True) == ""
    assert "command gate" in readiness.why_blind(11.6, has_seen=True, is_of_now=True)


def test_one_that_has_seen_nothing_lacks_that():
    assert "nothing yet" in ready(10.0).why_blind(10.0, has_seen=False, is_of_now=False)


def test_a_slow_camera_is_told_from_one_that_is_lost():
    readiness, limit_s = ready(10.0), longest_sight_s(PERIOD_S)
    assert readiness.why_blind(10.0 + 0.9 * limit_s, has_seen=True, is_of_now=False) == ""
    assert "not of now" in readiness.why_blind(10.1 + limit_s, has_seen=True, is_of_now=False)
    assert readiness.why_blind(11.0, has_seen=True, is_of_now=True) == ""
