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

    A command for the period that begins at s ends at s + T, and one that is given later than s as
    much later: the arm has a whole period for it. If the next one came in time again and ended at
    s + 2 T, the arm would have to make up for the delay, faster than the joints' limits allow. So
    ends are a period apart, whatever the begins of their periods are, and all as late as the
    latest of the last commands needs; then that lag is caught up little by little, by a tenth of
    a period, and less the faster the arm is. Where periods have got no command the controller has
    gone on along the way to rest of the last one, and is as late as before.
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
        self._stamp_ns = 0
        self._path: Floats | None = None
        """The last command, and where the arm comes to rest after it, [1 + p, n], rad."""
        self._regular_ns = 0
        """Begin of the last period, if all since the first were T apart."""
        self._lag_ns = 0
        """How much later than a period after that the last command ends."""
        self._needed_ns: deque[int] = deque(maxlen=_REMEMBERED)
        """How much after that the last commands were given."""

    def end_ns(self, stamp_ns: int, delay_s: float, told: GateResult) -> int:
        """Time at which the arm is to be at a command.

        Args:
            stamp_ns: Begin of the period.
            delay_s: How much after it the command is given.
            told: What is commanded.
        """
        delay_ns = round(delay_s * 1e9)
        periods = self._periods_on_from(stamp_ns, told)
        if periods:
            self._regular_ns += periods * self._period_ns
            self._needed_ns.append(stamp_ns + delay_ns - self._regular_ns)
            spare_ns = self._period_ns - round(self._shortest_s(told.velocity) * 1e9)
            self._lag_ns = max(*self._needed_ns, self._lag_ns - spare_ns)
        else:
            self._regular_ns, self._lag_ns = stamp_ns, delay_ns
            self._needed_ns.clear()
            self._needed_ns.append(delay_ns)
        self._stamp_ns = stamp_ns
        self._path = np.vstack([told.joint_command, told.stopping])
        return self._regular_ns + self._period_ns + self._lag_ns

    def is_too_late(self, stamp_ns: int, delay_s: float) -> bool:
        """Whether an arm that brakes along its last command would be past the next one's begin.

        By a period or more, so that it had to turn back: the next period's is for it.

        Args:
            stamp_ns: Begin of the period.
            delay_s: How much after it a command would be given.
        """
        periods = self._periods_since(stamp_ns)
        if self._path is None or not 0 < periods < len(self._path):
            return False  # it rests, or goes anywhere else
        needed_ns = stamp_ns + round(delay_s * 1e9) - self._regular_ns - periods * self._period_ns
        return needed_ns - self._lag_ns > self._period_ns

    def _periods_since(self, stamp_ns: int) -> int:
        """Periods since the last command; 0 if that is of later."""
        if stamp_ns <= self._stamp_ns:
            return 0
        return max(1, round((stamp_ns - self._stamp_ns) / self._period_ns))

    def _periods_on_from(self, stamp_ns: int, told: GateResult) -> int:
        """Periods since the last command, if this one goes on from it or its way to rest; or 0."""
        periods = self._periods_since(stamp_ns)
        if self._path is None or not 0 < periods <= len(self._path):
            return 0
        begin = told.joint_command - told.velocity * self._period_s
        goes_on = float(np.abs(self._path[periods - 1] - begin).max()) <= _SAME
        return periods if goes_on else 0

    def _shortest_s(self, velocity: Floats) -> float:
        """Time for the way of a period that catches up as much as may be."""
        way = np.abs(velocity) * self._period_s
        spared = way / np.minimum(way + self._spared, self._fastest * self._period_s)
        return self._period_s * max(_CATCHES_UP, float(spared.max()))
