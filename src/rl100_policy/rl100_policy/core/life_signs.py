# SPDX-License-Identifier: Apache-2.0
"""When a policy says that it lives and what it has seen, and what keeps it from driving.

Pure: all times are by a clock that nobody sets [s].
"""

from __future__ import annotations

import numpy as np

_EVERY, _LEAST_EVERY_S = 0.2, 0.01
"""Control periods, and seconds at the least, between two signs of life."""
_APART = 0.5
"""Share of that which is between any two of the same frame, or of new ones, however fast frames
come."""
_SLOWEST, _SLOWEST_S = 2.0, 0.25
"""Control periods, and seconds at the least, between two observations of a slow camera."""
_GATE_S = 1.5
"""A gate that has told nothing for longer is not heard [s]; it does so twice a second."""


def longest_sight_s(period_s: float) -> float:
    """Time between two observations up to which a camera is slow, not lost [s].

    Args:
        period_s: Control period [s].
    """
    return max(_SLOWEST * period_s, _SLOWEST_S)


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
            now_s: Present time.
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


class Readiness:
    """What a policy that has a version lacks to drive: in words for people, or empty."""

    def __init__(self, period_s: float) -> None:
        """Begin without having seen or heard anything; ``period_s`` is the control period."""
        self._period_s = period_s
        self._heard_gate_s = self._saw_now_s = -np.inf
        self._at_work_s, self._failed = np.inf, False

    def hear_gate(self, now_s: float) -> None:
        """Take note that the command gate told something."""
        self._heard_gate_s = now_s

    def see(self, now_s: float) -> None:
        """Take note of an observation that is of now."""
        self._saw_now_s = now_s

    def begin(self, now_s: float) -> None:
        """Take note that a decision, or what prepares one, begins."""
        self._at_work_s = now_s

    def end(self) -> None:
        """Take note that it is over."""
        self._at_work_s = np.inf

    def decide(self, *, failed: bool) -> None:
        """Take note of how the newest decision went."""
        self._failed = failed

    def why_undecided(self, now_s: float, longest_s: float) -> str:
        """Why no decision can be expected.

        Args:
            now_s: Present time.
            longest_s: How long a decision usually takes at most [s].
        """
        if self._failed:
            return "its last decision failed"
        hangs = now_s - self._at_work_s > longest_s + self._period_s
        return "a decision hangs" if hangs else ""

    def why_blind(self, now_s: float, *, has_seen: bool, is_of_now: bool) -> str:
        """Why it would not decide about what it sees, if it were in command.

        Args:
            now_s: Present time.
            has_seen: Whether there was an observation ever.
            is_of_now: Whether the newest one is of now.
        """
        if now_s - self._heard_gate_s > _GATE_S:
            return "it hears no command gate (gate/status)"
        if not has_seen:
            return "it has seen nothing yet"
        if not is_of_now and now_s - self._saw_now_s > longest_sight_s(self._period_s):
            return "what it sees is not of now; is the camera slow, or its clock another one?"
        return ""
