# SPDX-License-Identifier: Apache-2.0
"""What a task sees besides proprioception, and with which camera."""

from __future__ import annotations

from rl100_policy.core.config import (
    CameraConfig,
    ImageObservation,
    PointObservation,
    RobotConfig,
    TaskConfig,
)
from rl100_policy.core.observed_cloud import CloudMaker
from rl100_policy.core.observed_image import ImageMaker
from rl100_policy.core.policy_config import ObservationSize

SightMaker = CloudMaker | ImageMaker
"""From a camera's frame to what the policy sees: ``missing`` and ``make``."""


def sight_camera(task: TaskConfig, robot: RobotConfig, name: str = "") -> CameraConfig | None:
    """The camera that the observations of a task are made from.

    Args:
        task: The task.
        robot: Whose cameras there are.
        name: Of the camera; empty: the one that the task names, or the first of a kind that fits.

    Returns:
        The camera; None where proprioception is all there is.

    Raises:
        ConfigError: If the robot has no such camera.
    """
    observation = task.observation
    if not observation.camera_kinds:
        return None
    if isinstance(observation, ImageObservation):
        name = name or observation.camera or ""
    return robot.camera(name or None, observation.camera_kinds)


def sight_maker(task: TaskConfig, robot: RobotConfig, name: str = "") -> SightMaker | None:
    """What makes the observations of a task from the frames of its camera.

    Arguments and errors as :func:`sight_camera`, and ConfigError if the task asks for a part of
    the image that the camera does not have. None where proprioception is all there is.
    """
    camera = sight_camera(task, robot, name)
    match task.observation:
        case ImageObservation() as observation if camera is not None:
            return ImageMaker(camera, observation)
        case PointObservation() as observation if camera is not None:
            assert task.crop is not None, "a task that observes points has one"
            return CloudMaker(camera, observation, task.crop, robot.base_frame)
        case _:
            return None


def observation_size(task: TaskConfig, robot: RobotConfig) -> ObservationSize:
    """Shape of what the policy of a task is given."""
    observed = task.observation
    points = observed.n_points if isinstance(observed, PointObservation) else 0
    height = width = 0
    if isinstance(observed, ImageObservation):
        height, width = observed.height, observed.width
    return ObservationSize(
        n_obs=observed.n_obs,
        n_points=points,
        height=height,
        width=width,
        proprio_dim=observed.proprio_dim(len(robot.joints)),
    )
