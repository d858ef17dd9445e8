# SPDX-License-Identifier: Apache-2.0
"""A depth camera by ray casting: no graphics, 16-bit millimetre images as from a real sensor."""

from __future__ import annotations

import copy

import mujoco
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import CameraConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_sim.arm_model import GROUP_ARM, GROUP_DECORATION, GROUP_OBJECT, GROUP_STATIC

Floats = NDArray[np.float64]
DepthImage = NDArray[np.uint16]

DEPTH_NOISE = 0.001
"""Standard deviation of a reading [m]."""
DROPOUT_SHARE = 0.005
"""Share of pixels without a reading in every frame."""
_MILLIMETRE = 0.001
_NEAR = 0.01
"""A bounding box nearer than this to the camera plane [m] is taken to cover the image."""
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
_GROUP_UNSEEN = 5


class DepthCamera:
    """Depth images of one world from a fixed pinhole camera; pixel (u, v) has its centre there.

    Surfaces that never move are cast once. Per frame only the pixels that the bounding box of a
    moving geom can cover are cast, which gives the same image as casting all of them.
    """

    def __init__(self, model: mujoco.MjModel, config: CameraConfig) -> None:
        """Place the camera in the base frame and cast what never moves."""
        self.config = config
        self.t_base_camera: Floats = pose_from_xyz_rpy(config.xyz, config.rpy)
        self._model = _linear_scan_model(model)
        self._origin = np.ascontiguousarray(self.t_base_camera[:3, 3])
        self._directions, self._z_per_length = self._rays()
        self._moving = {
            group: np.flatnonzero(model.geom_group == group) for group in (GROUP_ARM, GROUP_OBJECT)
        }
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        self._still = self._cast(data, np.arange(config.width * config.height), GROUP_STATIC)

    def _rays(self) -> tuple[Floats, Floats]:
        """Unit directions [H * W, 3], base frame, and depth per unit of ray length [H * W]."""
        c = self.config
        u, v = np.meshgrid(np.arange(c.width), np.arange(c.height))
        optical = np.stack(
            [(u - c.cx) / c.fx, (v - c.cy) / c.fy, np.ones(u.shape)], axis=-1
        ).reshape(-1, 3)
        length = np.linalg.norm(optical, axis=1)
        return optical @ self.t_base_camera[:3, :3].T / length[:, None], 1.0 / length

    def _cast(self, data: mujoco.MjData, pixels: NDArray[np.int64], group: int) -> Floats:
        """Depth at some pixels, [len(pixels)], m; infinite where no geom of the group is hit."""
        mask = (np.arange(mujoco.mjNGROUP) == group).astype(np.uint8)
        length = np.empty(len(pixels))
        geom = np.empty(len(pixels), dtype=np.int32)
        rays = self._directions[pixels].ravel()
        mujoco.mj_multiRay(
            self._model,
            data,
            self._origin,
            rays,
            mask,
            1,
            -1,
            geom,
            length,
            len(pixels),
            mujoco.mjMAXVAL,
        )
        return np.where(geom < 0, np.inf, length * self._z_per_length[pixels])

    def _view(self, data: mujoco.MjData, geoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the pixels inside the projected bounding box of any of these geoms.

        Geoms out of view are hidden from the next cast.
        """
        c = self.config
        centre, half = (
            self._model.geom_aabb[geoms, None, :3],
            self._model.geom_aabb[geoms, None, 3:],
        )
        axes = data.geom_xmat[geoms].reshape(-1, 3, 3)
        corners = (centre + half * _CORNERS) @ axes.transpose(0, 2, 1) + data.geom_xpos[
            geoms, None
        ]
        optical = (corners - self._origin) @ self.t_base_camera[:3, :3]
        depth = np.maximum(optical[..., 2], _NEAR)
        u, v = optical[..., 0] / depth * c.fx + c.cx, optical[..., 1] / depth * c.fy + c.cy
        low = np.floor([v.min(axis=1), u.min(axis=1)]).clip(0, [[c.height], [c.width]]).astype(int)
        high = (
            (np.ceil([v.max(axis=1), u.max(axis=1)]) + 1)
            .clip(0, [[c.height], [c.width]])
            .astype(int)
        )
        crosses = optical[..., 2].min(axis=1) < _NEAR
        low[:, crosses], high[:, crosses] = 0, [[c.height], [c.width]]
        seen = (low < high).all(axis=0) & (optical[..., 2].max(axis=1) > 0.0)
        self._model.geom_group[geoms] = np.where(
            seen, self._model.geom_group[geoms], _GROUP_UNSEEN
        )
        covered = np.zeros((c.height, c.width), dtype=bool)
        for v_low, u_low, v_high, u_high in np.concatenate([low, high])[:, seen].T:
            covered[v_low:v_high, u_low:u_high] = True
        return np.flatnonzero(covered)

    def true_depth(self, data: mujoco.MjData) -> Floats:
        """Exact depth along the optical axis, [H, W], m; infinite where nothing is hit.

        Args:
            data: State of the model given at construction, kinematics up to date.
        """
        depth = self._still.copy()
        for group, geoms in self._moving.items():
            self._model.geom_group[geoms] = group
            pixels = self._view(data, geoms)
            if len(pixels) > 0:
                depth[pixels] = np.minimum(depth[pixels], self._cast(data, pixels, group))
        return depth.reshape(self.config.height, self.config.width)

    def render(self, data: mujoco.MjData, rng: np.random.Generator) -> DepthImage:
        """One frame as the sensor gives it: noisy, quantised, with missing readings.

        Args:
            data: State of the model given at construction, kinematics up to date.
            rng: Source of the sensor noise; advanced by the same amount for every frame.

        Returns:
            [H, W], uint16, mm along the optical axis; 0 where there is no reading (drop-out,
            nothing hit, out of range).
        """
        depth = self.true_depth(data)
        noise = rng.standard_normal(depth.shape, dtype=np.float32)
        dropped = rng.random(depth.shape, dtype=np.float32) < DROPOUT_SHARE
        depth += DEPTH_NOISE * noise
        with np.errstate(invalid="ignore"):
            valid = (depth >= self.config.depth_min) & (depth <= self.config.depth_max) & ~dropped
        return np.where(valid, np.rint(depth / _MILLIMETRE), 0.0).astype(np.uint16)


def _linear_scan_model(model: mujoco.MjModel) -> mujoco.MjModel:
    """Copy of a model without the bounding volumes of bodies.

    MuJoCo 3.3 builds them from collision geoms only and mj_multiRay skips a body when a ray misses
    them, so visible geoms would be transparent. Without them it tests every geom, as mj_ray does.
    """
    scanned = copy.copy(model)
    scanned.body_bvhadr[:] = -1
    return scanned


def depth_in_metres(image: DepthImage) -> NDArray[np.float32]:
    """Depth in metres from a 16-bit millimetre image, [H, W], float32; no reading stays 0."""
    return image.astype(np.float32) * np.float32(_MILLIMETRE)


def render_rgb(
    model: mujoco.MjModel, data: mujoco.MjData, camera: str, width: int, height: int
) -> NDArray[np.uint8]:
    """A colour picture for people, [height, width, 3].

    Needs OpenGL; on a machine without a screen set MUJOCO_GL=egl or osmesa.

    Raises:
        ConfigError: If no OpenGL context can be made.
    """
    try:
        renderer = mujoco.Renderer(model, height, width)
    except (RuntimeError, AttributeError, ImportError, mujoco.FatalError) as error:
        raise ConfigError(
            f"a colour picture needs OpenGL, which is not usable here ({error}); "
            "set MUJOCO_GL=egl or osmesa, or render depth only"
        ) from error
    options = mujoco.MjvOption()
    options.geomgroup[GROUP_DECORATION] = 1
    try:
        renderer.update_scene(data, camera, scene_option=options)
        return renderer.render()
    finally:
        renderer.close()
