# SPDX-License-Identifier: Apache-2.0
"""Whether what a robot publishes is what its description says, before it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl100_policy.core import messages
from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.sight import sight_camera


def content_checks(robot: RobotConfig, task: TaskConfig | None) -> dict[str, Callable[[Any], str]]:
    """What joint states and the images that the task is seen with have to be like, by topic.

    Each gets a message and says what is wrong with it for a learner, or nothing; it raises
    ObservationError where the message cannot be read at all.
    """

    def joints(message: Any) -> str:
        known = messages.joint_positions(message, robot.joints) is not None
        expected = f"none of the joints {list(robot.joints)} is in {list(message.name)}"
        return "" if known else expected

    found: dict[str, Callable[[Any], str]] = {"joint_states": joints}
    camera = sight_camera(task, robot) if task else None
    if camera is None or camera.kind == "points":
        return found

    def image(message: Any) -> str:
        read = messages.depth_image if camera.kind == "depth" else messages.colour_image
        height, width = read(message).shape[:2]
        if (width, height) == (camera.width, camera.height):
            return ""
        return f"images are {width} x {height}, expected {camera.width} x {camera.height}"

    return {**found, camera.topic: image}
