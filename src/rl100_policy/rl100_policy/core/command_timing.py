# SPDX-License-Identifier: Apache-2.0
"""When the arm is to be where a command says, if commands come more or less late."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.gate_result import GateResult

Floats = NDArray[np.float64]

_CATCHES_UP = 0.9
"""Shortest time between the ends of two commands, as a share of the control period."""
_SPARED = 0.05
"""Share of the acceleration limits that catching up may take."""
_REMEMBERED = 50
"""Commands whose delays are made room for."""
_SAME = 1e-6
"""How far apart the begin of a way and the end of the one before may be [rad]."""


class CommandTiming:
    """Ends of commands one after the other.

    A command is given at some time after its period has begun, since its joint state was old or
    it was waited for, and ends a whole period T after that. If the next one came in time again
    and ended T after its begin, the arm would have to make up for the delay, faster than the
    joints' limits allow. So ends are T apart, whatever the begins of their periods are, and all
    as late as the latest of the last commands needs; then that lag is caught up little by little,
    by a tenth of a period, and less the faster the arm is. Where periods have got no command the
    controller has gone on along the way to rest of the last one, and is as late as before until
    it is there.
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
        self._fastest, self._hardest = velocity_limits, acceleration_limits
        self._spared = _SPARED * acceleration_limits * period_s**2
        self._number = 0
        """Of the period of the last command."""
        self._path: Floats | None = None
        """That, and where the arm comes to rest after it, [1 + p, n], rad."""
        self._lag_ns = 0
        """The last command ends so much later than the period with its number would."""
        self._needed_ns: deque[int] = deque(maxlen=_REMEMBERED)
        """How much later than those the last commands were given."""

    def restart(self) -> None:
        """Follow nothing: time has jumped back."""
        self._path = None

    def end_ns(self, number: int, given_ns: int, told: GateResult) -> int:
        """Time at which the arm is to be at a command.

        Args:
            number: Of its period; the n-th begins about n T after some time.
            given_ns: When it is given.
            told: What is commanded.
        """
        needed_ns = given_ns - number * self._period_ns
        if self._goes_on(number, needed_ns, told):
            spare_ns = self._period_ns - round(self._shortest_s(told.velocity) * 1e9)
            self._needed_ns.append(needed_ns)
            self._lag_ns = max(*self._needed_ns, self._lag_ns - spare_ns)
        else:
            self._lag_ns = needed_ns
            self._needed_ns.clear()
            self._needed_ns.append(needed_ns)
        self._number = number
        self._path = np.vstack([told.joint_command, told.stopping])
        return (number + 1) * self._period_ns + self._lag_ns

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

    def _goes_on(self, number: int, needed_ns: int, told: GateResult) -> bool:
        """Whether a command goes on from where the controller is still on its way to."""
        periods = number - self._number
        if self._path is None or periods <= 0:
            return False
        rests_ns = (self._number + len(self._path)) * self._period_ns + self._lag_ns
        if number * self._period_ns + needed_ns >= rests_ns and periods >= len(self._path):
            return False  # it has arrived where it rests
        begin = told.joint_command - told.velocity * self._period_s
        goes_on_from = self._path[min(periods, len(self._path)) - 1]
        return float(np.abs(goes_on_from - begin).max()) <= _SAME

    def _shortest_s(self, velocity: Floats) -> float:
        """Time for the way of a period that catches up as much as may be."""
        way = np.abs(velocity) * self._period_s
        spared = way / np.minimum(way + self._spared, self._fastest * self._period_s)
        return self._period_s * max(_CATCHES_UP, float(spared.max()))
