# SPDX-License-Identifier: Apache-2.0
"""A scripted person who pushes the block to its goal: sees, walks around it, pushes, trembles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_sim.planar_object import rotation, to_object
from rl100_sim.push_planner import (
    STANDOFF,
    Preferences,
    Route,
    find_contacts,
    is_engaged,
    push_costs,
)
from rl100_sim.tasks.push_t import T_BLOCK, read_parameters

Floats = NDArray[np.float64]

SKILL = 0.25
"""Of the person where nobody says another: trembles, hesitates, gives up now and then."""
_NOISE_MEMORY = 0.7
"""Correlation of the hand's tremor from one control period to the next."""
_HYSTERESIS = 0.3
"""How much faster another contact must be to be worth changing one's mind [s]."""
_AIM_SHARE = 0.7
"""Share of the success tolerances that is aimed at."""
_TOUCHING = 0.004
"""Gap over which the approach straight to the edge blends into the push [m]."""
_CENTRING = 3.0
"""Speed back to the middle of the contact per distance from it [1/s]."""
_REACH = 0.085
"""Kept between the block's centre and that, so that every side can be reached [m]."""
_BORDER = 0.008
"""Kept from the border of the tool workspace [m]."""


@dataclass(frozen=True)
class Temper:
    """How one episode is performed."""

    level: float
    """Imperfection in [0, 1]: 0 is exact and quick."""
    walking_speed: float
    """[m/s]."""
    pushing_speed: float
    """[m/s]."""
    tremor: float
    """Standard deviation of the velocity noise per axis [m/s]."""
    pause_rate: float
    """Probability of a hesitation per control period."""
    contact_bias: float
    """Standard deviation of the error in the cost of a contact [s]."""
    patience: int | None
    """Control periods after which the person gives up and lets go of the controls; None: never."""


def draw_temper(skill: float, rng: np.random.Generator) -> Temper:
    """Temper of one episode: its level is uniform within +-0.3 of 1 - skill, cut to [0, 1]."""
    level = float(np.clip(1.0 - skill + rng.uniform(-0.3, 0.3), 0.0, 1.0))
    gives_up = rng.random() < 0.2 * level
    patience = int(rng.integers(10, 60))
    return Temper(
        level=level,
        walking_speed=0.15 - 0.03 * level,
        pushing_speed=0.08 - 0.02 * level,
        tremor=0.04 * level,
        pause_rate=0.02 * level,
        contact_bias=0.2 * level,
        patience=patience if gives_up else None,
    )


def planar_twist(velocity: Floats) -> Floats:
    """Twist, [6], m/s and rad/s, of a velocity in the plane of the table, [2], m/s."""
    return np.pad(velocity, (0, 4))


