# SPDX-License-Identifier: Apache-2.0
"""Meta-World's tasks as benchmark environments, with imperfect demonstrations.

Other people's tasks with published results, beside Push-T. There is no robot description and no
gate: the library has its own arm, action and clock. It is imported when the first environment is
made, by ``library`` and nothing else.
"""

from rl100_sim.meta_world.demonstrator import Demonstration, demonstrate
from rl100_sim.meta_world.env import MetaWorldEnv
from rl100_sim.meta_world.tasks import TASKS, MetaWorldTask

__all__ = ["TASKS", "Demonstration", "MetaWorldEnv", "MetaWorldTask", "demonstrate"]
