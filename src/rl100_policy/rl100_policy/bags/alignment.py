# SPDX-License-Identifier: Apache-2.0
"""Which recorded frame belongs to which action: joining of streams by their header stamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Stamps = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Alignment:
    """The longest gap-free stretch of an episode, on the control grid.

    Attributes:
        joints: [T + 1] index of the joint state of each observation.
        frames: [T + 1] index of the depth frame of each observation.
        commands: [T] index of the command that answered observation t.
        reaches_end: The last observation is the one the last command answered, or a later one.
        left_out: Commands outside the stretch, not counting a last one whose result was not seen.
    """

    joints: Indices
    frames: Indices
    commands: Indices
    reaches_end: bool
    left_out: int


def nearest_index(stamps: Stamps, times: Stamps, tolerance_ns: int) -> Indices:
    """Index of the stamp nearest to each time, -1 where none is within the tolerance (included).

    Of two equally near the earlier is taken: an observation should not be from the future.

    Args:
        stamps: [N], increasing.
        times: [M].
        tolerance_ns: Largest distance.
    """
    if len(stamps) == 0:
        return np.full(len(times), -1, dtype=np.int64)
    after = np.clip(np.searchsorted(stamps, times), 0, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    chosen = np.where(times - stamps[before] <= stamps[after] - times, before, after)
    chosen = np.where(stamps[after] == times, after, chosen)
    near = np.abs(stamps[chosen] - times) <= tolerance_ns
    return np.where(near, chosen, -1).astype(np.int64)


def align(joint_ns: Stamps, frame_ns: Stamps, command_ns: Stamps, period_ns: int) -> Alignment:
    """Join joint states, depth frames and commands.

    A command answers the observation of its own stamp; its result is the observation one period
    later. Each is the depth frame nearest in time and the joint state nearest to that frame,
    within half a period: exactly the same stamps in lockstep. The stretch ends where a frame, a
    joint state or a command is missing; of all stretches the longest is taken, the last of equals.

    Args:
        joint_ns: [J] stamps of joint states, increasing.
        frame_ns: [F] stamps of usable depth frames, increasing.
        command_ns: [C] stamps of commands, increasing.
        period_ns: Duration of one action.

    Returns:
        The stretch; empty (T = 0, no observation) if no action has both its observations.
    """
    tolerance = period_ns // 2
    follows = np.abs(np.diff(command_ns) - period_ns) <= tolerance
    result_ns = command_ns + period_ns
    result_ns[:-1] = np.where(follows, command_ns[1:], result_ns[:-1])
    frame, joint = _observations(joint_ns, frame_ns, command_ns, tolerance)
    next_frame, next_joint = _observations(joint_ns, frame_ns, result_ns, tolerance)
    usable = (frame >= 0) & (next_frame > frame)
    first, last = _longest_stretch(usable, follows)
    chosen = np.arange(first, last, dtype=np.int64)
    n_commands = len(command_ns)
    reaches_end = len(chosen) > 0 and last >= n_commands - 1
    unseen = int(reaches_end and last == n_commands - 1)
    return Alignment(
        joints=np.append(joint[chosen], next_joint[chosen[-1:]]),
        frames=np.append(frame[chosen], next_frame[chosen[-1:]]),
        commands=chosen,
        reaches_end=reaches_end,
        left_out=n_commands - len(chosen) - unseen,
    )


def _observations(
    joint_ns: Stamps, frame_ns: Stamps, times: Stamps, tolerance_ns: int
) -> tuple[Indices, Indices]:
    """Frame and joint state of each time; both -1 where either is missing."""
    frame = nearest_index(frame_ns, times, tolerance_ns)
    seen = frame >= 0
    joint = np.full(len(times), -1, dtype=np.int64)
    joint[seen] = nearest_index(joint_ns, frame_ns[frame[seen]], tolerance_ns)
    return np.where(joint >= 0, frame, -1), joint


def _longest_stretch(usable: NDArray[np.bool_], follows: NDArray[np.bool_]) -> tuple[int, int]:
    """First and one past the last index of the longest run of usable commands one period apart."""
    best, begin = (0, 0), 0
    for index, good in enumerate(usable):
        if index > 0 and not (usable[index - 1] and follows[index - 1]):
            begin = index
        if good and index + 1 - begin >= best[1] - best[0]:
            best = (begin, index + 1)
    return best
