# SPDX-License-Identifier: Apache-2.0
"""Poses as homogeneous matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]


def pose_from_xyz_rpy(xyz: Sequence[float], rpy: Sequence[float]) -> Floats:
    """Homogeneous transform, [4, 4], from a translation [m] and roll, pitch, yaw [rad].

    The axes are fixed (URDF convention).
    """
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", rpy).as_matrix()
    pose[:3, 3] = xyz
    return pose


def pose_from_xyz_quaternion(
    xyz: Sequence[float] | Floats, xyzw: Sequence[float] | Floats
) -> Floats:
    """Homogeneous transform, [4, 4], from a translation [m] and a quaternion.

    The quaternion is x, y, z, w and is normalised here.
    """
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(xyzw).as_matrix()
    pose[:3, 3] = xyz
    return pose


def quaternion_from_pose(pose: Floats) -> Floats:
    """Unit quaternion (x, y, z, w) of the rotation of a homogeneous transform, [4]."""
    return np.asarray(Rotation.from_matrix(pose[:3, :3]).as_quat())


def twist_between(before: Floats, after: Floats, period_s: float, *, turns: bool = True) -> Floats:
    """Velocity that takes one pose to another in a time, [6]: m/s, then rad/s, both in the base.

    Args:
        before: Homogeneous transform, [4, 4].
        after: The same.
        period_s: Time between them.
        turns: False: the rotation is not looked at, and told as zero.
    """
    twist = np.zeros(6)
    twist[:3] = (after[:3, 3] - before[:3, 3]) / period_s
    if turns:
        turn = Rotation.from_matrix(after[:3, :3] @ before[:3, :3].T)
        twist[3:] = turn.as_rotvec() / period_s
    return twist
