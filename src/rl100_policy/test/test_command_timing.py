# SPDX-License-Identifier: Apache-2.0
"""Ends of commands that come more or less late, as a controller that goes straight plays them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from straight_controller import StraightController

from rl100_policy.core.cadence import Cadence
from rl100_policy.core.command_timing import CommandTiming
from rl100_policy.core.gate_result import GateFlag, GateResult

PERIOD_S = 0.1
PERIOD_NS = 100_000_000
LIMITS = np.array([1.0, 2.0])
HARD, SOFT = np.array([10.0, 15.0]), np.array([2.0, 3.0])
"""Limits of acceleration with which the joints stop within a period, and in five to seven."""
GRAIN_S = 0.002


class Gate:
    """Keeps the limits from period to period, as the real one does, and plans the way to rest."""

    def __init__(self, hardest: np.ndarray) -> None:
        self.hardest, self.place = hardest, np.zeros(2)
        self.velocity, self.stopping = np.zeros(2), []

    def ask(self, speeds: np.ndarray) -> GateResult:
        most = self.hardest * PERIOD_S
        speeds = np.clip(speeds, self.velocity - most, self.velocity + most)
        self.velocity = np.clip(speeds, -LIMITS, LIMITS)
        self.stopping, left = [], self.velocity
        while np.abs(left).max() > 1e-12:
            left = left - np.clip(left, -most, most)
            self.stopping.append(left)
        self.stopping = self.stopping[:-1]
        return self._told()

    def coast(self) -> None:
        self.velocity = self.stopping.pop(0) if self.stopping else np.zeros(2)
        self.place = self.place + self.velocity * PERIOD_S

    def _told(self) -> GateResult:
        self.place = self.place + self.velocity * PERIOD_S
        rest = self.place + np.cumsum(np.array(self.stopping).reshape(-1, 2), axis=0) * PERIOD_S
        flags = GateFlag.NONE
        return GateResult(self.place, self.velocity[:1], flags, rest, self.velocity)


def played(steps, hardest=HARD, begins=None):
    """Lateness of the ends [s], and the controller; a step is (lost, delay, asked speeds).

    Joint states are of ``begins`` [s], by default one period after the other.
    """
    gate, controller, late = Gate(hardest), StraightController(np.zeros(2)), []
    timing, cadence, planned = CommandTiming(PERIOD_S, LIMITS, hardest), Cadence(PERIOD_NS), None
    for at, (lost, delay, asked) in enumerate(steps):
        begin_s = at * PERIOD_S if begins is None else begins[at]
        late.append(np.nan)
        if lost or not cadence.begins(round(begin_s * 1e9)):
            continue
        given_ns = round((begin_s + delay) * 1e9)
        if timing.is_too_late(cadence.number, given_ns):
            continue
        while planned is not None and planned < cadence.number - 1:
            gate.coast()
            planned += 1
        planned = cadence.number
        told = gate.ask(np.array(asked))
        way = timing.way(cadence.number, given_ns, told)
        late[-1] = way.end_ns * 1e-9 - begin_s - PERIOD_S
        controller.follow(begin_s + delay, way)
    return np.array(late), controller


def worst(controller: StraightController, hardest: np.ndarray) -> tuple[float, float]:
    """Largest velocity and change of the mean velocity of a period, as shares of the limits."""
    times = np.arange(0.0, controller.times[-1] + PERIOD_S, GRAIN_S)
    before, here, after = (controller.at(times + ahead) for ahead in (-PERIOD_S, 0.0, PERIOD_S))
    acceleration = np.abs(after - 2.0 * here + before) / PERIOD_S**2
    velocity = np.abs(np.diff(here, axis=0)) / GRAIN_S
    return float((velocity / LIMITS).max()), float((acceleration / hardest).max())


def steady(*waits, lost=(), speeds=(0.0, 0.0)):
    return [(at in lost, waited, speeds) for at, waited in enumerate(waits)]


@pytest.mark.parametrize("hardest", [HARD, SOFT], ids=["hard", "soft"])
def test_commands_in_time_end_with_their_periods(hardest):
    """Regression: the second command of a soft arm was timed as if it had not begun to move."""
    late, _ = played(steady(*[0.0] * 12, speeds=LIMITS), hardest)
    np.testing.assert_allclose(late, 0.0, atol=1e-9)


def test_after_a_wait_commands_end_as_late_for_a_while_and_then_catch_up_slowly():
    late, _ = played(steady(0.0, 0.05, *[0.0] * 60, speeds=0.01 * LIMITS))
    np.testing.assert_allclose(late[:51], [0.0, *[0.05] * 50], atol=1e-9)
    np.testing.assert_allclose(late[51:57], [0.04, 0.03, 0.02, 0.01, 0, 0], atol=1e-9)


def test_a_fast_arm_catches_up_less_fast_and_one_at_its_limit_not_at_all():
    for share, fastest, slowest in ((0.5, 0.0091, 0.0005), (1.0, 0.0, 0.0)):
        late, _ = played(steady(0.0, 0.05, *[0.0] * 60, speeds=LIMITS * share))
        assert slowest - 1e-9 <= late[51] - late[52] <= fastest + 1e-9


def test_after_a_pause_a_command_follows_nothing():
    late, _ = played(steady(0.08, 0.0, 0.0, 0.0, 0.0, lost=(1, 2)))
    np.testing.assert_allclose(late, [0.08, np.nan, np.nan, 0.0, 0.0], atol=1e-9)


def test_a_soft_arm_that_gets_no_command_for_a_period_is_as_late_as_before():
    """Regression: the lag was forgotten, and caught up in one period, faster than it may be."""
    late, _ = played(steady(*[0.0] * 6, 0.05, 0.0, 0.0, 0.0, lost=(8,), speeds=LIMITS), SOFT)
    assert 0.005 < late[6] < 0.015, "it has hardly braked meanwhile"
    np.testing.assert_allclose(late[7:], [late[6], np.nan, late[6]], atol=1e-9)


@pytest.mark.parametrize("rate_hz", [8.0, 10.0, 11.0, 12.0, 12.5, 16.0, 25.0, 30.0, 60.0, 1000.0])
@pytest.mark.parametrize("hardest", [HARD, SOFT], ids=["hard", "soft"])
def test_joint_states_that_are_no_whole_number_of_periods_apart_make_no_joint_faster(
    hardest, rate_hz
):
    """Regression: ends were as far apart as the joint states, and the arm up to 1.4 times as fast.

    What one is later than the regular begins delays a command once.
    """
    begins = np.arange(round(30 * rate_hz)) / rate_hz
    late, controller = played([(False, 0.0, LIMITS)] * len(begins), hardest, begins)
    velocity, acceleration = worst(controller, hardest)
    assert velocity <= 1.0 + 1e-6
    assert acceleration <= 2.0
    assert np.nanmax(late) < PERIOD_S
    at_rate = late[np.isfinite(late)]
    assert np.nanmax(at_rate[len(at_rate) // 2 :]) <= np.nanmax(at_rate) + 1e-9


@pytest.mark.parametrize("jitter_s", [0.02, 0.06])
@pytest.mark.parametrize("hardest", [HARD, SOFT], ids=["hard", "soft"])
def test_jitter_delays_commands_by_no_more_than_itself(hardest, jitter_s):
    """Regression: rounded times were added up, and commands came later and later."""
    begins = np.arange(400) * PERIOD_S + np.random.default_rng(0).uniform(0, jitter_s, 400)
    late, controller = played([(False, 0.0, LIMITS)] * 400, hardest, begins)
    assert np.nanmax(late) <= jitter_s + PERIOD_S / 2
    assert worst(controller, hardest)[0] <= 1.0 + 1e-6


def test_an_arm_whose_clock_is_faster_or_slower_is_followed():
    for drift in (-1e-3, 1e-3):
        begins = np.arange(400) * PERIOD_S * (1 + drift)
        late, _ = played([(False, 0.0, (0.0, 0.0))] * 400, begins=begins)
        assert np.nanmax(np.abs(late)) <= 0.006


def test_after_a_jump_back_in_time_a_command_follows_nothing():
    timing, gate = CommandTiming(PERIOD_S, LIMITS, HARD), Gate(HARD)
    assert timing.way(1, 50 * PERIOD_NS, gate.ask(0.01 * LIMITS)).end_ns == 51 * PERIOD_NS
    timing.restart()
    assert timing.way(2, 7 * PERIOD_NS, gate.ask(0.01 * LIMITS)).end_ns == 8 * PERIOD_NS
    assert timing.way(3, 15 * PERIOD_NS // 2, gate.ask(0.01 * LIMITS)).end_ns == 9 * PERIOD_NS


def test_a_controller_that_is_not_there_yet_gets_time_for_the_way_to_the_next_command_too():
    """Regression: an arm that stops at once was taken for one that has stopped by then."""
    full = LIMITS * 0.99
    _, controller = played([(False, 0.15, full), (True, 0.0, full), (False, 0.0, full)])
    assert worst(controller, HARD)[0] <= 1.0 + 1e-6


LOST_OR_NOT = st.sampled_from([False] * 5 + [True])
SPEEDS = st.tuples(st.floats(-1.0, 1.0), st.floats(-2.0, 2.0))


@pytest.mark.parametrize(("delay_s", "most"), [(0.0, 1.0), (0.002, 1.1), (0.05, 2.0), (0.15, 5.0)])
@given(data=st.data(), hardest=st.sampled_from([HARD, SOFT]))
def test_nothing_that_is_late_or_lost_makes_a_joint_faster_than_its_limits(
    delay_s, most, data, hardest
):
    """An arm that has begun to brake before a late command goes on harder, but no faster.

    Hardest where one is more than a period late, and the next one comes with it.
    """
    delays = st.floats(0.0, delay_s)
    given_steps = data.draw(
        st.lists(st.tuples(LOST_OR_NOT, delays, SPEEDS), min_size=2, max_size=30)
    )
    steps, given_s = [], 0.0
    for period, (lost, delay, asked) in enumerate(given_steps):
        given_s = max(given_s, period * PERIOD_S + delay)  # one after the other
        steps.append((lost and period > 0, given_s - period * PERIOD_S, asked))
    late, controller = played(steps, hardest)
    velocity, acceleration = worst(controller, hardest)
    assert velocity <= 1.0 + 1e-6
    assert acceleration <= most + 1e-6
    answered = np.isfinite(late)
    delayed = np.array([each for _, each, _ in steps])
    longest = np.maximum.accumulate(delayed)
    assert (late <= longest + 1e-9)[answered].all(), "no more than a command was delayed"
    lost = np.array([each for each, *_ in steps])
    assert answered[(delayed <= PERIOD_S) & ~lost].all(), "only what is too late is left out"
