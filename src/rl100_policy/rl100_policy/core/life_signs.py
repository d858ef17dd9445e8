# SPDX-License-Identifier: Apache-2.0
"""When a policy says that it lives, and what it has seen."""

from __future__ import annotations

import numpy as np

_EVERY, _LEAST_EVERY_S = 0.2, 0.01
"""Control periods, and seconds at the least, between two signs of life."""
_APART = 0.5
"""Share of that which is between any two of the same frame, or of new ones, however fast frames
come."""


class LifeSigns:
    """With every new frame, as long as they come no faster, and in between ever so often."""

    def __init__(self, period_s: float) -> None:
        """Begin without a frame; ``period_s`` is the control period."""
        self.every_s = max(_EVERY * period_s, _LEAST_EVERY_S)
        """How often :meth:`due` is to be asked besides [s]."""
        self._seen_ns = self._told_ns = -1
        self._told_s = self._told_of_new_s = -np.inf

    def see(self, stamp_ns: int) -> None:
        """Take note of a frame that decisions are made about."""
        self._seen_ns = stamp_ns

    def due(self, now_s: float) -> int | None:
        """The newest frame's stamp, if that is to be told now; None if nothing is.

        Args:
            now_s: Time by a clock that nobody sets [s].
        """
        if self._seen_ns < 0:
            return None
        is_new = self._seen_ns != self._told_ns
        if now_s - (self._told_of_new_s if is_new else self._told_s) < _APART * self.every_s:
            return None
        self._told_s, self._told_ns = now_s, self._seen_ns
        if is_new:
            self._told_of_new_s = now_s
        return self._seen_ns
