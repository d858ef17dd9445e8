# SPDX-License-Identifier: Apache-2.0
"""Simulated robot and tasks: MuJoCo worlds, Gymnasium environments, and the ROS nodes around them.

Importing the package registers its Gymnasium environments, and nothing else:
``gymnasium.make("rl100_sim:rl100/PushT-v0")``.
"""

import gymnasium

if "rl100/PushT-v0" not in gymnasium.registry:
    gymnasium.register(id="rl100/PushT-v0", entry_point="rl100_sim.env:PushTEnv")
