# SPDX-License-Identifier: Apache-2.0
"""When the arm is to be where a command says, if commands come more or less late."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CATCHES_UP = 0.9
"""Shortest time between the ends of two commands, as a share of the control period."""
_SPARED = 0.05
"""Share of the acceleration limits that catching up may take."""
_LONGER = 1.0 + 0.02 * np.arange(101)
"""How much longer a way may take than it has to for its velocity, tried in this order."""
_PAUSE = 1.5
"""Control periods between two commands from which on the later one follows nothing."""


@dataclass(frozen=True)
class _Told:
    """A command that was given."""

    stamp_ns: int
    end_ns: int
    command: Floats
    velocity: Floats
    """On the way to it, [n], rad/s."""
    took_s: float


class CommandTiming:
    """Ends of commands one after the other.

    A command for the period that begins at s ends at s + T, and one that was waited for as much
    later as it was waited for. If the next one came in time again and ended at s + 2 T, the arm
    would have to make up for the wait, faster than the joints' limits allow. So the ends of two
    commands are apart by at least what the way between them takes at the limits of velocity, and
    the change from the way before at those of acceleration. A wait is caught up little by little:
    by a tenth of a period, and less the faster the arm is.
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
        self._period_s = period_s
        self._fastest, self._hardest = velocity_limits, acceleration_limits
        self._last: _Told | None = None

    def end_ns(self, stamp_ns: int, waited_s: float, command: Floats) -> int:
        """Time at which the arm is to be there.

        Args:
            stamp_ns: Begin of the period.
            waited_s: How much after it the command is given.
            command: Joint positions, [n], rad.
        """
        end_ns = stamp_ns + round((self._period_s + waited_s) * 1e9)
        last, took_s, velocity = self._last, self._period_s, np.zeros_like(command)
        if last is not None and 0 < stamp_ns - last.stamp_ns <= _PAUSE * self._period_s * 1e9:
            way = command - last.command
            least_s = max(
                float((np.abs(way) / self._fastest).max()),
                self._shortest_s(way),
                (end_ns - last.end_ns) * 1e-9,
            )
            took_s = self._gentle_s(way, least_s, last)
            end_ns, velocity = last.end_ns + round(took_s * 1e9), way / took_s
        self._last = _Told(stamp_ns, end_ns, np.array(command), velocity, took_s)
        return end_ns

    def _shortest_s(self, way: Floats) -> float:
        """Time for a way that catches up as much as may be."""
        spared = _SPARED * self._hardest * self._period_s**2
        return self._period_s * max(
            _CATCHES_UP, float((np.abs(way) / (np.abs(way) + spared)).max())
        )

    def _gentle_s(self, way: Floats, least_s: float, last: _Told) -> float:
        """Shortest time, from a least one on, that keeps the limits of acceleration."""
        times = least_s * _LONGER
        change = np.abs(way / times[:, None] - last.velocity)
        share = change / (self._hardest * ((times[:, None] + last.took_s) / 2.0))
        worst = share.max(axis=1)
        kept = np.flatnonzero(worst <= 1.0 + 1e-9)
        return float(times[kept[0] if len(kept) else np.argmin(worst)])
