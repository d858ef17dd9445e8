# SPDX-License-Identifier: Apache-2.0
"""Where an arm was told to be at every time, from what somebody else recorded of its commands."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import TWIST_COMPONENTS, ActionConfig
from rl100_policy.core.errors import ActionError
from rl100_policy.core.geometry import twist_between
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.messages import stamp_ns

Floats = NDArray[np.float64]
Stamps = NDArray[np.int64]
_NEVER_NS = 2**62


@dataclass(frozen=True)
class Setpoints:
    """Commanded joint positions as a function of time, straight between what was told."""

    times_ns: Stamps
    """[P], strictly increasing."""
    positions: Floats
    """[P, n], rad."""
    longest_gap_ns: int = _NEVER_NS
    """Between points farther apart nothing is known."""
    stays: bool = False
    """The arm is told to stay at the last point."""

    def at(self, times_ns: Stamps) -> Floats:
        """Positions at some times, [C] to [C, n]; NaN where they are not known."""
        found = np.full((len(times_ns), self.positions.shape[1]), np.nan)
        if len(self.times_ns) == 0:
            return found
        after = np.searchsorted(self.times_ns, times_ns)
        inside = (after > 0) & (after < len(self.times_ns))
        exact = np.isin(times_ns, self.times_ns)
        after = np.clip(after, 0, len(self.times_ns) - 1)
        before = np.clip(after - 1, 0, None)
        apart = self.times_ns[after] - self.times_ns[before]
        between = inside & (apart <= self.longest_gap_ns) & ~exact
        share = (times_ns - self.times_ns[before])[between] / apart[between]
        low, high = self.positions[before][between], self.positions[after][between]
        found[between] = low + share[:, None] * (high - low)
        found[exact] = self.positions[after][exact]
        if self.stays:
            found[times_ns > self.times_ns[-1]] = self.positions[-1]
        return found


def sampled(
    samples: Mapping[int, Floats], *, reached_after_s: float = 0.0, longest_gap_s: float
) -> Setpoints:
    """From positions [n] told at some times [ns], each to be reached a while later."""
    times = np.array(sorted(samples), dtype=np.int64)
    positions = np.array([samples[time] for time in times.tolist()], dtype=np.float64)
    shift = round(reached_after_s * 1e9)
    return Setpoints(times + shift, _rows(positions), round(longest_gap_s * 1e9))


def followed(
    trajectories: Mapping[int, list[tuple[int, Floats]]],
    measured_at: Callable[[int], Floats],
) -> Setpoints:
    """From trajectories, as a controller follows them.

    Args:
        trajectories: By when each takes over [ns]: its points, each by when it is to be reached
            [ns] and with its positions [n].
        measured_at: Joint positions [n] at a time; where the arm is when the first takes over.
    """
    times: list[int] = []
    positions: list[Floats] = []
    for begin, points in sorted(trajectories.items()):
        start = _begin(times, positions, begin, measured_at)
        while times and times[-1] >= begin:
            times.pop()
            positions.pop()
        for time, where in [(begin, start), *points]:
            if times and time <= times[-1]:
                times.pop()
                positions.pop()
            times.append(time)
            positions.append(where)
    return Setpoints(np.array(times, dtype=np.int64), _rows(np.array(positions)), stays=True)


def _begin(
    times: list[int],
    positions: list[Floats],
    begin: int,
    measured_at: Callable[[int], Floats],
) -> Floats:
    """Where the arm is told to be when a trajectory takes over."""
    if not times or begin < times[0]:
        return measured_at(begin)
    after = bisect_left(times, begin)
    if after == len(times) or times[after] == begin:
        return positions[min(after, len(times) - 1)]
    share = (begin - times[after - 1]) / (times[after] - times[after - 1])
    return positions[after - 1] + share * (positions[after] - positions[after - 1])


def _rows(positions: Floats) -> Floats:
    return positions if positions.ndim == 2 else np.zeros((0, 0))


def trajectory_points(
    message: Any, joints: Sequence[str], names: Mapping[str, str], begin_ns: int
) -> list[tuple[int, Floats]]:
    """Points of a trajectory_msgs/JointTrajectory: when each is to be reached [ns], and [n] rad.

    Raises:
        ActionError: If it lacks a joint, or a point has no finite position for each.
    """
    told = [names.get(name, name) for name in message.joint_names]
    if missing := [joint for joint in joints if joint not in told]:
        raise ActionError(f"trajectory lacks {missing}; it has {told}")
    places = [told.index(joint) for joint in joints]
    points = []
    for point in message.points:
        if len(point.positions) != len(told):
            raise ActionError(
                f"trajectory point has {len(point.positions)} positions of {len(told)} joints"
            )
        where = np.asarray(point.positions, dtype=np.float64)[places]
        if not np.isfinite(where).all():
            raise ActionError(f"trajectory point {where.tolist()} is not finite")
        points.append((begin_ns + stamp_ns(point.time_from_start), where))
    return points


def executed_actions(
    arm: ArmKinematics, action: ActionConfig, before: Floats, after: Floats, period_s: float
) -> tuple[Floats, Floats]:
    """Actions that joint commands amount to, in the space of a task.

    The same sum as that of the command gate: the motion from where the arm was told to be at the
    beginning of a control period to where at its end, of the tool by forward kinematics.

    Args:
        arm: The arm.
        action: What the task commands.
        before: Commanded positions at the beginning of each period, [C, n], rad.
        after: At its end, [C, n], rad.
        period_s: The control period.

    Returns:
        Actions, [C, d_a], SI units, NaN where the command is not known; and the whole velocity of
        the tool, [C, 6], m/s and rad/s.
    """
    twists = np.full((len(before), 6), np.nan)
    known = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    for index in np.flatnonzero(known):
        poses = arm.tool_pose(before[index]), arm.tool_pose(after[index])
        twists[index] = twist_between(*poses, period_s)
    if action.space == "joint_velocity":
        return (after - before) / period_s, twists
    from_twist = [TWIST_COMPONENTS.index(name) for name in action.names]
    return twists[:, from_twist], twists
