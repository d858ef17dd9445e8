# SPDX-License-Identifier: Apache-2.0
"""What a joint trajectory controller makes of what it is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Trajectory:
    """A way through places at given times, straight from one to the next, to rest at the last."""

    def __init__(self, place: Floats) -> None:
        """Rest at a place, [n], rad."""
        self._times_ns, self._places = [0], place[None]

    def replace(self, now_ns: int, times_ns: Sequence[int], places: Floats) -> None:
        """Go on from where this is now to what is to come of another one.

        Args:
            now_ns: Present time.
            times_ns: When to be there.
            places: Where to be, [p, n], rad.

        Raises:
            ValueError: If the times are not in order, or all over: then it goes on as it is.
        """
        if any(np.diff(times_ns) <= 0) or times_ns[-1] <= now_ns:
            raise ValueError(
                f"times that increase and end after {now_ns} ns, got {list(times_ns)}"
            )
        first = next(at for at, each in enumerate(times_ns) if each > now_ns)
        self._places = np.vstack([self.at(now_ns), places[first:]])
        self._times_ns = [now_ns, *times_ns[first:]]

    def at(self, time_ns: int) -> Floats:
        """Where to be at a time not before the last change, [n], rad."""
        return np.array([np.interp(time_ns, self._times_ns, each) for each in self._places.T])
