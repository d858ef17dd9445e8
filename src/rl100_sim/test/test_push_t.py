# SPDX-License-Identifier: Apache-2.0
"""Rules of Push-T: where it starts, when it is solved, and how it ends."""

import numpy as np
import pytest

from rl100_policy.core.errors import ConfigError
from rl100_policy.core.kinematics import ArmKinematics
from rl100_sim.tasks.push_t import PushT

GOAL = np.array([0.5, 0.0, 0.0])


def make(robot, task, **changes):
    changed = task.model_copy(update={"sim": {**task.sim, **changes}})
    return PushT(robot, changed, ArmKinematics(robot).tool_position(np.array(robot.home)))


@pytest.fixture
def push_t(robot, task):
    return make(robot, task)


@pytest.fixture
def starts(push_t):
    rng = np.random.default_rng(0)
    return np.array([push_t.reset(rng) for _ in range(500)])


def test_starts_are_six_to_sixteen_centimetres_from_the_goal(starts):
    distance = np.linalg.norm(starts[:, :2] - GOAL[:2], axis=1)
    assert 0.06 <= distance.min() < 0.07
    assert 0.14 < distance.max() <= 0.16


def test_starts_are_turned_by_at_most_one_radian_and_use_the_range(starts):
    assert np.abs(starts[:, 2]).max() <= 1.0
    assert starts[:, 2].min() < -0.9
    assert starts[:, 2].max() > 0.9


def test_starts_lie_in_all_directions_from_the_goal(starts):
    bearing = np.arctan2(starts[:, 1], starts[:, 0] - GOAL[0])
    counts, _ = np.histogram(bearing, bins=8, range=(-np.pi, np.pi))
    assert counts.min() > 0.02 * len(starts)


def test_the_whole_block_is_in_reach_and_clear_of_the_tool_at_home(push_t, starts, robot, task):
    home = ArmKinematics(robot).tool_position(np.array(robot.home))[:2]
    low, high = task.tool_workspace.low[:2], task.tool_workspace.high[:2]
    for start in starts:
        corners = push_t.item.corners(start)
        assert (corners > np.array(low) + 2 * robot.tool.radius).all()
        assert (corners < np.array(high) - 2 * robot.tool.radius).all()
        assert push_t.item.distance(start, home) > robot.tool.radius + 0.015


def test_no_start_is_already_solved(push_t, starts):
    assert not any(push_t.is_success(start) for start in starts)


def test_equal_generators_give_equal_starts(push_t):
    draws = [
        [push_t.reset(rng) for _ in range(5)]
        for rng in (np.random.default_rng(7), np.random.default_rng(7))
    ]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(
    ("offset", "yaw", "is_success"),
    [
        ((0.0, 0.0), 0.0, True),
        ((0.0199, 0.0), 0.0, True),
        ((0.0201, 0.0), 0.0, False),
        ((0.015, 0.015), 0.0, False),  # 21.2 mm away, though each axis is within 20 mm.
        ((0.0, 0.0), 0.249, True),
        ((0.0, 0.0), 0.251, False),
        ((0.0, 0.0), -0.251, False),
        ((0.0199, 0.0), -0.249, True),
        ((0.0, 0.0), 2 * np.pi + 0.1, True),  # A full turn is no turn.
    ],
)
def test_success_needs_centre_and_yaw_within_the_tolerances(push_t, offset, yaw, is_success):
    pose = GOAL + np.array([*offset, yaw])
    assert push_t.is_success(pose) is is_success
    assert push_t.outcome(pose, 1).reward == float(is_success)


def test_errors_are_measured_across_the_wrap_of_the_angle(robot, task):
    turned = make(robot, task, goal_yaw=3.1)
    _, yaw = turned.errors(np.array([0.5, 0.0, -3.1]))
    assert yaw == pytest.approx(-(2 * np.pi - 6.2))


@pytest.mark.parametrize(
    ("pose", "periods", "terminated", "truncated"),
    [
        (GOAL, 5, True, False),
        (GOAL + np.array([0.1, 0.0, 0.0]), 99, False, False),
        (GOAL + np.array([0.1, 0.0, 0.0]), 100, False, True),
        (GOAL, 100, True, True),
    ],
)
def test_terminated_is_the_goal_and_truncated_is_the_clock(
    push_t, pose, periods, terminated, truncated
):
    outcome = push_t.outcome(pose, periods)
    assert (outcome.terminated, outcome.truncated) == (terminated, truncated)
    assert outcome.success is terminated


def test_an_unknown_parameter_is_named_with_those_that_exist(robot, task):
    with pytest.raises(ConfigError, match=r"gaol_x.*goal_x"):
        make(robot, task, gaol_x=0.5)


@pytest.mark.parametrize(
    "change", [{"start_distance_min": 0.3}, {"yaw_tolerance": 0.0}, {"start_yaw": -1.0}]
)
def test_contradicting_parameters_are_refused(robot, task, change):
    with pytest.raises(ConfigError, match="start_distance_min <= start_distance_max"):
        make(robot, task, **change)


def test_a_goal_out_of_reach_says_so_instead_of_searching_for_ever(robot, task):
    with pytest.raises(ConfigError, match="tool_workspace"):
        make(robot, task, goal_x=2.0).reset(np.random.default_rng(0))
