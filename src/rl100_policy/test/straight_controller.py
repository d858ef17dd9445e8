# SPDX-License-Identifier: Apache-2.0
"""A joint trajectory controller, as far as the gate asks for one."""

import numpy as np

from rl100_policy.core.command_timing import TimedWay


class StraightController:
    """Goes from where it is straight to the first point, and on from point to point."""

    def __init__(self, begin: np.ndarray) -> None:
        """Rest at a place, [n] rad."""
        self.times, self.places = [-1.0], [begin]

    def follow(self, now_s: float, way: TimedWay) -> None:
        """From now on the points that are to come, whatever it was told before."""
        kept = [at for at, time in enumerate(self.times) if time < now_s]
        here = self.at(np.array([now_s]))[0]
        told = [(at * 1e-9, place) for at, place in zip(way.times_ns, way.places, strict=True)]
        ahead = [(at, place) for at, place in told if at > now_s]
        self.times = [*(self.times[at] for at in kept), now_s, *(at for at, _ in ahead)]
        self.places = [*(self.places[at] for at in kept), here, *(each for _, each in ahead)]

    def at(self, times: np.ndarray) -> np.ndarray:
        """Where it was or will be, [times, n] rad."""
        places = np.array(self.places)
        return np.stack([np.interp(times, self.times, column) for column in places.T], axis=1)
