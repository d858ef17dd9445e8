# SPDX-License-Identifier: Apache-2.0
"""Where the tool may be and how far it may tilt."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import TaskConfig

Floats = NDArray[np.float64]

_WALL = 1e-3
"""How far beyond the box the tool may come, for the inverse kinematics' sake [m]."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ToolRoom:
    """The box of a task's tool and the cone of its axis.

    A tool that starts outside the box, or tilted too far, may only move back: for it the room is
    as large as it needs to be, and shrinks as the tool comes in.
    """

    box_low: Floats
    box_high: Floats
    """Of the task, [3], m, base frame."""
    axis: Floats
    """Direction from which the tool's z may tilt, [3]."""
    least_cosine: float
    """Of the angle between the two; -2: any."""
    low: Floats
    high: Floats
    cosine: float
    """The same as it is now."""

    @classmethod
    def of(cls, task: TaskConfig, home: Floats) -> ToolRoom:
        """That of a task, for a tool whose pose at home is [4, 4]."""
        low, high = np.array(task.tool_workspace.low), np.array(task.tool_workspace.high)
        cosine = -2.0 if task.tool_tilt is None else math.cos(task.tool_tilt)
        return cls(low, high, home[:3, 2].copy(), cosine, low, high, cosine)

    def starting_at(self, pose: Floats) -> ToolRoom:
        """Large enough for a tool that starts at a pose, [4, 4]."""
        return replace(
            self,
            low=np.minimum(self.box_low, pose[:3, 3]),
            high=np.maximum(self.box_high, pose[:3, 3]),
            cosine=min(self.least_cosine, float(self.axis @ pose[:3, 2])),
        )

    def after(self, pose: Floats) -> ToolRoom:
        """What is left of it once the tool is at a pose, [4, 4]."""
        if self.cosine == self.least_cosine and self._is_box:
            return self
        low = np.minimum(self.box_low, np.maximum(self.low, pose[:3, 3]))
        high = np.maximum(self.box_high, np.minimum(self.high, pose[:3, 3]))
        cosine = min(self.least_cosine, max(self.cosine, float(self.axis @ pose[:3, 2])))
        return replace(self, low=low, high=high, cosine=cosine)

    @property
    def _is_box(self) -> bool:
        return bool((self.low == self.box_low).all() and (self.high == self.box_high).all())

    def nearest(self, position: Floats) -> Floats:
        """The place in it that is nearest to a position, [3], m."""
        return np.minimum(np.maximum(position, self.low), self.high)

    def holds(self, pose: Floats) -> bool:
        """Whether a tool pose, [4, 4], is inside."""
        if self.axis @ pose[:3, 2] < self.cosine - _ROUNDING:
            return False
        tool = pose[:3, 3]
        return not ((tool < self.low - _WALL) | (tool > self.high + _WALL)).any()
