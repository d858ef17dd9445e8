# SPDX-License-Identifier: Apache-2.0
"""A depth camera by ray casting: no graphics, 16-bit millimetre images as from a real sensor."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import CameraConfig, WorkspaceBox
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_sim.arm_model import GROUP_ARM, GROUP_DECORATION, GROUP_OBJECT, GROUP_STATIC

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
DepthImage = NDArray[np.uint16]

DEPTH_NOISE = 0.001
"""Standard deviation of a reading [m]."""
DROPOUT_SHARE = 0.005
"""Share of pixels without a reading in every frame."""
_MILLIMETRE = 0.001
_NEAR = 0.01
"""A bounding box nearer than this to the camera plane [m] is taken to cover the image."""
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)


@dataclass(frozen=True)
class View:
    """Where the rays of a camera are inside a box of the base frame."""

    low: Floats
    """Corner of the box, [3], m."""
    high: Floats
    nearest: Floats
    """Depth at which the ray of each pixel enters, [H * W], m; infinite where it misses."""
    farthest: Floats
    """Depth at which it leaves, [H * W], m; minus infinity where it misses."""
    meets: Mask
    """Whether the ray of each pixel meets the box, [H * W]."""

    def shows(self, reading: Floats) -> Mask:
        """Whether each reading, [H * W], m, may be a point in the box."""
        return (reading >= self.nearest) & (reading <= self.farthest)


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
        self._moving = np.flatnonzero(np.isin(model.geom_group, (GROUP_ARM, GROUP_OBJECT)))
        self._is_arm: Mask = model.geom_group[self._moving] == GROUP_ARM
        boxes = model.geom_aabb[self._moving, None]
        self._corners: Floats = boxes[..., :3] + boxes[..., 3:] * _CORNERS
        """Of the bounding boxes of what moves, in the frames of the geoms, [M, 8, 3], m."""
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        self._still = np.full(config.height * config.width, np.inf)
        self._cast(data, np.ones(len(self._still), dtype=bool), GROUP_STATIC, self._still)

    def _rays(self) -> tuple[Floats, Floats]:
        """Unit directions [H * W, 3], base frame, and depth per unit of ray length [H * W]."""
        c = self.config
        u, v = np.meshgrid(np.arange(c.width), np.arange(c.height))
        optical = np.stack(
            [(u - c.cx) / c.fx, (v - c.cy) / c.fy, np.ones(u.shape)], axis=-1
        ).reshape(-1, 3)
        length = np.linalg.norm(optical, axis=1)
        return optical @ self.t_base_camera[:3, :3].T / length[:, None], 1.0 / length

    def view(self, box: WorkspaceBox) -> View:
        """Where the rays are inside a box of the base frame, or within a millimetre of it.

        That is more than what is lost by rounding a reading, and computing its point in single
        precision.
        """
        low, high = np.array(box.low) - _MILLIMETRE, np.array(box.high) + _MILLIMETRE
        with np.errstate(divide="ignore", invalid="ignore"):
            to_low = (low - self._origin) / self._directions
            to_high = (high - self._origin) / self._directions
        # A ray along a face has 0 / 0 there; fmin and fmax look at its other faces.
        enters = np.fmax.reduce(np.fmin(to_low, to_high), axis=1)
        leaves = np.fmin.reduce(np.fmax(to_low, to_high), axis=1)
        meets = (enters <= leaves) & (leaves >= 0.0)
        return View(
            low,
            high,
            np.where(meets, enters * self._z_per_length - _MILLIMETRE, np.inf),
            np.where(meets, leaves * self._z_per_length + _MILLIMETRE, -np.inf),
            meets,
        )

    def _cast(self, data: mujoco.MjData, mask: Mask, group: int, depth: Floats) -> None:
        """Bring pixels of a depth image, [H * W], m, nearer where a geom of a group is hit."""
        pixels = np.flatnonzero(mask)
        if len(pixels) == 0:
            return
        groups = (np.arange(mujoco.mjNGROUP) == group).astype(np.uint8)
        length = np.empty(len(pixels))
        geom = np.empty(len(pixels), dtype=np.int32)
        mujoco.mj_multiRay(
            self._model,
            data,
            self._origin,
            self._directions[pixels].ravel(),
            groups,
            1,
            -1,
            geom,
            length,
            len(pixels),
            mujoco.mjMAXVAL,
        )
        found = np.where(geom < 0, np.inf, length * self._z_per_length[pixels])
        depth[pixels] = np.minimum(depth[pixels], found)

    def _bounds(self, data: mujoco.MjData) -> Floats:
        """Corners of the bounding boxes of all moving geoms in the base frame, [M, 8, 3], m."""
        axes = data.geom_xmat[self._moving].reshape(-1, 3, 3)
        return self._corners @ axes.transpose(0, 2, 1) + data.geom_xpos[self._moving, None]

    def _rectangles(self, bounds: Floats) -> NDArray[np.int64]:
        """Pixels that some bounding boxes, [M, 8, 3], can cover: v, u from and v, u to, [M, 4]."""
        c = self.config
        size, focal, centre = (
            np.array(pair) for pair in ((c.height, c.width), (c.fy, c.fx), (c.cy, c.cx))
        )
        optical = (bounds - self._origin) @ self.t_base_camera[:3, :3]
        depth = optical[..., 2]
        pixels = optical[..., 1::-1] / np.maximum(depth, _NEAR)[..., None] * focal + centre
        low, high = np.floor(pixels.min(axis=1)), np.ceil(pixels.max(axis=1)) + 1.0
        crosses = depth.min(axis=1) < _NEAR
        low[crosses], high[crosses] = 0, size
        high[depth.max(axis=1) <= 0.0] = 0
        return np.concatenate([low, high], axis=1).clip(0, np.tile(size, 2)).astype(int)

    def _covered(self, rectangles: NDArray[np.int64]) -> Mask:
        """Which pixels, [H * W], are in any of some rectangles."""
        covered = np.zeros((self.config.height, self.config.width), dtype=bool)
        for v_low, u_low, v_high, u_high in rectangles.tolist():
            covered[v_low:v_high, u_low:u_high] = True
        return covered.ravel()

    def true_depth(self, data: mujoco.MjData) -> Floats:
        """Exact depth along the optical axis, [H, W], m; infinite where nothing is hit.

        Args:
            data: State of the model given at construction, kinematics up to date.
        """
        depth = self._still.copy()
        rectangles = self._rectangles(self._bounds(data))
        self._cast(data, self._covered(rectangles[~self._is_arm]), GROUP_OBJECT, depth)
        self._cast(data, self._covered(rectangles[self._is_arm]), GROUP_ARM, depth)
        return depth.reshape(self.config.height, self.config.width)

    def _depth_in(self, view: View, data: mujoco.MjData, error: NDArray[np.float32]) -> Floats:
        """Depth [H * W], m, that with some error added shows the same in a view as the true one.

        The arm is cast where it covers what would show in the view, and wherever a part of it that
        may itself show there is. Elsewhere it may be missing: neither it nor what it hides shows.
        """
        depth, bounds = self._still.copy(), self._bounds(data)
        rectangles = self._rectangles(bounds)
        self._cast(
            data, self._covered(rectangles[~self._is_arm]) & view.meets, GROUP_OBJECT, depth
        )
        reach = (float(np.abs(error).max()) + _MILLIMETRE) / self._z_per_length.min()
        near = (bounds.max(axis=1) >= view.low - reach) & (bounds.min(axis=1) <= view.high + reach)
        hides = self._covered(rectangles[self._is_arm]) & view.shows(depth + error)
        enters = self._covered(rectangles[self._is_arm & near.all(axis=1)]) & view.meets
        self._cast(data, hides | enters, GROUP_ARM, depth)
        return depth

    def render(
        self, data: mujoco.MjData, rng: np.random.Generator, view: View | None = None
    ) -> DepthImage:
        """One frame as the sensor gives it: noisy, quantised, with missing readings.

        Args:
            data: State of the model given at construction, kinematics up to date.
            rng: Source of the sensor noise; advanced by the same amount for every frame.
            view: What is of interest: readings that are no points of its box are left out, which
                is faster, and those that are points of it are the ones of the whole frame.

        Returns:
            [H, W], uint16, mm along the optical axis; 0 where there is no reading (drop-out,
            nothing hit, out of range).
        """
        c = self.config
        noise = rng.standard_normal(c.height * c.width, dtype=np.float32)
        dropped = rng.random(c.height * c.width, dtype=np.float32) < DROPOUT_SHARE
        error = DEPTH_NOISE * noise
        if view is None:
            reading = self.true_depth(data).ravel() + error
            valid = ~dropped
        else:
            reading = self._depth_in(view, data, error) + error
            valid = view.shows(reading) & ~dropped
        valid &= (reading >= c.depth_min) & (reading <= c.depth_max)
        image = np.zeros(c.height * c.width, dtype=np.uint16)
        image[valid] = np.rint(reading[valid] / _MILLIMETRE)
        return image.reshape(c.height, c.width)


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
