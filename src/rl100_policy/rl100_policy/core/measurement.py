# SPDX-License-Identifier: Apache-2.0
"""What a measured joint state can be, and what must be a broken sensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.errors import ObservationError
from rl100_policy.core.kinematics import ArmKinematics

Floats = NDArray[np.float64]

_SPEED_FACTOR = 2.0
_JUMP = 0.05
"""A measured joint may move by this many times its velocity limit, plus this [rad, m], between
two measurements; more is a broken sensor."""


class MeasurementCheck:
    """Refuses joint positions that no arm can have reached since the last measurement."""

    def __init__(self, kinematics: ArmKinematics) -> None:
        """Begin without a measurement."""
        self._speed = _SPEED_FACTOR * kinematics.velocity_limits
        self._last: tuple[int, Floats] | None = None

    def check(self, stamp_ns: int, q: Floats) -> None:
        """Compare with the last measurement, and remember this one, [n] rad, at stamp_ns.

        A jump that stays is refused once; from then on it is where the arm is, and the command
        gate holds because the arm is not where it was told to be.

        Raises:
            ObservationError: Names the joint that jumped and by how much.
        """
        last, self._last = self._last, (stamp_ns, q)
        if last is None or stamp_ns <= last[0]:
            return
        elapsed = (stamp_ns - last[0]) * 1e-9
        excess = np.abs(q - last[1]) - (self._speed * elapsed + _JUMP)
        worst = int(np.argmax(excess))
        if excess[worst] > 0.0:
            raise ObservationError(
                f"joint {worst} jumped from {last[1][worst]:.3f} to {q[worst]:.3f} "
                f"within {elapsed:.3f} s"
            )
