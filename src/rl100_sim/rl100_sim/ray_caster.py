# SPDX-License-Identifier: Apache-2.0
"""What the rays of a fixed pinhole camera hit in a MuJoCo world: no graphics needed."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import CameraConfig
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_sim.arm_model import GROUP_ARM, GROUP_OBJECT, GROUP_STATIC

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_NEAR = 0.01
"""A bounding box nearer than this to the camera plane [m] is taken to cover the image."""
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)


@dataclass(frozen=True)
class Hits:
    """The nearest surface at each pixel so far; changed in place.

    Attributes:
        depth: Along the optical axis, [H * W], m; infinite where nothing is hit.
        geom: Geom that is hit, [H * W] int32; -1 where none is.
    """

    depth: Floats
    geom: NDArray[np.int32]

    def copy(self) -> Hits:
        """The same hits in arrays of their own."""
        return Hits(self.depth.copy(), self.geom.copy())


class RayCaster:
    """Rays of one camera in one world; pixel (u, v) has its centre there.

    Surfaces that never move are cast once. Per frame only the pixels that the bounding box of a
    moving geom can cover are cast, which gives the same image as casting all of them.
    """

    def __init__(self, model: mujoco.MjModel, config: CameraConfig) -> None:
        """Place the camera in the base frame and cast what never moves."""
        self.config = config
        self.t_base_camera: Floats = pose_from_xyz_rpy(config.xyz, config.rpy)
        self._model = _linear_scan_model(model)
        self.origin = np.ascontiguousarray(self.t_base_camera[:3, 3])
        self.directions, self.z_per_length = self._rays()
        self._moving = np.flatnonzero(np.isin(model.geom_group, (GROUP_ARM, GROUP_OBJECT)))
        self.is_arm: Mask = model.geom_group[self._moving] == GROUP_ARM
        boxes = model.geom_aabb[self._moving, None]
        self._corners: Floats = boxes[..., :3] + boxes[..., 3:] * _CORNERS
        """Of the bounding boxes of what moves, in the frames of the geoms, [M, 8, 3], m."""
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        count = config.height * config.width
        self.still = Hits(np.full(count, np.inf), np.full(count, -1, dtype=np.int32))
        """Of what never moves."""
        self.cast(data, np.ones(count, dtype=bool), GROUP_STATIC, self.still)

    def _rays(self) -> tuple[Floats, Floats]:
        """Unit directions [H * W, 3], base frame, and depth per unit of ray length [H * W]."""
        c = self.config
        u, v = np.meshgrid(np.arange(c.width), np.arange(c.height))
        optical = np.stack(
            [(u - c.cx) / c.fx, (v - c.cy) / c.fy, np.ones(u.shape)], axis=-1
        ).reshape(-1, 3)
        length = np.linalg.norm(optical, axis=1)
        return optical @ self.t_base_camera[:3, :3].T / length[:, None], 1.0 / length

    def cast(self, data: mujoco.MjData, mask: Mask, group: int, hits: Hits) -> None:
        """Add what is hit of a group of geoms at some pixels, [H * W], where it is nearer."""
        pixels = np.flatnonzero(mask)
        if len(pixels) == 0:
            return
        groups = (np.arange(mujoco.mjNGROUP) == group).astype(np.uint8)
        length = np.empty(len(pixels))
        geom = np.empty(len(pixels), dtype=np.int32)
        mujoco.mj_multiRay(
            self._model,
            data,
            self.origin,
            self.directions[pixels].ravel(),
            groups,
            1,
            -1,
            geom,
            length,
            len(pixels),
            mujoco.mjMAXVAL,
        )
        found = np.where(geom < 0, np.inf, length * self.z_per_length[pixels])
        nearer = found < hits.depth[pixels]
        hits.depth[pixels[nearer]] = found[nearer]
        hits.geom[pixels[nearer]] = geom[nearer]

    def bounds(self, data: mujoco.MjData) -> Floats:
        """Corners of the bounding boxes of all moving geoms in the base frame, [M, 8, 3], m."""
        axes = data.geom_xmat[self._moving].reshape(-1, 3, 3)
        return self._corners @ axes.transpose(0, 2, 1) + data.geom_xpos[self._moving, None]

    def rectangles(self, bounds: Floats) -> NDArray[np.int64]:
        """Pixels that some bounding boxes, [M, 8, 3], can cover: v, u from and v, u to, [M, 4]."""
        c = self.config
        size, focal, centre = (
            np.array(pair) for pair in ((c.height, c.width), (c.fy, c.fx), (c.cy, c.cx))
        )
        optical = (bounds - self.origin) @ self.t_base_camera[:3, :3]
        depth = optical[..., 2]
        pixels = optical[..., 1::-1] / np.maximum(depth, _NEAR)[..., None] * focal + centre
        low, high = np.floor(pixels.min(axis=1)), np.ceil(pixels.max(axis=1)) + 1.0
        crosses = depth.min(axis=1) < _NEAR
        low[crosses], high[crosses] = 0, size
        high[depth.max(axis=1) <= 0.0] = 0
        return np.concatenate([low, high], axis=1).clip(0, np.tile(size, 2)).astype(int)

    def covered(self, rectangles: NDArray[np.int64]) -> Mask:
        """Which pixels, [H * W], are in any of some rectangles."""
        covered = np.zeros((self.config.height, self.config.width), dtype=bool)
        for v_low, u_low, v_high, u_high in rectangles.tolist():
            covered[v_low:v_high, u_low:u_high] = True
        return covered.ravel()

    def hits(self, data: mujoco.MjData) -> Hits:
        """What every pixel shows.

        Args:
            data: State of the model given at construction, kinematics up to date.
        """
        found = self.still.copy()
        rectangles = self.rectangles(self.bounds(data))
        self.cast(data, self.covered(rectangles[~self.is_arm]), GROUP_OBJECT, found)
        self.cast(data, self.covered(rectangles[self.is_arm]), GROUP_ARM, found)
        return found


def _linear_scan_model(model: mujoco.MjModel) -> mujoco.MjModel:
    """Copy of a model without the bounding volumes of bodies.

    MuJoCo 3.3 builds them from collision geoms only and mj_multiRay skips a body when a ray misses
    them, so visible geoms would be transparent. Without them it tests every geom, as mj_ray does.
    """
    scanned = copy.copy(model)
    scanned.body_bvhadr[:] = -1
    return scanned
