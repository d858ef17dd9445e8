# SPDX-License-Identifier: Apache-2.0
"""A depth camera by ray casting: no graphics, 16-bit millimetre images as from a real sensor."""

from __future__ import annotations

import copy

import mujoco
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import CameraConfig, WorkspaceBox
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_sim.arm_model import GROUP_ARM, GROUP_DECORATION, GROUP_OBJECT, GROUP_STATIC

Floats = NDArray[np.float64]
Pixels = NDArray[np.int64]
"""Indices into an image whose rows follow one another, ascending."""
DepthImage = NDArray[np.uint16]

DEPTH_NOISE = 0.001
"""Standard deviation of a reading [m]."""
DROPOUT_SHARE = 0.005
"""Share of pixels without a reading in every frame."""
_MILLIMETRE = 0.001
_NEAR = 0.01
"""A bounding box nearer than this to the camera plane [m] is taken to cover the image."""
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
_GROUP_MOVING, _GROUP_UNSEEN = 1, 5
_GRAZE = 1e-4
"""A ray that misses a box by less than this [m] is taken to meet it: far more than what is lost
where points are computed in single precision."""


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
        self._all = np.arange(config.width * config.height)
        self._moving = np.flatnonzero(np.isin(model.geom_group, (GROUP_ARM, GROUP_OBJECT)))
        box = model.geom_aabb[self._moving, None]
        self._corners: Floats = box[..., :3] + box[..., 3:] * _CORNERS
        """Of the bounding boxes of what moves, in the frames of the geoms, [M, 8, 3], m."""
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        self._still = self._cast(data, self._all, GROUP_STATIC)

    def _rays(self) -> tuple[Floats, Floats]:
        """Unit directions [H * W, 3], base frame, and depth per unit of ray length [H * W]."""
        c = self.config
        u, v = np.meshgrid(np.arange(c.width), np.arange(c.height))
        optical = np.stack(
            [(u - c.cx) / c.fx, (v - c.cy) / c.fy, np.ones(u.shape)], axis=-1
        ).reshape(-1, 3)
        length = np.linalg.norm(optical, axis=1)
        return optical @ self.t_base_camera[:3, :3].T / length[:, None], 1.0 / length

    def pixels_through(self, box: WorkspaceBox) -> Pixels:
        """The pixels whose reading can be a point of a box in the base frame, whatever it is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            low = (np.array(box.low) - _GRAZE - self._origin) / self._directions
            high = (np.array(box.high) + _GRAZE - self._origin) / self._directions
        # A ray along a face of the box has 0 / 0 there, which says nothing: fmin and fmax skip it.
        enters = np.fmax.reduce(np.fmin(low, high), axis=1)
        leaves = np.fmin.reduce(np.fmax(low, high), axis=1)
        return np.flatnonzero((enters <= leaves) & (leaves >= 0.0))

    def _cast(self, data: mujoco.MjData, pixels: Pixels, group: int) -> Floats:
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

    def _view(self, data: mujoco.MjData) -> NDArray[np.bool_]:
        """Which pixels, [H, W], are inside the projected bounding box of anything that moves.

        What is out of view is hidden from the next cast.
        """
        c, rotation = self.config, self.t_base_camera[:3, :3]
        axes = data.geom_xmat[self._moving].reshape(-1, 3, 3)
        centres = (data.geom_xpos[self._moving] - self._origin) @ rotation
        optical = self._corners @ (rotation.T @ axes).transpose(0, 2, 1) + centres[:, None]
        depth = np.maximum(optical[..., 2], _NEAR)
        u, v = optical[..., 0] / depth * c.fx + c.cx, optical[..., 1] / depth * c.fy + c.cy
        size = np.array([[c.height], [c.width]])
        low = np.floor([v.min(axis=1), u.min(axis=1)]).clip(0, size).astype(int)
        high = (np.ceil([v.max(axis=1), u.max(axis=1)]) + 1).clip(0, size).astype(int)
        crosses = optical[..., 2].min(axis=1) < _NEAR
        low[:, crosses], high[:, crosses] = 0, size
        seen = (low < high).all(axis=0) & (optical[..., 2].max(axis=1) > 0.0)
        self._model.geom_group[self._moving] = np.where(seen, _GROUP_MOVING, _GROUP_UNSEEN)
        covered = np.zeros((c.height, c.width), dtype=bool)
        for v_low, u_low, v_high, u_high in np.concatenate([low, high])[:, seen].T.tolist():
            covered[v_low:v_high, u_low:u_high] = True
        return covered

    def true_depth(self, data: mujoco.MjData, pixels: Pixels | None = None) -> Floats:
        """Exact depth along the optical axis, [H, W], m; infinite where nothing is hit.

        Args:
            data: State of the model given at construction, kinematics up to date.
            pixels: Those that are looked at, None for all; at the others moving things may be
                missing.
        """
        depth = self._still.copy()
        covered = self._view(data).ravel()
        near = np.flatnonzero(covered) if pixels is None else pixels[covered[pixels]]
        if len(near) > 0:
            depth[near] = np.minimum(depth[near], self._cast(data, near, _GROUP_MOVING))
        return depth.reshape(self.config.height, self.config.width)

    def render(
        self, data: mujoco.MjData, rng: np.random.Generator, pixels: Pixels | None = None
    ) -> DepthImage:
        """One frame as the sensor gives it: noisy, quantised, with missing readings.

        Args:
            data: State of the model given at construction, kinematics up to date.
            rng: Source of the sensor noise; advanced by the same amount for every frame.
            pixels: Those that are looked at, None for all; the same numbers as in a whole frame.

        Returns:
            [H, W], uint16, mm along the optical axis; 0 where there is no reading (drop-out,
            nothing hit, out of range) and where nobody looks.
        """
        looked_at = self._all if pixels is None else pixels
        depth = self.true_depth(data, pixels)
        noise = rng.standard_normal(depth.shape, dtype=np.float32)
        dropped = rng.random(depth.shape, dtype=np.float32) < DROPOUT_SHARE
        reading = depth.ravel()[looked_at] + DEPTH_NOISE * noise.ravel()[looked_at]
        with np.errstate(invalid="ignore"):
            valid = (reading >= self.config.depth_min) & (reading <= self.config.depth_max)
        valid &= ~dropped.ravel()[looked_at]
        image = np.zeros(depth.shape, dtype=np.uint16)
        image.ravel()[looked_at[valid]] = np.rint(reading[valid] / _MILLIMETRE)
        return image


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
