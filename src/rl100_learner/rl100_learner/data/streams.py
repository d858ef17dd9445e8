# SPDX-License-Identifier: Apache-2.0
"""The streams of one bag, checked and by header stamp, before they are joined.

A message that a live node would refuse is skipped and counted, as the node does. Every function
raises BagError for what makes the whole episode unusable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.bags.reading import BagMessage
from rl100_policy.core import messages
from rl100_policy.core.config import ActionConfig, CameraConfig
from rl100_policy.core.errors import BagError, ObservationError
from rl100_policy.core.gate_result import CommandSource, GateFlag
from rl100_policy.core.point_cloud import Intrinsics

_ACTING = (CommandSource.TELEOP, CommandSource.POLICY)
"""Sources whose actions are part of an episode."""


@dataclass(frozen=True)
class ExecutedActions:
    """Usable commands of an episode, in time order.

    Attributes:
        stamps_ns: [C] stamp of the joint state that each answered.
        actions: [C, d_a] float32, SI units, as executed after limits.
        versions: [C] which policy version an action is from; empty where it is a person's or
            nobody's, also where a policy was in command and had none for the period.
        by_person: [C] whether a person was in command.
        recorded_ns: From the first command of the recording to the last, of whomever.
        skipped: Commands of these periods whose action cannot be one.
    """

    stamps_ns: NDArray[np.int64]
    actions: NDArray[np.float32]
    versions: tuple[str, ...]
    by_person: tuple[bool, ...]
    recorded_ns: int
    skipped: int


def by_stamp(recorded: Sequence[BagMessage], end_ns: int) -> dict[int, Any]:
    """Messages by header stamp [ns], in its order.

    Of equal stamps the first is taken, as the live nodes do.

    Args:
        recorded: In the order of reception.
        end_ns: Later stamps are left out; 0: none are.
    """
    found: dict[int, Any] = {}
    for stamp, message in _until(recorded, end_ns):
        found.setdefault(stamp, message)
    return dict(sorted(found.items()))


def _until(recorded: Sequence[BagMessage], end_ns: int) -> Iterator[tuple[int, Any]]:
    for message in recorded:
        stamp = messages.stamp_ns(message.value.header.stamp)
        if not end_ns or stamp <= end_ns:
            yield stamp, message.value


def arm_positions(
    recorded: Sequence[BagMessage], names: Sequence[str], end_ns: int
) -> tuple[dict[int, NDArray[np.float64]], int]:
    """Positions of the arm's joints, [n_joints], rad, by header stamp [ns], in its order.

    Messages with none of the joints are another driver's on the same topic, a gripper's for
    example, and no concern of the episode. Of equal stamps the first usable one is taken.

    Args:
        recorded: sensor_msgs/JointState in the order of reception.
        names: Joints wanted, in this order.
        end_ns: Later stamps are left out; 0: none are.

    Returns:
        The positions, and how many messages were skipped because they lack some of the joints or
        a position is not finite.
    """
    skipped = 0
    found: dict[int, NDArray[np.float64]] = {}
    for stamp, message in _until(recorded, end_ns):
        try:
            positions = messages.joint_positions(message, names)
        except ObservationError:
            skipped += 1
            continue
        if positions is not None:
            found.setdefault(stamp, positions)
    return dict(sorted(found.items())), skipped


def executed_actions(commands: dict[int, Any], action: ActionConfig) -> ExecutedActions:
    """Executed actions from the first to the last period in which somebody was in command.

    A command whose action is not finite, has another length, or is further outside of the task's
    bounds than these are apart (no gate lets such through) counts as missing, and is counted. So
    does one whose motion was more than its action says: joints that a person turned one by one, or
    the way home, where an action is of the tool.

    Args:
        commands: rl100_msgs/GateCommand by stamp, in its order.
        action: What the task commands.

    Raises:
        BagError: If the actions are of another kind, or nobody was ever in command.
    """
    for command in commands.values():
        if command.action_space != action.space or tuple(command.names) != action.names:
            raise BagError(
                f"its actions are {command.action_space} {list(command.names)}, the task has "
                f"{action.space} {list(action.names)}; give the task it was recorded for"
            )
    active = [stamp for stamp, command in commands.items() if command.source in _ACTING]
    if not active:
        raise BagError(f"nobody was in command in any of its {len(commands)} control periods")
    given = {
        stamp: command for stamp, command in commands.items() if active[0] <= stamp <= active[-1]
    }
    usable = {
        stamp: command
        for stamp, command in given.items()
        if len(command.executed) == action.dim
        and not command.flags & GateFlag.BEYOND_ACTION
        and _plausible(np.asarray(command.executed), action)
    }
    executed = [command.executed for command in usable.values()]
    actions = np.array(executed, dtype=np.float32).reshape(-1, action.dim)
    versions = tuple(
        command.policy_version if command.source == CommandSource.POLICY else ""
        for command in usable.values()
    )
    by_person = tuple(command.source == CommandSource.TELEOP for command in usable.values())
    every = list(commands)
    return ExecutedActions(
        np.array(list(usable), dtype=np.int64),
        actions,
        versions,
        by_person,
        recorded_ns=every[-1] - every[0],
        skipped=len(given) - len(usable),
    )


def _plausible(executed: NDArray[np.float64], action: ActionConfig) -> bool:
    """False of NaN as well."""
    low, high = np.array(action.low), np.array(action.high)
    apart = high - low
    return bool(np.all((executed >= low - apart) & (executed <= high + apart)))


def recorded_intrinsics(infos: Sequence[BagMessage], optical_frame: str) -> tuple[Intrinsics, int]:
    """Intrinsics of the one camera setting of an episode, from its sensor_msgs/CameraInfo.

    Returns:
        The intrinsics, and how many messages were skipped because they cannot be a camera's.

    Raises:
        BagError: If there are none, or they differ.
    """
    found, skipped = set(), 0
    for info in infos:
        try:
            found.add(messages.intrinsics(info.value, optical_frame))
        except ObservationError:
            skipped += 1
    if len(found) != 1:
        raise BagError(
            f"expected one and the same CameraInfo throughout, found {len(found)} different ones "
            f"and {skipped} that cannot be a camera's"
        )
    return found.pop(), skipped


def recorded_camera_pose(
    transforms: Sequence[BagMessage], camera: CameraConfig, base_frame: str
) -> tuple[NDArray[np.float64] | None, int]:
    """Optical frame in the base frame, [4, 4].

    Args:
        transforms: geometry_msgs/TransformStamped of any frames.
        camera: Which camera.
        base_frame: Robot base frame.

    Returns:
        The pose, None if none was recorded, and how many messages were skipped because they are
        no pose.

    Raises:
        BagError: If the pose changes during the episode.
    """
    of_camera = [
        each.value.transform
        for each in transforms
        if each.value.header.frame_id == base_frame
        and each.value.child_frame_id == camera.optical_frame
    ]
    poses, skipped = [], 0
    for transform in of_camera:
        try:
            poses.append(messages.transform_matrix(transform))
        except ObservationError:
            skipped += 1
    if any(not np.allclose(pose, poses[0], atol=1e-6) for pose in poses):
        raise BagError("the camera's pose changes during the episode; it must be fixed")
    return poses[0] if poses else None, skipped
