# SPDX-License-Identifier: Apache-2.0
"""A colour camera by ray casting: no graphics, matt surfaces in the colours of their geoms."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import CameraConfig
from rl100_policy.core.image import Pixels
from rl100_sim.ray_caster import Hits, RayCaster

COLOUR_NOISE = 2.0
"""Standard deviation of a channel of a pixel, of 255."""
_BACKGROUND = (0.75, 0.80, 0.85)
_TO_LIGHT = np.array([0.35, -0.45, 0.82]) / np.linalg.norm([0.35, -0.45, 0.82])
"""Direction in the base frame from which light comes."""
_AMBIENT = 0.5
"""Share of the light that comes from everywhere."""


class ColourCamera:
    """Colour images of one world from a fixed pinhole camera."""

    def __init__(self, model: mujoco.MjModel, config: CameraConfig) -> None:
        """Place the camera in the base frame and cast what never moves."""
        self.config = config
        self._rays = RayCaster(model, config)
        # The last colour is that of geom -1: where nothing is hit.
        self._colours = np.concatenate([model.geom_rgba[:, :3], [_BACKGROUND]]).astype(np.float32)

    def true_colour(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Colours without noise, [H, W, 3], 0 to 255.

        Args:
            data: State of the model given at construction, kinematics up to date.
        """
        c, found = self.config, self._rays.hits(data)
        colours = self._colours[found.geom].reshape(c.height, c.width, 3)
        return 255.0 * colours * self._light(found)[..., None]

    def _light(self, found: Hits) -> NDArray[np.float32]:
        """Share of the light that each pixel throws back, [H, W]; all where nothing is hit.

        A surface's normal is that of the triangle with its neighbours to the right and below, so
        the outlines of things are a pixel wide.
        """
        c, hit = self.config, np.isfinite(found.depth)
        length = np.where(hit, found.depth, 0.0) / self._rays.z_per_length
        points = (length[:, None] * self._rays.directions).reshape(c.height, c.width, 3)
        right = np.diff(points, axis=1, append=2 * points[:, -1:] - points[:, -2:-1])
        down = np.diff(points, axis=0, append=2 * points[-1:] - points[-2:-1])
        normal = np.cross(down, right)
        cosine = normal @ _TO_LIGHT / np.maximum(np.linalg.norm(normal, axis=-1), 1e-12)
        lit = _AMBIENT + (1.0 - _AMBIENT) * np.maximum(cosine, 0.0)
        return np.where(hit.reshape(lit.shape), lit, 1.0).astype(np.float32)

    def render(self, data: mujoco.MjData, rng: np.random.Generator) -> Pixels:
        """One frame as the sensor gives it: noisy and quantised.

        Args:
            data: State of the model given at construction, kinematics up to date.
            rng: Source of the sensor noise; advanced by the same amount for every frame.

        Returns:
            [H, W, 3], uint8, red, green, blue.
        """
        colour = self.true_colour(data)
        noise = rng.standard_normal(colour.shape, dtype=np.float32)
        return np.rint(colour + np.float32(COLOUR_NOISE) * noise).clip(0, 255).astype(np.uint8)
