# SPDX-License-Identifier: Apache-2.0
"""Push-T: slide a T-shaped block to a fixed pose on the table with the tip of a stick."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import ConfigError
from rl100_sim.planar_object import PlanarObject, Rectangle, wrap_angle

Floats = NDArray[np.float64]

_BAR_LENGTH, _STEM_LENGTH, _WIDTH, _HEIGHT = 0.12, 0.09, 0.03, 0.03
_STEM_SHARE = _STEM_LENGTH / (_BAR_LENGTH + _STEM_LENGTH)
_BAR_TO_STEM = 0.5 * (_WIDTH + _STEM_LENGTH)
T_BLOCK = PlanarObject(
    rectangles=(
        Rectangle(0.0, _STEM_SHARE * _BAR_TO_STEM, 0.5 * _BAR_LENGTH, 0.5 * _WIDTH),
        Rectangle(0.0, (_STEM_SHARE - 1.0) * _BAR_TO_STEM, 0.5 * _WIDTH, 0.5 * _STEM_LENGTH),
    ),
    height=_HEIGHT,
    mass=0.2,
    drag=20.0,
    tool_friction=0.3,
)
"""Bar 12 x 3 cm along x, stem 3 x 9 cm towards -y, 3 cm high, 200 g (1.06 g/cm^3), L = 4.0 cm.

The drag stops the block within about 10 ms and needs 2 N at 0.1 m/s, as Coulomb friction with a
coefficient of 1 would; its size does not matter to the motion, since the pusher is far stiffer.
Friction coefficient 0.3: a stick of metal or hard plastic on plastic.
"""

_ROOM_TO_PASS = 0.04
"""Between block and border of the tool workspace at the start: room for the stick [m]."""
_HOME_CLEARANCE = 0.02
"""Between the block and the stick's surface at home at the start [m]."""
_MAX_DRAWS = 10_000


@dataclass(frozen=True)
class PushTParameters:
    """``sim`` section of the task description."""

    goal_x: float = 0.50
    """Goal of the block's centre of mass in the base frame [m]."""
    goal_y: float = 0.0
    goal_yaw: float = 0.0
    """[rad]."""
    start_distance_min: float = 0.06
    """Distance of the start from the goal [m]."""
    start_distance_max: float = 0.16
    start_yaw: float = 1.0
    """Start yaw is uniform within +- this of the goal [rad]."""
    position_tolerance: float = 0.02
    """Success needs the centre within this of the goal [m]."""
    yaw_tolerance: float = 0.25
    """... and the yaw within this [rad]."""


@dataclass(frozen=True)
class Outcome:
    """What the task says about one control period.

    An episode can be terminated and truncated at once; neither implies the other.
    """

    reward: float
    """+1 in the period that reaches the goal, otherwise 0."""
    terminated: bool
    """The goal is reached: there is nothing after this state."""
    truncated: bool
    """The time limit cut the episode: the state still has a value."""
    success: bool


class PushT:
    """The task: where episodes start, when they succeed and when they end."""

    item: PlanarObject = T_BLOCK

    def __init__(self, robot: RobotConfig, task: TaskConfig, home_position: Floats) -> None:
        """Read and check the parameters.

        Args:
            robot: For the control period and the tool radius.
            task: For ``sim``, the tool workspace and the time limit.
            home_position: Tool tip at home in the base frame, [3], m.

        Raises:
            ConfigError: If ``task.sim`` has an unknown key or values that contradict each other.
        """
        self.parameters = read_parameters(task)
        self.goal = goal_pose(task)
        self.max_periods = max(1, round(task.time_limit / robot.control_period))
        self._low = np.array(task.tool_workspace.low[:2]) + _ROOM_TO_PASS
        self._high = np.array(task.tool_workspace.high[:2]) - _ROOM_TO_PASS
        self._home = np.array(home_position[:2], dtype=float)
        self._home_distance = robot.tool.radius + _HOME_CLEARANCE

    def reset(self, rng: np.random.Generator) -> Floats:
        """Start pose of the block, (x, y, yaw) [3], m and rad.

        Uniform in distance, bearing and yaw over the ranges of the parameters, among the poses
        where the stick can pass between the block and the border of its workspace and stands clear
        of the block at home.

        Raises:
            ConfigError: If hardly any pose of the ranges is admissible.
        """
        p = self.parameters
        for _ in range(_MAX_DRAWS):
            distance = rng.uniform(p.start_distance_min, p.start_distance_max)
            bearing = rng.uniform(-np.pi, np.pi)
            yaw = p.goal_yaw + rng.uniform(-p.start_yaw, p.start_yaw)
            pose = np.array(
                [p.goal_x + distance * np.cos(bearing), p.goal_y + distance * np.sin(bearing), yaw]
            )
            if self.is_admissible_start(pose):
                return pose
        raise ConfigError(
            f"no start pose of {self.parameters} keeps the block between {self._low} and "
            f"{self._high} and clear of the tool at home; "
            "enlarge tool_workspace or reduce start_distance_max"
        )

    def is_admissible_start(self, pose: Floats) -> bool:
        """Whether the stick can get around the block at this pose, and is clear of it at home."""
        corners = self.item.corners(pose)
        inside = bool(((corners >= self._low) & (corners <= self._high)).all())
        return inside and float(self.item.distance(pose, self._home)) >= self._home_distance

    def errors(self, object_pose: Floats) -> tuple[float, float]:
        """Distance to the goal [m], and yaw to the goal in [-pi, pi) [rad]."""
        distance = float(np.hypot(*(object_pose[:2] - self.goal[:2])))
        return distance, wrap_angle(float(self.goal[2] - object_pose[2]))

    def is_success(self, object_pose: Floats) -> bool:
        """Whether the block is at the goal within both tolerances, bounds included."""
        distance, yaw = self.errors(object_pose)
        return (
            distance <= self.parameters.position_tolerance
            and abs(yaw) <= self.parameters.yaw_tolerance
        )

    def outcome(self, object_pose: Floats, periods: int) -> Outcome:
        """Judge the state after ``periods`` control periods of an episode."""
        success = self.is_success(object_pose)
        return Outcome(float(success), success, periods >= self.max_periods, success)


def goal_pose(task: TaskConfig) -> Floats:
    """Where the block is to lie, (x, y, yaw) [3] in the base frame, m and rad.

    Raises:
        ConfigError: As ``read_parameters``.
    """
    parameters = read_parameters(task)
    return np.array([parameters.goal_x, parameters.goal_y, parameters.goal_yaw])


def read_parameters(task: TaskConfig) -> PushTParameters:
    """Checked ``sim`` section of a task description.

    Raises:
        ConfigError: If it has an unknown key or values that contradict each other.
    """
    known = {field.name for field in fields(PushTParameters)}
    unknown = sorted(set(task.sim) - known)
    if unknown:
        raise ConfigError(
            f"task {task.name!r}: unknown sim parameters {unknown}; known are {sorted(known)}"
        )
    parameters = PushTParameters(**task.sim)
    ordered = 0.0 <= parameters.start_distance_min <= parameters.start_distance_max
    positive = (
        min(parameters.position_tolerance, parameters.yaw_tolerance) > 0.0 <= parameters.start_yaw
    )
    if not ordered or not positive:
        raise ConfigError(
            f"task {task.name!r}: expected 0 <= start_distance_min <= start_distance_max, "
            f"start_yaw >= 0 and tolerances above 0, got {parameters}"
        )
    return parameters
