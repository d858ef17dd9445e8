# SPDX-License-Identifier: Apache-2.0
"""When the arm is to be where a command says, if commands come more or less late."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.gate_result import GateResult

Floats = NDArray[np.float64]

_CATCHES_UP = 0.9
"""Shortest time between the ends of two commands, as a share of the control period."""
_LEAST_TIME = 0.1
"""A command ends at least so many control periods after it was given."""
_SPARED = 0.05
"""Share of the acceleration limits that catching up may take."""
_REMEMBERED = 50
"""Commands whose delays are made room for."""
_SAME = 1e-6
"""How far apart the begin of a way and the end of the one before may be [rad]."""


@dataclass(frozen=True)
class TimedWay:
    """Where the arm is to be, and when."""

    times_ns: tuple[int, ...]
    """One after the other."""
    places: Floats
    """Joint positions at those times, [p, n], rad; the arm rests at the last."""
    command: int
    """Which of them is the command: before it what is left of the way there, behind it the way to
    rest."""

    @property
    def end_ns(self) -> int:
        """Time of the command."""
        return self.times_ns[self.command]


class CommandTiming:
    """Ends of commands one after the other.

    A command is given at some time after its period has begun, since its joint state was old or
    it was waited for, and the controller may have gone on along the way to rest of the one before.
    Its end is so late that no joint has to be faster than it is commanded to be. If the next one
    came in time again and ended a period T after its begin, the arm would have to make up for the
    delay, faster than the joints' limits allow. So ends are T apart, whatever the begins of their
    periods are, and all have that lag as long as there are such delays; then it is caught up
    little by little, by a tenth of a period, and less the faster the arm is. Where periods have
    got no command the controller is as late as before until it has come to rest. A command that is
    given while the controller is not yet where it begins comes with the way there, which a
    controller forgets otherwise when it is told something new.
    """

    def __init__(
        self, period_s: float, velocity_limits: Floats, acceleration_limits: Floats
    ) -> None:
        """Begin without a command.

        Args:
            period_s: Control period T.
            velocity_limits: Of the joints, [n], rad/s.
            acceleration_limits: Of the joints, [n], rad/s^2.
        """
        self._period_s, self._period_ns = period_s, round(period_s * 1e9)
        self._fastest = velocity_limits
        self._spared = _SPARED * acceleration_limits * period_s
        self._number = 0
        """Of the period of the last command."""
        self._path: Floats | None = None
        """That, and where the arm comes to rest after it, [1 + p, n], rad."""
        self._way: list[tuple[int, Floats]] = []
        """Times [ns] and places up to that, from the last one on where the controller has been."""
        self._lag_ns = 0
        """The last command ends so much later than the period with its number would."""
        self._delays_ns: deque[int] = deque(maxlen=_REMEMBERED)
        """How much later than those began the last commands were given."""

    def restart(self) -> None:
        """Follow nothing: time has jumped back."""
        self._path = None

    def way(self, number: int, given_ns: int, told: GateResult) -> TimedWay:
        """Times at which the arm is to be at a command, and on its way there and to rest.

        Args:
            number: Of its period; the n-th begins about n T after some time.
            given_ns: When it is given.
            told: What is commanded.
        """
        delay_ns = given_ns - number * self._period_ns
        self._forget_until(given_ns)
        if self._goes_on(number, delay_ns, told) and not self._rests():
            least_ns = self._least_end_ns(number, given_ns, told)
            self._way += self._way_from_last(number - self._number)
            self._delays_ns.append(delay_ns)
            caught_up_ns = self._lag_ns - self._spare_ns(told.velocity)
            self._lag_ns = min(self._lag_ns, max(*self._delays_ns, caught_up_ns))
            self._lag_ns = max(self._lag_ns, least_ns - (number + 1) * self._period_ns)
        else:
            begin = told.joint_command - told.velocity * self._period_s
            self._way = [(given_ns, begin)]
            self._lag_ns = delay_ns
            self._delays_ns.clear()
            self._delays_ns.append(delay_ns)
        self._number = number
        self._path = np.vstack([told.joint_command, told.stopping])
        end_ns = (number + 1) * self._period_ns + self._lag_ns
        ends_ns = [end_ns + after * self._period_ns for after in range(len(self._path))]
        left = [each for each in self._way if each[0] > given_ns]
        self._way.append((end_ns, told.joint_command))
        times_ns = (*(each for each, _ in left), *ends_ns)
        return TimedWay(times_ns, np.vstack([*(each for _, each in left), self._path]), len(left))

    def _forget_until(self, now_ns: int) -> None:
        """Leave out of the way where the controller has been, but for the last place."""
        been = sum(each <= now_ns for each, _ in self._way)
        self._way = self._way[max(0, been - 1) :]

    def _rests(self) -> bool:
        """Whether the controller stands still, and was not told anything else."""
        assert self._path is not None, "there is a last command"
        ahead = np.vstack([*(place for _, place in self._way), self._path])
        return float(np.abs(ahead - ahead[-1]).max()) <= _SAME

    def _least_end_ns(self, number: int, given_ns: int, told: GateResult) -> int:
        """Soonest end that makes no joint faster than it is commanded to be.

        The controller has gone on along the way to rest while the command was late: an arm that
        stops at once is where it begins, and one that hardly brakes nearly where it is to be.
        """
        assert self._path is not None, "there is a last command"
        last_end_ns = (self._number + 1) * self._period_ns + self._lag_ns
        late = (given_ns - last_end_ns) / self._period_ns  # periods
        if late <= number - self._number - 1:
            return 0  # it is not yet where the command begins
        before = min(int(late), len(self._path) - 1)
        after = min(before + 1, len(self._path) - 1)
        here = self._path[before] + (late - before) * (self._path[after] - self._path[before])
        way = np.abs(told.joint_command - here)
        speed = self._speeds(told.velocity)
        needed_s = np.divide(way, speed, out=np.zeros_like(way), where=way > _SAME)
        share = float(np.clip(needed_s.max() / self._period_s, _LEAST_TIME, 1.0))
        return given_ns + round(share * self._period_ns)

    def _way_from_last(self, periods: int) -> list[tuple[int, Floats]]:
        """Where the controller is along the way to rest, after one, two, ... of these periods."""
        assert self._path is not None, "there is a last command"
        end_ns = (self._number + 1) * self._period_ns + self._lag_ns
        ahead = range(1, min(periods, len(self._path)))
        way = [(end_ns + after * self._period_ns, self._path[after]) for after in ahead]
        if periods > len(self._path):
            way.append((end_ns + (periods - 1) * self._period_ns, self._path[-1]))
        return way

    def is_too_late(self, number: int, given_ns: int) -> bool:
        """Whether an arm that brakes along its last command would be past the next one's begin.

        By a period or more, so that it had to turn back: the next period's is for it.

        Args:
            number: Of the period.
            given_ns: When a command would be given.
        """
        if self._path is None or not 0 < number - self._number < len(self._path):
            return False  # it rests there, or goes anywhere else
        return given_ns - number * self._period_ns - self._lag_ns > self._period_ns

    def _goes_on(self, number: int, delay_ns: int, told: GateResult) -> bool:
        """Whether a command goes on from where the controller is still on its way to."""
        periods = number - self._number
        if self._path is None or periods <= 0:
            return False
        rests_ns = (self._number + len(self._path)) * self._period_ns + self._lag_ns
        if number * self._period_ns + delay_ns >= rests_ns and periods >= len(self._path):
            return False  # it has arrived where it rests
        begin = told.joint_command - told.velocity * self._period_s
        goes_on_from = self._path[min(periods, len(self._path)) - 1]
        return float(np.abs(goes_on_from - begin).max()) <= _SAME

    def _spare_ns(self, velocity: Floats) -> int:
        """By how much a period may be shorter, to catch up."""
        share = float((np.abs(velocity) / self._speeds(velocity)).max())
        return self._period_ns - round(self._period_ns * max(_CATCHES_UP, share))

    def _speeds(self, velocity: Floats) -> Floats:
        """How fast the joints may be where they are commanded to be so fast, [n], rad/s."""
        return np.minimum(np.abs(velocity) + self._spared, self._fastest)
