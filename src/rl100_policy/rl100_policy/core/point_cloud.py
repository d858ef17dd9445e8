# SPDX-License-Identifier: Apache-2.0
"""From a depth image to the point cloud the policy sees.

The one path shared by the live node, the learner and the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import fpsample
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import WorkspaceBox
from rl100_policy.core.errors import ObservationError

Floats = NDArray[np.float32]

BUCKET_THRESHOLD = 4096
"""Above this many points the bucketed kd-tree form of farthest-point sampling is faster than the
plain one."""
_BLOCK = 16
"""Points are moved in whole blocks of this many: of an unfinished one BLAS rounds differently, and
then the bits of a point would depend on how many others there are."""


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole model without distortion; pixel (u, v) is at its integer centre.

    All values are in pixels.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        """Refuse what cannot be a camera."""
        finite = np.isfinite([self.fx, self.fy, self.cx, self.cy]).all()
        if not finite or self.fx <= 0 or self.fy <= 0 or self.width <= 0 or self.height <= 0:
            raise ObservationError(
                f"expected finite intrinsics with positive focal lengths and size, got {self}",
                reason="bad CameraInfo",
            )


def deproject(
    depth_m: Floats, intrinsics: Intrinsics, pixels: NDArray[np.int64] | None = None
) -> Floats:
    """Points of pixels in the optical frame, x = (u - cx) z / fx, y = (v - cy) z / fy.

    Args:
        depth_m: Distance along the optical axis, [H, W], m.
        intrinsics: Of the camera that took the image.
        pixels: Indices into the flat image, [P]; None for all of it.

    Returns:
        [P, 3] or [H * W, 3], m, optical frame (z forward, x right, y down).

    Raises:
        ObservationError: If the image size is not the one of the intrinsics.
    """
    if depth_m.shape != (intrinsics.height, intrinsics.width):
        raise ObservationError(
            f"depth image is {depth_m.shape[1]}x{depth_m.shape[0]} but CameraInfo says "
            f"{intrinsics.width}x{intrinsics.height}; check that both topics come from one camera",
            reason="CameraInfo of another size",
        )
    depth, (x, y) = depth_m.ravel(), _slopes(intrinsics)
    if pixels is not None:
        depth, x, y = depth[pixels], x[pixels], y[pixels]
    points = np.empty((len(depth), 3), dtype=np.float32)
    np.multiply(depth, x, out=points[:, 0])
    np.multiply(depth, y, out=points[:, 1])
    points[:, 2] = depth
    return points


@lru_cache(maxsize=4)
def _slopes(intrinsics: Intrinsics) -> tuple[Floats, Floats]:
    """Slopes x / z and y / z of the rays of all pixels, [H * W] each."""
    focal = np.float32(intrinsics.fx), np.float32(intrinsics.fy)
    u = np.arange(intrinsics.width, dtype=np.float32) - np.float32(intrinsics.cx)
    v = np.arange(intrinsics.height, dtype=np.float32) - np.float32(intrinsics.cy)
    return np.tile(u / focal[0], intrinsics.height), np.repeat(v / focal[1], intrinsics.width)


def transform(points: Floats, t_target_source: NDArray[np.float64]) -> Floats:
    """Points expressed in another frame: p_target = R p_source + t.

    Args:
        points: [N, 3], m, source frame.
        t_target_source: Homogeneous transform, [4, 4].

    Returns:
        [N, 3], m, target frame.
    """
    rotation, translation = (
        t_target_source[:3, :3].astype(np.float32),
        t_target_source[:3, 3].astype(np.float32),
    )
    count = len(points)
    filled = np.zeros((count + -count % _BLOCK, 3), dtype=points.dtype)
    filled[:count] = points
    moved = np.empty((3, len(filled)), dtype=points.dtype)  # what follows reads it axis by axis
    for axis in range(3):
        # Three matrix-vector products: far faster than one product with a 3 x 3 matrix.
        np.add(filled @ rotation[axis], translation[axis], out=moved[axis])
    return moved[:, :count].T


def crop_to_box(points: Floats, box: WorkspaceBox) -> Floats:
    """Points inside an axis-aligned box, bounds included; non-finite points are outside.

    Args:
        points: [N, 3], m, the frame of the box.
        box: Bounds.

    Returns:
        [M, 3], M <= N, order kept.
    """
    inside = np.isfinite(points[:, 0])
    for axis in range(3):
        inside &= (points[:, axis] >= box.low[axis]) & (points[:, axis] <= box.high[axis])
    return np.ascontiguousarray(points[inside])


def farthest_point_sample(points: Floats, n_points: int) -> Floats:
    """Subset that covers the cloud.

    Each next point is the one farthest from those chosen, starting with the first.
    Deterministic; equal clouds give equal samples.

    Args:
        points: [N, 3], N >= n_points.
        n_points: Size of the subset.

    Returns:
        [n_points, 3] in order of choice.
    """
    if len(points) > BUCKET_THRESHOLD:
        chosen = fpsample.bucket_fps_kdline_sampling(points, n_points, h=5, start_idx=0)
    else:
        chosen = fpsample.fps_sampling(points, n_points, start_idx=0)
    sampled: Floats = points[chosen]
    return sampled


def sample_cloud(points: Floats, n_points: int, min_points: int) -> Floats:
    """Exactly n_points points: farthest-point sampled, or tiled when there are too few.

    Args:
        points: Cropped cloud, [M, 3], m.
        n_points: Points wanted.
        min_points: Fewest points that still count as a view of the scene.

    Returns:
        [n_points, 3], float32.

    Raises:
        ObservationError: If M < min_points; names both and what to check.
    """
    if len(points) < min_points:
        what = (
            "the crop is empty"
            if len(points) == 0
            else f"only {len(points)} points are left after the crop"
        )
        raise ObservationError(
            f"{what}, at least {min_points} are needed; check the crop box, "
            "the camera extrinsics and that the view is free",
            reason="too few points in the crop" if len(points) else "empty crop",
        )
    if len(points) < n_points:
        return points[np.arange(n_points) % len(points)]
    return farthest_point_sample(points, n_points)


def depth_to_cloud(
    depth_m: Floats,
    intrinsics: Intrinsics,
    t_base_camera: NDArray[np.float64],
    crop: WorkspaceBox,
    n_points: int,
    min_points: int,
    *,
    depth_range_m: tuple[float, float],
) -> Floats:
    """The observation of one depth frame: deproject, transform, crop, sample.

    Readings of zero, NaN, infinity, or outside ``depth_range_m`` are no readings and are left out.

    Args:
        depth_m: [H, W], float32, m along the optical axis.
        intrinsics: Of the camera.
        t_base_camera: Optical frame in the base frame, [4, 4].
        crop: Box in the base frame.
        n_points: Points of the result.
        min_points: Fewest points that still count as a view of the scene.
        depth_range_m: Valid readings, nearest and farthest [m].

    Returns:
        [n_points, 3], float32, m, base frame.

    Raises:
        ObservationError: If image and intrinsics disagree in size or too few points are left.
    """
    low, high = depth_range_m
    with np.errstate(invalid="ignore"):
        valid = np.flatnonzero((depth_m >= low) & (depth_m <= high))
    points = transform(deproject(depth_m, intrinsics, valid), t_base_camera)
    return sample_cloud(crop_to_box(points, crop), n_points, min_points)
