# SPDX-License-Identifier: Apache-2.0
"""Which samples of a stream begin a control period."""

from __future__ import annotations


class Cadence:
    """Picks from a stream, whatever its rate, the sample nearest to the begin of each period.

    A sample is nearest if the next one, half an interval of the stream later or more, would be
    farther from the time that is due. Over many periods the picks keep the period exactly, unless
    the stream is slower than that: then every sample is picked.
    """

    def __init__(self, period_ns: int) -> None:
        """Begin with the next sample."""
        self._period_ns = period_ns
        self._last_ns: int | None = None
        self._due_ns: int | None = None
        self._regular_ns: int | None = None
        """Begin of the last period that was picked, if all were one control period apart."""
        self.number = 0
        """Of the newest sample that begins a period: periods since the first one by their times,
        each counted once, at the rate of the stream's clock whatever is lost or jitters."""

    def restart(self) -> None:
        """Forget the stream: the next sample begins a period."""
        self._last_ns = self._due_ns = self._regular_ns = None

    def begins(self, stamp_ns: int) -> bool:
        """Whether the sample of this time begins a period; call once for every sample, in order.

        Args:
            stamp_ns: Time of the sample, not before the one of the last call.
        """
        last, self._last_ns = self._last_ns, stamp_ns
        interval = self._period_ns if last is None else min(stamp_ns - last, self._period_ns)
        if self._due_ns is not None and stamp_ns + interval // 2 < self._due_ns:
            return False
        due = self._due_ns
        if due is None or stamp_ns - due > self._period_ns // 2:
            due = stamp_ns  # the first, or after a pause
        self._due_ns = due + self._period_ns
        self._count(stamp_ns)
        return True

    def _count(self, stamp_ns: int) -> None:
        if self._regular_ns is None:
            self._regular_ns, passed = stamp_ns, 1
        else:
            passed = max(1, round((stamp_ns - self._regular_ns) / self._period_ns))
            self._regular_ns += passed * self._period_ns
        self.number += passed
