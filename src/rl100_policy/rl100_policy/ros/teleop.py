# SPDX-License-Identifier: Apache-2.0
"""What devices that a person steers with have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import TWIST_COMPONENTS, TaskConfig

GRIPPER_TOPIC = "teleop/gripper_cmds"

SETTLE_S = 0.3
"""A device that is let go of says so for this long and is silent then, so that two of them do not
contradict each other [s]."""


def fastest_twist(task: TaskConfig) -> NDArray[np.float64]:
    """Largest velocity of each component of a twist that a person moves, [6], m/s and rad/s."""
    steered = task.action.steered
    bounds = np.maximum(steered.high, np.abs(steered.low))
    largest = dict(zip(steered.names, bounds, strict=True))
    return np.array([largest.get(name, 0.0) for name in TWIST_COMPONENTS])
