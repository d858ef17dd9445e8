# SPDX-License-Identifier: Apache-2.0
"""Simulated robot and tasks: MuJoCo worlds, Gymnasium environments, and the ROS nodes around them.

Importing the package registers its Gymnasium environments, and nothing else:
``gymnasium.make("rl100_sim:rl100/PushT-v0")``,
``gymnasium.make("rl100_sim:rl100/MetaWorld-v0", task="push-v3")``.
"""

import gymnasium

_ENTRY_POINTS = {
    "rl100/PushT-v0": "rl100_sim.env:PushTEnv",
    "rl100/MetaWorld-v0": "rl100_sim.meta_world.env:MetaWorldEnv",
}
for _name, _entry_point in _ENTRY_POINTS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(id=_name, entry_point=_entry_point)
