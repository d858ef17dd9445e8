# SPDX-License-Identifier: Apache-2.0
"""What a policy sees of a simulated episode, by the code that serves the robot."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np

from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.observation import Visual
from rl100_policy.core.observed_cloud import CloudMaker
from rl100_policy.core.observed_image import ImageMaker
from rl100_policy.core.point_cloud import Intrinsics
from rl100_policy.core.sight import sight_maker
from rl100_sim.camera import depth_in_metres
from rl100_sim.episode import SimulatedEpisode


class Sight(Protocol):
    """One kind of sight of one episode."""

    key: str
    """Of what is seen in an observation of an environment."""
    space: gymnasium.spaces.Space[Any]

    def look(self) -> Visual:
        """What is seen now; ObservationError if that is too little."""


class CloudSight:
    """Points, [N, 3] float32, base frame [m], inside the crop."""

    key = "cloud"

    def __init__(self, episode: SimulatedEpisode, maker: CloudMaker) -> None:
        """Look into the crop through the maker's camera."""
        self._episode, self._maker = episode, maker
        c, crop, shape = maker.camera, maker.crop, (maker.observation.n_points, 3)
        self._intrinsics = Intrinsics(c.width, c.height, c.fx, c.fy, c.cx, c.cy)
        self._camera = episode.depth_camera(c)
        self._view = self._camera.view(crop)
        self.space: gymnasium.spaces.Space[Any] = gymnasium.spaces.Box(
            np.broadcast_to(np.array(crop.low, np.float32), shape),
            np.broadcast_to(np.array(crop.high, np.float32), shape),
            dtype=np.float32,
        )

    def look(self) -> Visual:
        """The cloud; ObservationError with too few points in the crop."""
        depth_m = depth_in_metres(self._episode.depth_mm(self._maker.camera, self._view))
        return self._maker.of_depth(depth_m, self._intrinsics, self._camera.t_base_camera)


class ImageSight:
    """Pixels, [H, W, 3] uint8, red, green, blue."""

    key = "image"

    def __init__(self, episode: SimulatedEpisode, maker: ImageMaker) -> None:
        """Look through the maker's camera."""
        self._episode, self._maker = episode, maker
        shape = (maker.observation.height, maker.observation.width, 3)
        self.space: gymnasium.spaces.Space[Any] = gymnasium.spaces.Box(0, 255, shape, np.uint8)

    def look(self) -> Visual:
        """The image."""
        return self._maker.of_pixels(self._episode.colour(self._maker.camera))


class NoSight:
    """A cloud of no points, [0, 3]: proprioception is all there is."""

    key = "cloud"
    space: gymnasium.spaces.Space[Any] = gymnasium.spaces.Box(0.0, 0.0, (0, 3), np.float32)

    def look(self) -> Visual:
        """Nothing."""
        return np.zeros((0, 3), np.float32)


def simulated_sight(episode: SimulatedEpisode, task: TaskConfig, robot: RobotConfig) -> Sight:
    """How a task is seen.

    Raises:
        ConfigError: If the robot has no camera for it.
    """
    match sight_maker(task, robot):
        case CloudMaker() as maker:
            return CloudSight(episode, maker)
        case ImageMaker() as maker:
            return ImageSight(episode, maker)
        case _:
            return NoSight()


def seen(observation: dict[str, Any]) -> Visual:
    """What is seen in an observation of an environment, whatever that is."""
    visual: Visual = observation["image"] if "image" in observation else observation["cloud"]
    return visual
