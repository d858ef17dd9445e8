# SPDX-License-Identifier: Apache-2.0
"""Who commands the arm, what the command gate did to a request, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class CommandSource(IntEnum):
    """Who commands the arm; values are those of rl100_msgs/GateCommand."""

    HOLD = 0
    TELEOP = 1
    POLICY = 2
    HOME = 3


class GateFlag(IntFlag):
    """What the gate did to a request; values are those of rl100_msgs/GateCommand."""

    NONE = 0
    CLIPPED_ACTION = 1
    CLIPPED_WORKSPACE = 2
    CLIPPED_POSITION = 4
    CLIPPED_VELOCITY = 8
    CLIPPED_ACCELERATION = 16
    HELD_NON_FINITE = 32
    HELD_STALE = 64
    HELD_MALFORMED = 128
    HELD_ESTOP = 256
    HELD_IK = 512
    HELD_STATE = 1024
    BEYOND_ACTION = 2048
    CLIPPED_JERK = 4096
    CLIPPED_COLLISION = 8192


HELD = (
    GateFlag.HELD_NON_FINITE
    | GateFlag.HELD_STALE
    | GateFlag.HELD_MALFORMED
    | GateFlag.HELD_ESTOP
    | GateFlag.HELD_IK
    | GateFlag.HELD_STATE
)
CLIPPED = (
    GateFlag.CLIPPED_ACTION
    | GateFlag.CLIPPED_WORKSPACE
    | GateFlag.CLIPPED_POSITION
    | GateFlag.CLIPPED_VELOCITY
    | GateFlag.CLIPPED_ACCELERATION
    | GateFlag.CLIPPED_JERK
    | GateFlag.CLIPPED_COLLISION
)


@dataclass(frozen=True)
class GateResult:
    """One answered control period."""

    joint_command: Floats
    """Joint positions to reach at the end of the period, [n], rad."""
    executed: Floats
    """Action that the joint command realises, [d_a], SI units of the action space."""
    flags: GateFlag
    stopping: Floats
    """Joint positions of the next periods, in which the arm comes to rest within all limits if
    nothing else is commanded, [p, n], rad; p is 0 where it rests after this one."""
    velocity: Floats
    """On the way from the last command to this one, [n], rad/s."""
    requested: Floats | None = None
    """Action that was asked for, in the same units; None where there was none. Of a person where
    actions are joint velocities: what the inverse kinematics makes of the twist within its bounds
    and the workspace box; None also where it was refused or has no solution."""
