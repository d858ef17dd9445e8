# SPDX-License-Identifier: Apache-2.0
"""Which joint states the gate answers."""

from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest

from rl100_policy.core.config import load_robot
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.joint_stream import Arrival, JointStream
from rl100_policy.core.kinematics import ArmKinematics

ROBOT = load_robot(
    Path(__file__).parents[2] / "rl100_bringup" / "config" / "robots" / "panda.yaml"
)
ARM = ArmKinematics(ROBOT)
T, HOME = 100_000_000, np.array(ROBOT.home)
BEGIN = 1_000 * T


def stream(oldest_ns=None):
    return JointStream(ARM, T, oldest_ns)


def test_what_is_told_twice_or_out_of_order_is_old_and_a_jump_back_begins_anew():
    joints = stream()
    order = [BEGIN, BEGIN, BEGIN + 2 * T, BEGIN + T, BEGIN + 3 * T, BEGIN - 50 * T, BEGIN - 49 * T]
    expected = [
        Arrival.NEXT, Arrival.OLD, Arrival.NEXT, Arrival.OLD, Arrival.NEXT,
        Arrival.RESTARTED, Arrival.NEXT,
    ]  # fmt: skip
    assert [joints.arrives(stamp, stamp) for stamp in order] == expected
    assert joints.newest_ns == BEGIN - 49 * T


