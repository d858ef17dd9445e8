# SPDX-License-Identifier: Apache-2.0
"""When the arm is to be where a command says, if commands come more or less late."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CATCHES_UP = 0.9
"""Shortest time between the ends of two commands, as a share of the control period."""
_PAUSE = 1.5
"""Control periods between two commands from which on the later one follows nothing."""


class CommandTiming:
    """Ends of commands one after the other.

    A command for the period that begins at s ends at s + T, and one that was waited for as much
    later as it was waited for. If the next one came in time again and ended at s + 2 T, the arm
    would have to make up for the wait, faster than the joints' limits of velocity allow. So the
    ends of two commands are apart by at least what the way between them takes at these limits,
    and by .9 T; the wait is caught up little by little.
    """

    def __init__(self, period_s: float, velocity_limits: Floats) -> None:
        """Begin without a command.

        Args:
            period_s: Control period T.
            velocity_limits: Of the joints, [n], rad/s.
        """
        self._period_ns = round(period_s * 1e9)
        self._largest = velocity_limits * period_s
        self._last: tuple[int, int, Floats] | None = None

    def end_ns(self, stamp_ns: int, waited_s: float, command: Floats) -> int:
        """Time at which the arm is to be there.

        Args:
            stamp_ns: Begin of the period.
            waited_s: How much after it the command is given.
            command: Joint positions, [n], rad.
        """
        end_ns = stamp_ns + self._period_ns + round(waited_s * 1e9)
        if self._last is not None:
            last_stamp_ns, last_end_ns, last = self._last
            if 0 < stamp_ns - last_stamp_ns <= _PAUSE * self._period_ns:
                share = float((np.abs(command - last) / self._largest).max())
                apart_ns = round(max(share, _CATCHES_UP) * self._period_ns)
                end_ns = max(end_ns, last_end_ns + apart_ns)
        self._last = stamp_ns, end_ns, np.array(command)
        return end_ns