class ScriptedPusher:
    """Tool velocities for Push-T from the true state; success is up to the physics.

    Apart from tremor, hesitations and a small reluctance to change the contact, the velocity is a
    function of the current state alone.
    """

    def __init__(self, robot: RobotConfig, task: TaskConfig, *, skill: float = SKILL) -> None:
        """Prepare the contacts; ``reset`` begins an episode.

        Args:
            robot: For the tool radius.
            task: For tolerances, tool workspace and bounds on the velocity of the tool.
            skill: 1 is quick and exact, 0 slow and clumsy.

        Raises:
            ConfigError: If ``task.sim`` is not a valid description of Push-T.
        """
        self.skill = skill
        self._settings = read_parameters(task)
        self._contacts = find_contacts(T_BLOCK, robot.tool.radius)
        self._route = Route(T_BLOCK, robot.tool.radius, self._contacts)
        self._low = np.array(task.tool_workspace.low[:2]) + _BORDER
        self._high = np.array(task.tool_workspace.high[:2]) - _BORDER
        steered = task.action.steered
        self._fastest = float(np.abs((steered.low, steered.high)).min())
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: draw the temper; all further randomness comes from rng."""
        self._rng = rng
        self.temper = draw_temper(self.skill, rng)
        self._wish = Preferences(
            walking_speed=self.temper.walking_speed,
            pushing_speed=self.temper.pushing_speed,
            position_aim=_AIM_SHARE * self._settings.position_tolerance,
            yaw_aim=_AIM_SHARE * self._settings.yaw_tolerance,
        )
        self._bias = self.temper.contact_bias * rng.standard_normal(len(self._contacts))
        self._tremor = np.zeros(2)
        self._pause = 0
        self._periods = 0
        self._contact: int | None = None

    def act(self, object_pose: Floats, goal_pose: Floats, tool_position: Floats) -> Floats:
        """Tool velocity for the next control period.

        Args:
            object_pose: (x, y, yaw) of the block in the base frame, [3], m and rad.
            goal_pose: The same of its goal.
            tool_position: Tool tip in the base frame, [2] or [3], m.

        Returns:
            (vx, vy) in the base frame, [2], m/s, within the task's bounds.
        """
        velocity = self._imperfect(self.intention(object_pose, goal_pose, tool_position))
        return np.clip(velocity, -self._fastest, self._fastest)

    def intention(self, object_pose: Floats, goal_pose: Floats, tool_position: Floats) -> Floats:
        """Tool velocity without tremor and hesitations, base frame, [2], m/s."""
        tool = to_object(object_pose, np.asarray(tool_position)[:2])
        ways, first = self._route.ways(tool, object_pose, self._low, self._high)
        lateral, gap = self._route.offsets(tool)
        engaged = is_engaged(lateral, gap)
        walk = np.where(engaged, np.abs(lateral) + np.abs(gap), ways + STANDOFF)
        costs, directions = push_costs(
            self._contacts,
            object_pose,
            goal_pose,
            self._low + _REACH,
            self._high - _REACH,
            self._wish,
        )
        total = costs + walk / self._wish.walking_speed + self._bias
        contact = int(np.argmin(total))
        if self._contact is not None and total[self._contact] < total[contact] + _HYSTERESIS:
            contact = self._contact
        self._contact = contact
        if engaged[contact]:
            velocity = self._push(
                contact, int(directions[contact]), float(lateral[contact]), float(gap[contact])
            )
        else:
            velocity = self._walk(tool, first[contact], float(ways[contact]))
        return rotation(object_pose[2]) @ velocity

    def _push(self, contact: int, direction: int, lateral: float, gap: float) -> Floats:
        """Velocity in the object frame in front of a contact.

        Straight to the edge, then the push; always back to the middle of the contact.
        """
        outward = self._contacts.outward[contact]
        tangent = np.array([-outward[1], outward[0]])
        speed = min(self.temper.walking_speed, self.temper.pushing_speed + 4.0 * max(gap, 0.0))
        touch = float(np.clip(1.0 - gap / _TOUCHING, 0.0, 1.0))
        push = touch * self._contacts.velocity[contact, direction] - (1.0 - touch) * outward
        return speed * push - _CENTRING * lateral * tangent

    def _walk(self, tool: Floats, target: Floats, way: float) -> Floats:
        """Velocity in the object frame towards the next way point.

        Slower when the approach point is near; zero when there is no way.
        """
        step = target - tool
        distance = float(np.linalg.norm(step))
        if not np.isfinite(way) or distance < 1e-6:
            return np.zeros(2)
        return (
            min(self.temper.walking_speed, self.temper.pushing_speed + 4.0 * way) * step / distance
        )

    def _imperfect(self, velocity: Floats) -> Floats:
        """Add tremor, hesitations and giving up."""
        self._periods += 1
        if self.temper.patience is not None and self._periods > self.temper.patience:
            return np.zeros(2)
        spread = self.temper.tremor * np.sqrt(1.0 - _NOISE_MEMORY**2)
        self._tremor = _NOISE_MEMORY * self._tremor + spread * self._rng.standard_normal(2)
        starts = self._rng.random() < self.temper.pause_rate
        length = int(self._rng.integers(3, 9))
        if self._pause > 0:
            self._pause -= 1
            return np.zeros(2)
        if starts:
            self._pause = length
        return velocity + self._tremor
