# SPDX-License-Identifier: Apache-2.0
"""Gymnasium environment of Push-T: gate, world and camera of the ROS graph, without ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.errors import ConfigError, ObservationError
from rl100_policy.core.gate_result import GateResult
from rl100_policy.core.observation import proprioception
from rl100_policy.core.shares import resolve_uri
from rl100_policy.core.sight import observation_size
from rl100_sim.camera import render_rgb
from rl100_sim.episode import SimulatedEpisode
from rl100_sim.sight import Sight, simulated_sight

Floats = NDArray[np.float64]
Observation = dict[str, Any]

_DEFAULT_ROBOT = "package://rl100_bringup/config/robots/panda.yaml"
_DEFAULT_TASK = "package://rl100_bringup/config/tasks/push_t.yaml"
_PICTURE_WIDTH, _PICTURE_HEIGHT = 640, 480


class PushTEnv(gymnasium.Env[Observation, Floats]):
    """One arm, one block, one control period per step.

    Action: Box [d_a] (``TaskConfig.action``), m/s in the base frame or rad/s of the joints.

    Observation: Dict of ``proprio`` [d_q] float32 (tool tip [m], joints [rad] if configured) and
    what the task observes: ``cloud`` [n_points, 3] float32, base frame, m; ``image`` [H, W, 3]
    uint8; or, where proprioception is all there is, ``cloud`` [0, 3]. With ``observation="state"``
    it is ``object`` [4] float32: x, y [m], cos yaw, sin yaw of the block, which no robot has and
    which is meant for research into learning.

    ``info``: ``object_pose`` [3], ``goal_pose`` [3], ``tool_position`` [3], ``success``,
    ``executed`` [d_a] (the action after the gate), ``flags``, ``frame_is_new`` (False: what is
    seen is an older frame, because of ``render_every`` or because the block has left the crop).

    The first thing a reset draws from its seed is the start pose, with the generator
    ``numpy.random.default_rng(seed)`` gives; sensor noise depends on the episode and the control
    period alone, so a frame is the same whichever others were rendered.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        robot: RobotConfig | str | Path = _DEFAULT_ROBOT,
        task: TaskConfig | str | Path = _DEFAULT_TASK,
        *,
        observation: Literal["task", "state"] = "task",
        render_every: int = 1,
        render_mode: str | None = None,
    ) -> None:
        """Build the world.

        Args:
            robot: Description, or where it is: a path or a package:// URI.
            task: The same for the task.
            observation: ``task`` as on a robot, or ``state``.
            render_every: Render only what a policy sees that decides every so many control
                periods: the n_obs frames up to each decision (the first at reset) and the frame
                that a time limit cuts. 1 renders all. ``reset`` may choose anew.
            render_mode: ``rgb_array`` for pictures (needs OpenGL), or None.

        Raises:
            ConfigError: If a description is not usable or an option is out of range.
        """
        if observation not in ("task", "state") or render_every < 1:
            raise ConfigError(
                "expected observation 'task' or 'state' and render_every >= 1, "
                f"got {observation!r}, {render_every}"
            )
        self.robot = (
            robot if isinstance(robot, RobotConfig) else load_robot(resolve_uri(str(robot)))
        )
        self.task_config = (
            task if isinstance(task, TaskConfig) else load_task(resolve_uri(str(task)))
        )
        self.render_mode = render_mode
        self.render_every = render_every
        self.episode = SimulatedEpisode(self.robot, self.task_config)
        self._gate = CommandGate(self.robot, self.task_config)
        self._sight: Sight | None = None
        if observation == "task":
            self._sight = simulated_sight(self.episode, self.task_config, self.robot)
        self._visual = observation_size(self.task_config, self.robot).blank()
        self.action_space = gymnasium.spaces.Box(
            np.array(self.task_config.action.low),
            np.array(self.task_config.action.high),
            dtype=np.float64,
        )
        self.observation_space = self._observation_space()

    def _observation_space(self) -> gymnasium.spaces.Dict:
        box = gymnasium.spaces.Box
        n_proprio = self.task_config.observation.proprio_dim(len(self.robot.joints))
        spaces: dict[str, gymnasium.Space[Any]] = {
            "proprio": box(-np.inf, np.inf, (n_proprio,), np.float32)
        }
        if self._sight is not None:
            spaces[self._sight.key] = self._sight.space
        else:
            spaces["object"] = box(-np.inf, np.inf, (4,), np.float32)
        return gymnasium.spaces.Dict(spaces)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: arm at home, block at a drawn pose or ``options["object_pose"]``.

        ``options["render_every"]`` replaces what the constructor was told, from here on.

        Raises:
            ObservationError: If a cloud would show too little of the block there.
        """
        super().reset(seed=seed)
        self.render_every = (options or {}).get("render_every", self.render_every)
        given = (options or {}).get("object_pose")
        pose = None if given is None else np.asarray(given, dtype=float)
        self.episode.reset(self.np_random, pose)
        self._gate.reset(self.episode.world.joint_positions)
        return self._observe()

    def step(self, action: Floats) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control period through the gate; a limit of the arm changes the action, see info."""
        measured = self.episode.world.joint_positions
        return self._advance(self._gate.step(np.asarray(action, dtype=float), measured))

    def steer(self, twist: Floats) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """As :meth:`step`, by a person who moves the tool, whatever an action is.

        Args:
            twist: Velocity of the tool in the base frame, [6], m/s and rad/s.
        """
        measured = self.episode.world.joint_positions
        return self._advance(self._gate.steer(np.asarray(twist, dtype=float), measured))

    def _advance(
        self, answer: GateResult
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.episode.advance(answer.joint_command)
        outcome = self.episode.outcome
        observation, info = self._observe()
        info |= {"executed": answer.executed, "flags": int(answer.flags)}
        return observation, outcome.reward, outcome.terminated, outcome.truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """A colour picture, [480, 640, 3], when ``render_mode`` is ``rgb_array``."""
        if self.render_mode is None:
            return None
        world = self.episode.world
        return render_rgb(
            world.model, world.data, self.robot.camera().name, _PICTURE_WIDTH, _PICTURE_HEIGHT
        )

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        is_new = self._is_looked_at() and self._update_visual()
        return self._observation(), self._info(is_new)

    def _is_looked_at(self) -> bool:
        """Whether a policy that decides every ``render_every`` periods sees this one."""
        until_decision = -self.episode.periods % self.render_every
        is_seen = until_decision < self.task_config.observation.n_obs
        return is_seen or self.episode.outcome.truncated

    def _update_visual(self) -> bool:
        """Render; whether what is seen is new: a view with too few points repeats the last one."""
        if self._sight is None:
            return False
        try:
            self._visual = self._sight.look()
        except ObservationError:
            if self.episode.periods == 0:
                raise
            return False
        return True

    def _observation(self) -> Observation:
        world = self.episode.world
        proprio = proprioception(
            self.task_config.observation,
            world.joint_positions,
            self._gate.kinematics.tool_position,
        )
        if self._sight is not None:
            return {"proprio": proprio, self._sight.key: self._visual.copy()}
        x, y, yaw = world.object_pose
        item = np.array([x, y, np.cos(yaw), np.sin(yaw)], dtype=np.float32)
        return {"proprio": proprio, "object": item}

    def _info(self, frame_is_new: bool) -> dict[str, Any]:
        return {
            "object_pose": self.episode.world.object_pose,
            "goal_pose": self.episode.task.goal.copy(),
            "tool_position": self.episode.world.tool_position,
            "success": self.episode.outcome.success,
            "frame_is_new": frame_is_new,
        }
