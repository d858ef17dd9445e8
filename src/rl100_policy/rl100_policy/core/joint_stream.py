# SPDX-License-Identifier: Apache-2.0
"""Which of an arm's joint states are answered: in order, of now, possible, one per period."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.cadence import Cadence
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.measurement import MeasurementCheck

Floats = NDArray[np.float64]

_NOT_AHEAD = 0.8
"""Control periods by which a joint state may be less ahead than old: only the clock's tick, which
may come after it, makes one of the future."""
_STILL, _BESIDE = 0.005, 0.015
"""An arm rests where no joint has moved by more [rad, m], from the mean of one half of what is
looked at to that of the other; and where none is farther beside the latter now."""
_MOTION, _NOISE = 0.0025, 0.006
"""Standard deviations [rad, m]: of a motion that passes for none, of noise that is none."""
_FEW, _BESIDE_FEW = 8, 0.0075
"""Fewer joint states do not tell noise from motion: none may be farther beside [rad, m]."""
_STILL_STATES, _STILL_PERIODS, _STILL_S = 3, 2, 0.2
"""What is looked at: so many joint states, over so many control periods and seconds."""
_APART = 3.5
"""Control periods, and what is looked at at the least, after which one says nothing of those
before."""


_FOR_EVER_NS = 10**18


class Arrival(Enum):
    """A joint state among those before it."""

    NEXT = auto()
    OLD = auto()
    """Out of order, or told twice."""
    RESTARTED = auto()
    """Time has jumped back: what was received before is not due any more."""


class JointStream:
    """Joint states one after the other."""

    def __init__(self, kinematics: ArmKinematics, period_ns: int, oldest_ns: int | None) -> None:
        """Begin without any.

        Args:
            kinematics: Of the arm.
            period_ns: Control period.
            oldest_ns: A joint state may be this old, and ahead by .8 control periods less, or half
                as much; None: of any time.
        """
        self._period_ns, self._oldest_ns = period_ns, oldest_ns
        self._cadence, self._possible = Cadence(period_ns), MeasurementCheck(kinematics)
        self.newest_ns = -1
        """Stamp of the newest one; -1 before there is one."""
        self.silent_ns = _FOR_EVER_NS
        """Time between the newest one that is possible and the one before."""
        self._unseen_ns = 0
        """Time between the newest one and the one before."""
        self._believed_ns = -1
        """Stamp of the newest one that is possible; -1 before there is one."""
        self._newest: deque[tuple[int, Floats]] = deque()
        """Time and place of those that are looked at for rest."""
        self._still_ns = max(_STILL_PERIODS * self._period_ns, round(_STILL_S * 1e9))
        self._apart_ns = max(round(_APART * self._period_ns), self._still_ns)

    def arrives(self, stamp_ns: int, now_ns: int) -> Arrival:
        """Take note of a joint state; call once for each.

        Args:
            stamp_ns: Its stamp.
            now_ns: Time of whoever asks; 0: unknown yet.

        Raises:
            ObservationError: If it is not of now; it is as if it had not come.
        """
        age_ns = now_ns - stamp_ns
        if self._oldest_ns is not None and now_ns:
            less_ns = round(_NOT_AHEAD * self._period_ns)
            ahead_ns = max(self._oldest_ns - less_ns, self._oldest_ns // 2)
            if not -ahead_ns <= age_ns <= self._oldest_ns:
                raise ObservationError(
                    f"joint state stamped {-age_ns * 1e-9:+.3f} s from this node's clock, "
                    f"expected {-self._oldest_ns * 1e-9:.3f} to {ahead_ns * 1e-9:+.3f} s "
                    "(joint_state_timeout): it is late, or the clocks differ"
                )
        arrival = Arrival.NEXT
        if stamp_ns < self.newest_ns - max(self._period_ns, self._oldest_ns or 0):
            self._cadence.restart()
            arrival = Arrival.RESTARTED
        elif stamp_ns <= self.newest_ns:
            return Arrival.OLD
        self._unseen_ns = stamp_ns - self.newest_ns
        self.newest_ns = stamp_ns
        return arrival

    def begins_period(self, stamp_ns: int, q: Floats) -> bool:
        """Whether the joint state that has arrived begins a control period.

        Args:
            stamp_ns: Its stamp.
            q: Joint positions, [n], rad.

        Raises:
            ObservationError: If no arm can have got there.
        """
        self._remember(stamp_ns, q)
        self._possible.check(stamp_ns, q)
        self.silent_ns = stamp_ns - self._believed_ns if self._believed_ns >= 0 else _FOR_EVER_NS
        self._believed_ns = stamp_ns
        return self._cadence.begins(stamp_ns)

    def resting_place(self) -> Floats | None:
        """Where the newest joint states agree that the arm rests, [n], rad; None if they do not.

        A single wrong one, such as the first of a driver that begins, is no such place. It is a
        mean: the noise of a joint state is none of the arm's.
        """
        stamps = np.array([stamp for stamp, _ in self._newest])
        if len(stamps) < _STILL_STATES or stamps[-1] - stamps[0] < self._still_ns:
            return None
        places = np.array([place for _, place in self._newest])
        late = stamps >= (stamps[0] + stamps[-1]) // 2
        before, place = places[~late].mean(axis=0), places[late].mean(axis=0)
        moved, beside = np.abs(place - before), np.abs(places[-1] - place)
        agree = (moved <= _STILL).all() and (beside <= _BESIDE).all() and _stay(places, place)
        return place if agree else None

    @property
    def number(self) -> int:
        """Of the newest control period: as of :attr:`Cadence.number`."""
        return self._cadence.number

    def _remember(self, stamp_ns: int, q: Floats) -> None:
        newest = self._newest
        if newest and (self._unseen_ns > self._apart_ns or stamp_ns < newest[-1][0]):
            newest.clear()
        newest.append((stamp_ns, q))
        while len(newest) > _STILL_STATES and stamp_ns - newest[1][0] >= self._still_ns:
            newest.popleft()


def _stay(places: Floats, place: Floats) -> bool:
    """Whether joints that are at some places, [p, n], one after the other, stay about there.

    Of noise that is another one in every joint state, half the mean square of what lies between
    two in a row is the variance (von Neumann, 1941). A motion, however often it turns round, adds
    to the variance and next to nothing to that.
    """
    count = len(places)
    if count < _FEW:
        return bool((np.abs(places - place) <= _BESIDE_FEW).all())
    noise = (np.diff(places, axis=0) ** 2).mean(axis=0) / 2.0
    motion, slack = places.var(axis=0) - noise, 2.5 * noise / np.sqrt(count)
    return bool((noise <= _NOISE**2).all() and (motion <= _MOTION**2 + slack).all())
