# SPDX-License-Identifier: Apache-2.0
"""Ends of commands that come more or less late, as a controller that goes straight plays them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


class Controller:
    """Goes from where it is straight to the first point, and on from point to point."""

    def __init__(self) -> None:
        self.times, self.places = [-1.0], [np.zeros(2)]

    def follow(self, now_s: float, end_s: float, told: GateResult) -> None:
        kept = [at for at, time in enumerate(self.times) if time < now_s]
        here = self.at(np.array([now_s]))[0]
        path = [told.joint_command, *told.stopping]
        ends = [end_s + index * PERIOD_S for index in range(len(path))]
        self.times = [*(self.times[at] for at in kept), now_s, *ends]
        self.places = [*(self.places[at] for at in kept), here, *path]

    def at(self, times: np.ndarray) -> np.ndarray:
        places = np.array(self.places)
        return np.stack([np.interp(times, self.times, column) for column in places.T], axis=1)


def played(steps, hardest=HARD):
    """Lateness of the ends [s], and the controller; a step is (lost, waited, asked speeds)."""
    gate, controller, late = Gate(hardest), Controller(), []
    timing = CommandTiming(PERIOD_S, LIMITS, hardest)
    for period, (lost, waited, asked) in enumerate(steps):
        if lost:
            gate.coast()
            continue
        told = gate.ask(np.array(asked))
        end_s = timing.end_ns(period * PERIOD_NS, waited, told) * 1e-9
        late.append(end_s - (period + 1) * PERIOD_S)
        controller.follow(period * PERIOD_S + waited, end_s, told)
    return np.array(late), controller


def worst(controller: Controller, hardest: np.ndarray) -> tuple[float, float]:
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
    late, _ = played(steady(0.0, 0.05, *[0.0] * 60))
    np.testing.assert_allclose(late[:51], [0.0, *[0.05] * 50], atol=1e-9)
    np.testing.assert_allclose(late[51:57], [0.04, 0.03, 0.02, 0.01, 0, 0], atol=1e-9)


def test_a_fast_arm_catches_up_less_fast_and_one_at_its_limit_not_at_all():
    for share, fastest, slowest in ((0.5, 0.0091, 0.0005), (1.0, 0.0, 0.0)):
        late, _ = played(steady(0.0, 0.05, *[0.0] * 60, speeds=LIMITS * share))
        assert slowest - 1e-9 <= late[51] - late[52] <= fastest + 1e-9


def test_after_a_pause_a_command_follows_nothing():
    late, _ = played(steady(0.08, 0.0, 0.0, 0.0, lost=(1, 2)))
    np.testing.assert_allclose(late, [0.08, 0.0], atol=1e-9)


def test_a_soft_arm_that_gets_no_command_for_a_period_is_as_late_as_before():
    """Regression: the lag was forgotten, and caught up in one period, faster than it may be."""
    late, _ = played(steady(*[0.0] * 6, 0.05, 0.0, 0.0, 0.0, lost=(8,), speeds=LIMITS), SOFT)
    np.testing.assert_allclose(late[6:], 0.05, atol=1e-9)


LOST_OR_NOT = st.sampled_from([False] * 5 + [True])
SPEEDS = st.tuples(st.floats(-1.0, 1.0), st.floats(-2.0, 2.0))


@pytest.mark.parametrize(("wait_s", "most"), [(0.0, 1.0), (0.002, 1.05), (0.05, 2.0)])
@given(data=st.data(), hardest=st.sampled_from([HARD, SOFT]))
def test_nothing_that_is_late_or_lost_makes_a_joint_faster_than_its_limits(
    wait_s, most, data, hardest
):
    """An arm that has begun to brake while it was waited for goes on harder, but no faster."""
    waits = st.floats(0.0, wait_s)
    given_steps = data.draw(
        st.lists(st.tuples(LOST_OR_NOT, waits, SPEEDS), min_size=2, max_size=30)
    )
    steps = [(False, *given_steps[0][1:]), *given_steps[1:]]
    late, controller = played(steps, hardest)
    velocity, acceleration = worst(controller, hardest)
    assert velocity <= 1.0 + 1e-6
    assert acceleration <= most + 1e-6
    waited = np.array([each for lost, each, _ in steps if not lost])
    assert (late >= waited - 1e-9).all(), "never less time than a period"
    assert (late <= np.maximum.accumulate(waited) + 1e-9).all(), "and no more than was waited"
