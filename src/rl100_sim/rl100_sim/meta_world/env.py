# SPDX-License-Identifier: Apache-2.0
"""Gymnasium environment of a Meta-World task: random start and goal, sparse reward, no OpenGL."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.errors import ActionError, ConfigError, ObservationError
from rl100_sim.meta_world.library import ACTION_DIM, GOAL, HAND, OBJECTS, Scene
from rl100_sim.meta_world.tasks import MetaWorldTask, find_task
from rl100_sim.meta_world.view import WorkspaceView

Floats = NDArray[np.float64]
Observation = dict[str, Any]

_POSITION_DIM = 3
_SEED_LIMIT = 2**31


class MetaWorldEnv(gymnasium.Env[Observation, Floats]):
    """One of the library's tasks at its own 80 Hz.

    Action: Box [-1, 1]^4: displacement of the hand's target in x, y, z, world frame, 1 is 1 cm per
        control period; effort that closes the gripper. Observation: Dict of

    - ``proprio`` [d_q] float32: hand position [m], world frame; gap of the fingers [0.1 m]; then,
      with ``observation="state"``, each object's position [m] and where it turns its quaternion,
      and the coordinates of the goal [m] that differ between episodes; with
      ``observation="cloud"`` those of the goal only where a camera could not see it.
    - ``cloud`` [n_points, 3] float32, world frame [m], inside the crop and without the table; with
      ``observation="state"`` it has no points, [0, 3].

    Reward: 1 in the period that succeeds, which ends the episode, otherwise 0. ``info``:
    ``success``, ``executed`` [4] (the action cut to the box), ``frame_is_new`` (False: ``cloud``
    repeats an older frame, because of ``render_every`` or because too little is in view).

    An episode is a function of its seed and the actions, bit for bit: start and goal are drawn by
    the library from a generator of the seed, sensor noise depends on the seed and the control
    period alone.
    """

    metadata: dict[str, Any] = {"render_modes": [], "render_fps": 80}  # noqa: RUF012

    def __init__(
        self,
        task: str | MetaWorldTask,
        *,
        observation: Literal["state", "cloud"] = "state",
        n_points: int = 256,
        n_obs: int = 2,
        render_every: int = 1,
    ) -> None:
        """Build the scene.

        Args:
            task: One of ``rl100_sim.meta_world.TASKS`` by name, or any task of the library.
            observation: ``state``, or ``cloud`` as on a robot.
            n_points: Of a cloud.
            n_obs: Frames that a policy looks at, see ``render_every``.
            render_every: Render only what a policy sees that decides every so many control
                periods: the n_obs frames up to each decision (the first at reset) and the frame
                that a time limit cuts. 1 renders all.

        Raises:
            ConfigError: If there is no such task, an option is out of range, or the library is
                not installed.
        """
        if observation not in ("state", "cloud") or min(n_points, n_obs, render_every) < 1:
            raise ConfigError(
                "expected observation 'state' or 'cloud' and n_points, n_obs, render_every >= 1, "
                f"got {observation!r}, {n_points}, {n_obs}, {render_every}"
            )
        self.task = find_task(task)
        self.scene = Scene(self.task.name)
        self.render_every, self._n_obs = render_every, n_obs
        self._view = (
            WorkspaceView(self.scene.model, self.task.table_height, n_points)
            if observation == "cloud"
            else None
        )
        self._observed = _observed(self.task, self._view is None)
        self._cloud = np.zeros((n_points if self._view else 0, 3), dtype=np.float32)
        self._seed, self._periods = 0, 0
        box = gymnasium.spaces.Box
        self.action_space = box(-1.0, 1.0, (ACTION_DIM,), np.float64)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "proprio": box(-np.inf, np.inf, (len(self._observed),), np.float32),
                "cloud": self._cloud_space(),
            }
        )

    @property
    def has_cloud(self) -> bool:
        """Whether observations have points."""
        return self._view is not None

    def _cloud_space(self) -> gymnasium.spaces.Box:
        shape = self._cloud.shape
        low, high = (
            (self._view.crop.low, self._view.crop.high) if self._view else ((0.0,) * 3, (0.0,) * 3)
        )
        return gymnasium.spaces.Box(
            np.broadcast_to(np.array(low, np.float32), shape),
            np.broadcast_to(np.array(high, np.float32), shape),
            dtype=np.float32,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the episode of a seed; without one, of a seed drawn from the last one's generator.

        ``options["render_every"]`` replaces what the constructor was told, from here on.

        Raises:
            ObservationError: If the camera sees too little in the crop.
        """
        super().reset(seed=seed, options=options)
        self.render_every = (options or {}).get("render_every", self.render_every)
        drawn = int(self.np_random.integers(_SEED_LIMIT))
        self._seed = drawn if seed is None else seed
        self._periods = 0
        self.scene.reset(self._seed)
        is_new = self._update_cloud()
        return self._observation(), {"success": False, "frame_is_new": is_new}

    def step(self, action: Floats) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control period.

        Raises:
            ActionError: If the action is not four finite numbers.
        """
        asked = np.asarray(action, dtype=float)
        if asked.shape != (ACTION_DIM,) or not np.isfinite(asked).all():
            raise ActionError(f"expected {ACTION_DIM} finite numbers in [-1, 1], got {action!r}")
        executed = np.clip(asked, -1.0, 1.0)
        self.scene.advance(executed)
        self._periods += 1
        success = self.scene.success
        truncated = self._periods >= self.task.max_periods
        is_new = self._is_looked_at(truncated) and self._update_cloud()
        info = {"success": success, "executed": executed, "frame_is_new": is_new}
        return self._observation(), float(success), success, truncated, info

    def _is_looked_at(self, truncated: bool) -> bool:
        """Whether a policy that decides every ``render_every`` periods sees this frame."""
        return truncated or -self._periods % self.render_every < self._n_obs

    def _update_cloud(self) -> bool:
        """Render; whether the cloud is new: a view with too few points repeats the last one."""
        if self._view is None:
            return False
        try:
            self._cloud = self._view.cloud(
                self.scene.data, np.random.default_rng((self._seed, self._periods))
            )
        except ObservationError:
            if self._periods == 0:
                raise
            return False
        return True

    def _observation(self) -> Observation:
        proprio = self.scene.observation[self._observed].astype(np.float32)
        return {"proprio": proprio, "cloud": self._cloud.copy()}


def _observed(task: MetaWorldTask, is_state: bool) -> NDArray[np.int64]:
    """Indices into the library's observation that are in ``proprio``."""
    every = np.arange(GOAL.stop)
    parts = [every[HAND]]
    if is_state:
        for part, where in zip(task.objects, OBJECTS, strict=False):
            parts.append(every[where] if part == "pose" else every[where][:_POSITION_DIM])
    if is_state or not task.goal_is_seen:
        parts.append(every[GOAL][: task.goal_dim])
    return np.concatenate(parts)
