# SPDX-License-Identifier: Apache-2.0
"""Poses as homogeneous matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]


def pose_from_xyz_rpy(xyz: Sequence[float], rpy: Sequence[float]) -> Floats:
    """Homogeneous transform from a translation [m] and fixed-axis roll, pitch, yaw [rad] (URDF convention), [4, 4]."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", rpy).as_matrix()
    pose[:3, 3] = xyz
    return pose


def pose_from_xyz_quaternion(xyz: Sequence[float], xyzw: Sequence[float]) -> Floats:
    """Homogeneous transform from a translation [m] and a quaternion (x, y, z, w; normalised here), [4, 4]."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(xyzw).as_matrix()
    pose[:3, 3] = xyz
    return pose


def quaternion_from_pose(pose: Floats) -> Floats:
    """Unit quaternion (x, y, z, w) of the rotation of a homogeneous transform, [4]."""
    return np.asarray(Rotation.from_matrix(pose[:3, :3]).as_quat())
