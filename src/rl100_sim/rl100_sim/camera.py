# SPDX-License-Identifier: Apache-2.0
"""A depth camera by ray casting: no graphics, 16-bit millimetre images as from a real sensor."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import CameraConfig, WorkspaceBox
from rl100_policy.core.errors import ConfigError
from rl100_sim.arm_model import GROUP_ARM, GROUP_DECORATION, GROUP_OBJECT
from rl100_sim.ray_caster import Floats, Mask, RayCaster

DepthImage = NDArray[np.uint16]

DEPTH_NOISE = 0.001
"""Standard deviation of a reading [m]."""
DROPOUT_SHARE = 0.005
"""Share of pixels without a reading in every frame."""
_MILLIMETRE = 0.001


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
    """Depth images of one world from a fixed pinhole camera."""

    def __init__(self, model: mujoco.MjModel, config: CameraConfig) -> None:
        """Place the camera in the base frame and cast what never moves."""
        self.config = config
        self._rays = RayCaster(model, config)
        self.t_base_camera = self._rays.t_base_camera

    def view(self, box: WorkspaceBox) -> View:
        """Where the rays are inside a box of the base frame, or within a millimetre of it.

        That is more than what is lost by rounding a reading, and computing its point in single
        precision.
        """
        low, high = np.array(box.low) - _MILLIMETRE, np.array(box.high) + _MILLIMETRE
        with np.errstate(divide="ignore", invalid="ignore"):
            to_low = (low - self._rays.origin) / self._rays.directions
            to_high = (high - self._rays.origin) / self._rays.directions
        # A ray along a face has 0 / 0 there; fmin and fmax look at its other faces.
        enters = np.fmax.reduce(np.fmin(to_low, to_high), axis=1)
        leaves = np.fmin.reduce(np.fmax(to_low, to_high), axis=1)
        meets = (enters <= leaves) & (leaves >= 0.0)
        return View(
            low,
            high,
            np.where(meets, enters * self._rays.z_per_length - _MILLIMETRE, np.inf),
            np.where(meets, leaves * self._rays.z_per_length + _MILLIMETRE, -np.inf),
            meets,
        )

    def true_depth(self, data: mujoco.MjData) -> Floats:
        """Exact depth along the optical axis, [H, W], m; infinite where nothing is hit.

        Args:
            data: State of the model given at construction, kinematics up to date.
        """
        return self._rays.hits(data).depth.reshape(self.config.height, self.config.width)

    def _depth_in(self, view: View, data: mujoco.MjData, error: NDArray[np.float32]) -> Floats:
        """Depth [H * W], m, that with some error added shows the same in a view as the true one.

        The arm is cast where it covers what would show in the view, and wherever a part of it that
        may itself show there is. Elsewhere it may be missing: neither it nor what it hides shows.
        """
        rays = self._rays
        found, bounds = rays.still.copy(), rays.bounds(data)
        rectangles = rays.rectangles(bounds)
        rays.cast(data, rays.covered(rectangles[~rays.is_arm]) & view.meets, GROUP_OBJECT, found)
        reach = (float(np.abs(error).max()) + _MILLIMETRE) / rays.z_per_length.min()
        near = (bounds.max(axis=1) >= view.low - reach) & (bounds.min(axis=1) <= view.high + reach)
        hides = rays.covered(rectangles[rays.is_arm]) & view.shows(found.depth + error)
        enters = rays.covered(rectangles[rays.is_arm & near.all(axis=1)]) & view.meets
        rays.cast(data, hides | enters, GROUP_ARM, found)
        return found.depth

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
