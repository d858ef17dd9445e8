# SPDX-License-Identifier: Apache-2.0
"""How an arm that is commanded once per control period comes to rest within its limits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LONGEST = 4096
"""Control periods after which an arm that does not come to rest has impossible limits."""


def velocities_to_rest(
    velocity: Floats, change: Floats, largest_change: Floats, largest_turn: Floats
) -> Floats:
    """Velocities of the next periods until an arm rests, in the fewest that all joints need.

    Velocities are the differences of successive commands per period T. With dv_k = v_k - v_k-1,
    acceleration is dv_k / T and jerk (dv_k - dv_k-1) / T^2. For n periods, the largest and the
    least dv that the limits allow, |dv_k| <= A, |dv_k - dv_k-1| <= J and no acceleration after
    the last, are

        min(dv_0 + k J, A, (n + 1 - k) J)  and  max(dv_0 - k J, -A, -(n + 1 - k) J).

    Both keep the limits, and so does every mixture of them; their sums bound what n periods can
    take from a velocity, and one mixture takes exactly all of it. With more periods the bounds
    grow, so the fewest are found one by one.

    Where every change that A allows may follow every other, the velocity falls by the same in
    every period, in a straight joint line, as fast as A lets it.

    Args:
        velocity: Of the last period, [n], rad/s.
        change: Of the velocity from the period before to the last, dv_0, [n], rad/s.
        largest_change: A, of the velocity between two periods, [n], rad/s.
        largest_turn: J, of that change between two periods, [n], rad/s.

    Returns:
        Velocities [p, n], rad/s, of the periods before that of rest; p is 0 for an arm that can
        rest at once.
    """
    if (largest_turn >= 2.0 * largest_change).all():
        return _evenly(velocity, largest_change)
    stop = np.abs(velocity)
    at_once = np.minimum(largest_change, largest_turn)
    if not ((stop > at_once) | (np.abs(velocity + change) > largest_turn)).any():
        return np.zeros((0, len(velocity)))
    periods = _fewest(velocity, change, largest_change, largest_turn)
    while periods <= _LONGEST:
        step = np.arange(1, periods + 1)[:, None] * largest_turn
        end = step[::-1]
        most = np.minimum(np.minimum(change + step, largest_change), end)
        least = np.maximum(np.maximum(change - step, -largest_change), -end)
        room, missing = (most - least).sum(axis=0), -velocity - least.sum(axis=0)
        reached = (missing >= -_slack(room)) & (missing <= room + _slack(room))
        if reached.all() and (most >= least).all():
            share = np.clip(missing / np.maximum(room, 1e-300), 0.0, 1.0)
            path = velocity + np.cumsum(least + share * (most - least), axis=0)
            return np.asarray(path[:-1])  # the last one is zero
        periods += 1
    raise ValueError(f"no way to rest from {velocity} within {_LONGEST} control periods")


def _evenly(velocity: Floats, largest_change: Floats) -> Floats:
    periods = float((np.abs(velocity) / largest_change).max())
    gone = np.arange(1, np.ceil(periods - 1e-9)) / max(periods, 1.0)
    return np.asarray((1.0 - gone)[:, None] * velocity)


def _fewest(velocity: Floats, change: Floats, largest_change: Floats, largest_turn: Floats) -> int:
    """A number of periods that is certainly not too many."""
    by_change = np.abs(velocity) / largest_change
    turns = np.abs(change) / largest_turn
    by_turn = np.maximum(turns - 1.0, 2.0 * np.sqrt(np.abs(velocity) / largest_turn) - 1.0 - turns)
    return max(1, int(np.ceil(max(by_change.max(), by_turn.max()) - 1e-9)))


def _slack(room: Floats) -> Floats:
    return 1e-12 * np.maximum(room, 1.0)