def test_a_silence_lasts_until_a_place_where_an_arm_can_be():
    joints, far = stream(), HOME + 50.0
    for at, (q, silent) in {
        0: (HOME, 10**18 // T),
        1: (HOME, 1),
        6: (far, 1),
        7: (far, 6),
    }.items():
        joints.arrives(BEGIN + at * T, 0)
        with pytest.raises(ObservationError) if at == 6 else nullcontext():
            joints.begins_period(BEGIN + at * T, q)
        assert joints.silent_ns == silent * T


def test_one_of_a_fast_stream_begins_each_period():
    joints, begun = stream(), []
    for stamp in range(BEGIN, BEGIN + 5 * T, T // 10):
        joints.arrives(stamp, stamp)
        if joints.begins_period(stamp, HOME):
            begun.append(stamp)
    np.testing.assert_array_equal(np.diff(begun), T)


@pytest.mark.parametrize("age", [-3 * T, 3 * T])
def test_what_is_not_of_now_is_as_if_it_had_not_come(age):
    """Regression: one of the future made all that followed look as if time had jumped back."""
    joints = stream(oldest_ns=2 * T)
    joints.arrives(BEGIN, BEGIN)
    with pytest.raises(ObservationError, match=r"stamped [+-]0\.300 s from this node's clock"):
        joints.arrives(BEGIN + T - age, BEGIN + T)
    assert joints.newest_ns == BEGIN
    assert joints.arrives(BEGIN + T, BEGIN + T) is Arrival.NEXT


def test_of_whatever_time_it_is_where_time_is_unknown_or_waits():
    assert stream(oldest_ns=2 * T).arrives(BEGIN, 0) is Arrival.NEXT
    assert stream().arrives(BEGIN, BEGIN + 50 * T) is Arrival.NEXT, "in lockstep"


def test_one_that_is_a_little_out_of_order_is_old_and_no_restart():
    joints = stream(oldest_ns=2 * T)
    joints.arrives(BEGIN + 2 * T, BEGIN + 2 * T)
    assert joints.arrives(BEGIN + T // 2, BEGIN + 2 * T) is Arrival.OLD


@pytest.mark.parametrize("oldest", [T // 20, T // 2, 2 * T])
def test_one_of_now_is_answered_however_short_the_timeout(oldest):
    """Regression: with a timeout below .8 periods it was of the future."""
    assert stream(oldest_ns=oldest).arrives(BEGIN, BEGIN) is Arrival.NEXT


def test_one_may_be_ahead_by_the_clocks_tick_and_no_more():
    joints = stream(oldest_ns=2 * T)
    with pytest.raises(ObservationError, match="clocks differ"):
        joints.arrives(BEGIN + 13 * T // 10, BEGIN)
    assert joints.arrives(BEGIN + 11 * T // 10, BEGIN) is Arrival.NEXT


def test_a_jump_of_the_arm_is_refused():
    joints = stream()
    joints.arrives(BEGIN, BEGIN)
    joints.begins_period(BEGIN, HOME)
    joints.arrives(BEGIN + T, BEGIN + T)
    with pytest.raises(ObservationError, match="joint 0 jumped"):
        joints.begins_period(BEGIN + T, HOME + 2.0)


@pytest.mark.parametrize("period_s", [0.1, 0.02, 0.01])
@pytest.mark.parametrize(("speed", "rests"), [(0.0, True), (0.005, True), (0.1, False)])
def test_an_arm_that_moves_slowly_does_not_rest_however_short_the_period(period_s, speed, rests):
    """Regression: .5 rad/s passed for rest at 50 Hz, and a takeover would have stopped it dead."""
    joints = JointStream(ARM, round(period_s * 1e9), None)
    for step in range(round(0.5 / period_s)):
        stamp = round((1.0 + step * period_s) * 1e9)
        joints.arrives(stamp, 0)
        joints.begins_period(stamp, HOME + speed * step * period_s)
    assert (joints.resting_place() is not None) == rests


def shown(joints, *, rate_hz, off):
    """Joint states of an arm at home, each off by a value of ``off``; where it is said to rest."""
    places = []
    for step, wrong in enumerate(off):
        stamp = round((1.0 + step / rate_hz) * 1e9)
        joints.arrives(stamp, 0)
        with suppress(ObservationError):
            joints.begins_period(stamp, HOME + wrong)
        places.append(joints.resting_place())
    return places


@pytest.mark.parametrize(("rate_hz", "noise"), [(10, 0.002), (100, 0.005), (1000, 0.005)])
def test_an_arm_rests_however_noisy_its_encoders_and_fast_their_driver(rate_hz, noise):
    """Regression: 2 mrad at 100 Hz, 1.5 mrad at 500 Hz, and nobody could take command."""
    rng = np.random.default_rng(0)
    off = rng.normal(0.0, noise, (round(3 * rate_hz), len(HOME)))
    found = [each for each in shown(stream(), rate_hz=rate_hz, off=off) if each is not None]
    assert len(found) > 0.2 * len(off)
    assert np.abs(np.array(found) - HOME).max() < 2.5 * noise, "a mean of several"


def test_a_moment_in_which_an_arm_is_elsewhere_is_no_rest_there():
    places = shown(stream(), rate_hz=100, off=[0.0] * 30 + [0.03] + [0.0] * 30)
    assert places[29] is not None
    assert places[30] is None
    np.testing.assert_allclose(places[-1], HOME)


@pytest.mark.parametrize("rate_hz", [100, 1000])
@pytest.mark.parametrize(
    ("hertz", "swing"), [(2.0, 0.03), (1.5, 0.05), (10.0, 0.01)], ids=["hand", "wide", "shaken"]
)
def test_an_arm_that_turns_round_rests_nowhere(rate_hz, hertz, swing):
    """Regression: both halves had one mean, and the first command was 14 mrad behind a hand."""
    times = np.arange(round(2.0 * rate_hz)) / rate_hz
    off = swing * np.sin(2.0 * np.pi * hertz * times + 0.3)
    assert not any(each is not None for each in shown(stream(), rate_hz=rate_hz, off=off))


@pytest.mark.parametrize("off", [[0.0, -0.015, 0.015], [0.0, 0.0, np.nan, 0.0]])
def test_few_joint_states_that_differ_are_no_rest(off):
    assert shown(stream(), rate_hz=10, off=off) == [None] * len(off)


@pytest.mark.parametrize(
    "off",
    [[0.0] * 190 + [0.4] + [0.0] * 30, [0.0, 0.024] * 150],
    ids=["one far off", "two drivers in turn"],
)
def test_wrong_joint_states_among_many_are_no_rest(off):
    assert shown(stream(), rate_hz=1000, off=off)[-1] is None


def test_after_a_silence_an_arm_rests_where_newer_joint_states_say_so():
    joints = stream()
    for at in [*range(5), *range(20, 25)]:
        joints.arrives(BEGIN + at * T, 0)
        joints.begins_period(BEGIN + at * T, HOME)
        assert (joints.resting_place() is None) == (at in {0, 1, 20, 21})
