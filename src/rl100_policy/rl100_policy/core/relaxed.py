# SPDX-License-Identifier: Apache-2.0
"""Which limits a description makes weaker than they are by themselves: said when a gate starts."""

from __future__ import annotations

from rl100_policy.core.collision import ArmCollision
from rl100_policy.core.config import CollisionConfig, RobotConfig, TaskConfig
from rl100_policy.core.kinematics import ArmKinematics

_JERK = 1e5
"""No arm is told to be more abrupt [rad/s^3]."""


def relaxed_limits(
    robot: RobotConfig, task: TaskConfig, collision: ArmCollision, kinematics: ArmKinematics
) -> list[str]:
    """One line for each limit that the descriptions relax, for people; none if they do not."""
    told = _limits_that_bind_nothing(robot, task, kinematics)
    usual_margin = RobotConfig.model_fields["position_margin"].default
    if robot.position_margin < usual_margin:
        told.append(
            f"position_margin is {robot.position_margin}, usually {usual_margin}: joints may come "
            "nearer to their stops"
        )
    usual_distance = CollisionConfig.model_fields["margin"].default
    if robot.collision.margin < usual_distance:
        told.append(
            f"collision.margin is {robot.collision.margin} m, usually {usual_distance} m: links "
            "may come nearer to each other and to obstacles"
        )
    told += [
        f"{' and '.join(sorted(pair))} may touch (collision.ignore, touch)"
        for pair in sorted(collision.ignored, key=sorted)
    ]
    if robot.collision.srdf is not None:
        told.append(f"pairs of links that {robot.collision.srdf} disables may touch")
    told += [
        f"{link} has no collision shape in the URDF: nothing keeps it clear"
        for link in collision.without_shape
    ]
    if not robot.obstacles:
        told.append("there are no obstacles: table, walls and stands are not kept clear of")
    if task.tool_tilt is None and _turns(task):
        told.append("tool_tilt is not given: the tool may point anywhere")
    return told


def _limits_that_bind_nothing(
    robot: RobotConfig, task: TaskConfig, kinematics: ArmKinematics
) -> list[str]:
    full_reverse = 2.0 * kinematics.velocity_limits / robot.control_period
    told = [
        f"acceleration_limits of {joint} is {limit}, and never binds from {bound:.3g} rad/s^2 on"
        for joint, limit, bound in zip(
            robot.joints, robot.acceleration_limits, full_reverse, strict=True
        )
        if limit >= bound
    ]
    told += [
        f"jerk_limits of {joint} is {limit}: no arm is that abrupt"
        for joint, limit in zip(robot.joints, robot.jerk_limits, strict=True)
        if limit > _JERK
    ]
    box = task.tool_workspace
    for axis, low, high in zip("xyz", box.low, box.high, strict=True):
        if max(-low, high) > kinematics.reach:
            told.append(
                f"tool_workspace goes from {low} to {high} m along {axis}, the arm reaches "
                f"{kinematics.reach:.2f} m: it ends nowhere on that side"
            )
    return told


def _turns(task: TaskConfig) -> bool:
    """Whether actions, or a person, turn the tool."""
    names = (*task.action.names, *task.action.steered.names)
    return task.action.space != "ee_twist" or any(name.startswith("angular") for name in names)
