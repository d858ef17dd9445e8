# SPDX-License-Identifier: Apache-2.0
"""How the cameras of a foreign recording saw: frames, intrinsics, pose in the robot's base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.bags.foreign.findings import Finding, Status
from rl100_policy.bags.foreign.mapping import CameraMapping, ImportMapping
from rl100_policy.bags.foreign.recorded import Recorded
from rl100_policy.core import messages
from rl100_policy.core.config import CameraConfig, RobotConfig
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.point_cloud import Intrinsics

Floats = NDArray[np.float64]

_STILL = 1e-6
"""By how much the pose of a fixed camera may differ from message to message [m]."""
_FAR_M = 0.05
_FAR_RAD = 0.1
"""From the pose of the robot description, over which it is told."""


def with_our_frame(
    message: Any, mapped: CameraMapping, robot: RobotConfig, camera: CameraConfig
) -> Any:
    """The message with our name of its frame; another frame stays, and is refused later."""
    if message.header.frame_id == (mapped.frame or camera.optical_frame):
        ours = robot.base_frame if mapped.in_base_frame else camera.optical_frame
        message.header.frame_id = ours
    return message


def camera_view(
    recorded: Recorded, mapping: ImportMapping, camera: CameraConfig
) -> tuple[Intrinsics | None, Finding]:
    """Intrinsics of a depth camera, None if they are not known."""
    mapped = mapping.cameras[camera.name]
    frame = mapped.frame or camera.optical_frame
    expected = f"one pinhole view throughout, of frame {frame}"
    found, problem = set(), ""
    for info in recorded.infos[camera.name]:
        if info.header.frame_id not in (frame, camera.optical_frame):
            problem = problem or f"frame {info.header.frame_id}"
            continue
        try:
            found.add(messages.intrinsics(info, info.header.frame_id))
        except ObservationError as error:
            problem = problem or str(error)
    if len(found) != 1:
        told = f"{len(found)} different ones" + (f"; {problem}" if problem else "")
        advice = "give the CameraInfo of the rectified images, and `frame` as its headers name it"
        return None, Finding("camera info", expected, told, Status.NOT_OK, advice)
    view = found.pop()
    told = f"{view.width}x{view.height}, focal length {view.fx:.1f}, {view.fy:.1f}"
    return view, Finding("camera info", expected, told)


def camera_pose(
    transforms: Sequence[Any], mapping: ImportMapping, robot: RobotConfig, camera: CameraConfig
) -> tuple[Floats | None, Finding]:
    """Optical frame in the base frame, [4, 4], None if it is not known."""
    described = pose_from_xyz_rpy(camera.xyz, camera.rpy)
    mapped = mapping.cameras[camera.name]
    if mapping.extrinsics.source == "robot" or mapped.in_base_frame:
        source = "points are in the base frame" if mapped.in_base_frame else "robot description"
        return described, Finding("extrinsics", "pose of the camera in the base frame", source)
    base = mapping.extrinsics.base_frame or robot.base_frame
    frame = mapped.frame or camera.optical_frame
    expected = f"one fixed transform from {base} to {frame}"
    try:
        pose = _chained(transforms, base, frame)
    except ObservationError as error:
        advice = "set extrinsics.base_frame and cameras.frame, or extrinsics.source: robot"
        return None, Finding("extrinsics", expected, str(error), Status.NOT_OK, advice)
    apart_m = float(np.linalg.norm(pose[:3, 3] - described[:3, 3]))
    cosine = (np.trace(pose[:3, :3].T @ described[:3, :3]) - 1.0) / 2.0
    apart_rad = float(np.arccos(np.clip(cosine, -1.0, 1.0)))
    found = f"{1000.0 * apart_m:.0f} mm and {apart_rad:.2f} rad from the robot description"
    if apart_m > _FAR_M or apart_rad > _FAR_RAD:
        advice = "was the camera moved, or is the frame another one? The recorded pose is used"
        return pose, Finding("extrinsics", expected, found, Status.WARNING, advice)
    return pose, Finding("extrinsics", expected, found)


def _chained(transforms: Sequence[Any], base: str, frame: str) -> Floats:
    """Pose of a frame in the base through the transforms between, [4, 4].

    Raises:
        ObservationError: If they do not lead there, or one changes.
    """
    by_child: dict[str, tuple[str, Floats]] = {}
    moving: set[str] = set()
    for each in transforms:
        child, parent = each.child_frame_id.lstrip("/"), each.header.frame_id.lstrip("/")
        pose = messages.transform_matrix(each.transform)
        first = by_child.setdefault(child, (parent, pose))
        if not np.allclose(first[1], pose, atol=_STILL):
            moving.add(child)
    found, at = np.eye(4), frame.lstrip("/")
    for _ in range(len(by_child) + 1):
        if at == base.lstrip("/"):
            return found
        if at not in by_child:
            raise ObservationError(f"no transform leads from {base} to {frame}; {at} has none")
        if at in moving:
            raise ObservationError(f"the transform of {at} changes; a camera must be fixed")
        at, pose = by_child[at]
        found = pose @ found
    raise ObservationError(f"the transforms from {base} to {frame} go round in a circle")
