# SPDX-License-Identifier: Apache-2.0
"""The only module that knows the metaworld library: one scene, stepped, reset by seed."""

from __future__ import annotations

import warnings
from difflib import get_close_matches
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.errors import ConfigError

Floats = NDArray[np.float64]

ACTION_DIM = 4
"""Hand displacement x, y, z [cm per control period, as a target], gripper effort."""
HAND = slice(0, 4)
"""In the library's observation: hand position [m], world frame; gap of the fingers [0.1 m]."""
OBJECTS = (slice(4, 11), slice(11, 18))
"""Of two objects: position [m], quaternion; zeros for what a task does not have."""
GOAL = slice(36, 39)
"""Goal position [m]. Between OBJECTS and GOAL the library repeats the frame before."""


class Scene:
    """One task of the library with a random start and goal.

    The library's benchmark classes draw 50 fixed starts per task; here every seed is another one,
    from the same distribution. The seed alone decides on an episode.
    """

    def __init__(self, name: str) -> None:
        """Build the simulation.

        Raises:
            ConfigError: If the library is missing or has no task of this name.
        """
        environments, policies = _library()
        if name not in environments:
            near = get_close_matches(name, environments) or sorted(environments)
            raise ConfigError(f"metaworld has no task {name!r}; near it: {', '.join(near)}")
        self._env = environments[name]()
        self._expert = policies[name]()
        self._show_goal_and_draw_starts()
        self.observation: Floats = np.zeros(GOAL.stop)
        self.success = False

    def _show_goal_and_draw_starts(self) -> None:
        """What the library's goal-observable classes set, except that starts are not frozen."""
        env = self._env
        env._set_task_called = True
        env._partially_observable = False
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        del env.sawyer_observation_space  # cached with the goal hidden

    @property
    def model(self) -> mujoco.MjModel:
        """The library's model; a reset moves bodies in it."""
        return self._env.model

    @property
    def data(self) -> mujoco.MjData:
        """Its state, kinematics up to date."""
        return self._env.data

    @property
    def period(self) -> float:
        """Of control [s]."""
        return float(self._env.dt)

    def reset(self, seed: int) -> None:
        """Start the episode of a seed."""
        env = self._env
        mujoco.mj_resetData(env.model, env.data)
        env.seed(seed)
        env.reset()
        # The library observes before what it has moved in the model reaches the kinematics: the
        # first observation of drawer-open and six others is of another place.
        mujoco.mj_forward(env.model, env.data)
        space = env.sawyer_observation_space
        self.observation = np.clip(env._get_obs(), space.low, space.high)
        self.success = False

    def advance(self, action: Floats) -> None:
        """One control period; then ``observation`` and ``success`` are of the new state.

        Args:
            action: [4], within [-1, 1].
        """
        self.observation, _, _, _, info = self._env.step(action)
        self.success = bool(info["success"])

    def expert_action(self) -> Floats:
        """What the library's scripted policy does now, [4], cut to [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what is cut off here
            action = self._expert.get_action(self.observation)
        return np.clip(action.astype(float), -1.0, 1.0)


def _library() -> tuple[dict[str, Any], dict[str, Any]]:
    """Environments and scripted policies by name.

    Raises:
        ConfigError: If metaworld is not installed.
    """
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise ConfigError(
            f"Meta-World tasks need the package metaworld, which cannot be imported ({error}); "
            "install it: pip install -r requirements/requirements.ros-install.in "
            "-c requirements/lock.txt"
        ) from error
    return ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP
