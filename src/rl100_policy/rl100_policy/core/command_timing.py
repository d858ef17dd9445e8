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
"""Commands whose waits are made room for."""
_SAME = 1e-6
"""How far apart the begin of a way and the end of the one before may be [rad]."""


class CommandTiming:
    """Ends of commands one after the other.

    A command for the period that begins at s ends at s + T, and one that was waited for as much
    later as it was waited for. If the next one came in time again and ended at s + 2 T, the arm
    would have to make up for the wait, faster than the joints' limits allow. So the next ones end
    as late, a period apart, as long as there are such waits; then the lag is caught up little by
    little, by a tenth of a period, and less the faster the arm is. Where periods have got no
    command the controller has gone on along the way to rest of the last one, and is as late as
    before.
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
        self._lag_ns = 0
        self._waits_ns: deque[int] = deque(maxlen=_REMEMBERED)

    def end_ns(self, stamp_ns: int, waited_s: float, told: GateResult) -> int:
        """Time at which the arm is to be at a command.

        Args:
            stamp_ns: Begin of the period.
            waited_s: How much after it the command is given.
            told: What is commanded.
        """
        waited_ns = round(waited_s * 1e9)
        self._waits_ns.append(waited_ns)
        if self._goes_on(stamp_ns, told):
            spare_ns = self._period_ns - round(self._shortest_s(told.velocity) * 1e9)
            self._lag_ns = max(*self._waits_ns, self._lag_ns - spare_ns, 0)
        else:
            self._waits_ns.clear()
            self._lag_ns = waited_ns
        self._stamp_ns = stamp_ns
        self._path = np.vstack([told.joint_command, told.stopping])
        return stamp_ns + self._period_ns + self._lag_ns

    def _goes_on(self, stamp_ns: int, told: GateResult) -> bool:
        """Whether a command goes on from the last one, or from its way to rest."""
        if self._path is None or stamp_ns <= self._stamp_ns:
            return False
        unanswered = max(0, round((stamp_ns - self._stamp_ns) / self._period_ns) - 1)
        if unanswered >= len(self._path):
            return False  # it has come to rest
        begin = told.joint_command - told.velocity * self._period_s
        return float(np.abs(self._path[unanswered] - begin).max()) <= _SAME

    def _shortest_s(self, velocity: Floats) -> float:
        """Time for the way of a period that catches up as much as may be."""
        way = np.abs(velocity) * self._period_s
        spared = way / np.minimum(way + self._spared, self._fastest * self._period_s)
        return self._period_s * max(_CATCHES_UP, float(spared.max()))
