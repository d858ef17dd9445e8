# SPDX-License-Identifier: Apache-2.0
"""One simulated episode: world, task and cameras; shared by ROS node and Gymnasium environment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import CameraConfig, RobotConfig, TaskConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.image import Pixels
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.sight import sight_camera
from rl100_sim.camera import DepthCamera, DepthImage, View
from rl100_sim.colour_camera import ColourCamera
from rl100_sim.tasks.push_t import Outcome, PushT
from rl100_sim.world import ArmWorld

Floats = NDArray[np.float64]

_COLOUR_STREAM = 1
"""Beside seed and period, so that the noise of colours is not that of depths."""

SIMULATED_TASKS = {"push_t": PushT}
"""Simulated tasks by the name in the task description."""


def simulated_task(robot: RobotConfig, task: TaskConfig) -> PushT:
    """The rules of a task for an arm: start states, reward, end.

    Raises:
        ConfigError: If the task has no simulation, a parameter of it is unknown or out of range,
            the arm's description does not fit its URDF, or no simulated camera shows the task.
    """
    if task.name not in SIMULATED_TASKS:
        raise ConfigError(
            f"task {task.name!r} has no simulation; simulated are {sorted(SIMULATED_TASKS)}"
        )
    camera = sight_camera(task, robot)
    if camera is not None and camera.kind == "points":
        raise ConfigError(
            f"simulated cameras deliver depth or colour images: kind of camera {camera.name!r} "
            "must be depth"
        )
    home_position = ArmKinematics(robot).tool_position(np.array(robot.home))
    return SIMULATED_TASKS[task.name](robot, task, home_position)


class SimulatedEpisode:
    """Deterministic: the same seed and commands give the same states and images, bit for bit.

    The first thing drawn from a seed is the start pose; sensor noise depends on the episode and
    the control period alone, so a frame is the same whichever others were rendered.
    """

    def __init__(self, robot: RobotConfig, task: TaskConfig) -> None:
        """Build the world; ``reset`` must be called before anything else.

        Raises:
            ConfigError: If the task has no simulation.
        """
        self._home = np.array(robot.home)
        self.task = simulated_task(robot, task)
        self.world = ArmWorld(robot, self.task.item, self.task.goal)
        self._depth_cameras: dict[str, DepthCamera] = {}
        self._colour_cameras: dict[str, ColourCamera] = {}
        self.periods, self._noise_seed = 0, 0
        self.outcome = Outcome(reward=0.0, terminated=False, truncated=False, success=False)

    def reset(self, rng: np.random.Generator, object_pose: Floats | None = None) -> None:
        """Arm at home, object at a drawn pose, or at the given (x, y, yaw) [3], m and rad."""
        start = self.task.reset(rng)
        self._noise_seed = int(rng.integers(2**63))
        self.world.reset(self._home, start if object_pose is None else object_pose)
        self.periods = 0
        self.outcome = Outcome(
            reward=0.0,
            terminated=False,
            truncated=False,
            success=self.task.is_success(self.world.object_pose),
        )

    def advance(self, joint_command: Floats) -> None:
        """One control period; then ``outcome`` judges the new state.

        Args:
            joint_command: Joint positions at the end of the period, [n], rad.
        """
        self.world.advance(joint_command)
        self.periods += 1
        self.outcome = self.task.outcome(self.world.object_pose, self.periods)

    def depth_camera(self, config: CameraConfig) -> DepthCamera:
        """A depth camera in this world; made when it is first used."""
        if config.name not in self._depth_cameras:
            self._depth_cameras[config.name] = DepthCamera(self.world.model, config)
        return self._depth_cameras[config.name]

    def depth_mm(self, config: CameraConfig, view: View | None = None) -> DepthImage:
        """Depth image of the present state, [H, W], uint16, mm: whole, or what a view shows."""
        rng = np.random.default_rng((self._noise_seed, self.periods))
        return self.depth_camera(config).render(self.world.data, rng, view)

    def colour(self, config: CameraConfig) -> Pixels:
        """Colour image of the present state, [H, W, 3], red, green, blue."""
        if config.name not in self._colour_cameras:
            self._colour_cameras[config.name] = ColourCamera(self.world.model, config)
        rng = np.random.default_rng((self._noise_seed, self.periods, _COLOUR_STREAM))
        return self._colour_cameras[config.name].render(self.world.data, rng)
