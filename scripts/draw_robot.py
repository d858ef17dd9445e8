# SPDX-License-Identifier: Apache-2.0
"""Draws docs/pictures/robot.png: the simulated robot at work. Needs OpenGL (MUJOCO_GL=egl)."""

from pathlib import Path

import mujoco
import numpy as np
from PIL import Image

from rl100_sim.demonstrator import ScriptedPusher, planar_twist
from rl100_sim.env import PushTEnv

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "robot.png"
SEED, PERIODS = 3, 22


def main() -> None:
    """Let the scripted operator push for a while, then look from the side."""
    env = PushTEnv(observation="state")
    pusher = ScriptedPusher(env.robot, env.task_config)
    _, info = env.reset(seed=SEED)
    pusher.reset(np.random.default_rng(SEED))
    for _ in range(PERIODS):
        state = (info["object_pose"], info["goal_pose"], info["tool_position"])
        _, _, _, _, info = env.steer(planar_twist(pusher.act(*state)))
    camera = mujoco.MjvCamera()
    camera.lookat[:] = (0.40, 0.0, 0.25)
    camera.distance, camera.azimuth, camera.elevation = 1.45, 145.0, -28.0
    options = mujoco.MjvOption()
    options.geomgroup[:] = 1
    world = env.episode.world
    world.model.vis.headlight.ambient[:] = 0.35
    renderer = mujoco.Renderer(world.model, 480, 640)
    renderer.update_scene(world.data, camera, scene_option=options)
    Image.fromarray(renderer.render()).save(PICTURE)
    renderer.close()


if __name__ == "__main__":
    main()
