# SPDX-License-Identifier: Apache-2.0
"""Geometry of contacts, pushes and ways around the block."""

import numpy as np
import pytest

from rl100_sim.planar_object import PlanarObject, Rectangle
from rl100_sim.push_planner import Preferences, Route, find_contacts, push_costs
from rl100_sim.tasks.push_t import T_BLOCK

RADIUS = 0.015
SQUARE = PlanarObject((Rectangle(0.0, 0.0, 0.04, 0.04),), 0.03, 0.2, 20.0, 0.3)
LOW, HIGH = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
WISH = Preferences(walking_speed=0.1, pushing_speed=0.1, position_aim=0.01, yaw_aim=4.0)


@pytest.fixture(scope="module")
def contacts():
    return find_contacts(T_BLOCK, RADIUS)


@pytest.fixture(scope="module")
def route(contacts):
    return Route(T_BLOCK, RADIUS, contacts)


def test_at_every_contact_the_tool_touches_and_does_not_enter(contacts):
    gaps = T_BLOCK.distance(np.zeros(3), contacts.tool) - RADIUS
    np.testing.assert_allclose(gaps, 0.0, atol=1e-9)


def test_a_push_through_the_centre_does_not_turn_and_one_beside_it_does():
    square = find_contacts(SQUARE, RADIUS)
    left_face = square.outward[:, 0] < -0.5
    straight = square.turn[:, 1, -1]
    y = square.tool[:, 1]
    np.testing.assert_allclose(straight[left_face & (np.abs(y) < 1e-9)], 0.0, atol=1e-12)
    # Force along +x at height y: torque -y f, so below the centre it turns counter-clockwise.
    assert (
        np.sign(straight[left_face & (np.abs(y) > 1e-9)])
        == -np.sign(y[left_face & (np.abs(y) > 1e-9)])
    ).all()


def test_the_contact_point_moves_with_the_tool_while_it_sticks():
    """Over the first 4 mm the contact point of the body moves as the tool does."""
    square = find_contacts(SQUARE, RADIUS)
    points = square.tool - RADIUS * square.outward
    turn, shift = square.turn[..., 0], square.displacement[..., 0, :]
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = points[:, None, 0], points[:, None, 1]
    moved = shift + np.stack([cos * x - sin * y - x, sin * x + cos * y - y], axis=-1)
    np.testing.assert_allclose(moved, 0.004 * square.velocity, atol=3e-4)


def test_the_best_push_goes_towards_the_goal():
    square = find_contacts(SQUARE, RADIUS)
    costs, _ = push_costs(square, np.zeros(3), np.array([0.1, 0.0, 0.0]), LOW, HIGH, WISH)
    best = int(np.argmin(costs))
    np.testing.assert_allclose(square.outward[best], [-1.0, 0.0], atol=1e-12)
    assert abs(square.tool[best, 1]) < 0.006


def test_reaching_the_goal_costs_the_way_there():
    # 10 cm minus the aim of 1 cm at 0.1 m/s; the grid of lengths has steps of 1 cm.
    square = find_contacts(SQUARE, RADIUS)
    costs, _ = push_costs(square, np.zeros(3), np.array([0.1, 0.0, 0.0]), LOW, HIGH, WISH)
    assert costs.min() == pytest.approx(0.95, abs=0.051)


def test_a_push_out_of_reach_costs_more():
    square = find_contacts(SQUARE, RADIUS)
    goal = np.array([0.1, 0.0, 0.0])
    free, _ = push_costs(square, np.zeros(3), goal, LOW, HIGH, WISH)
    walled, _ = push_costs(square, np.zeros(3), goal, LOW, np.array([0.05, 1.0]), WISH)
    assert walled.min() > free.min() + 0.5


def test_a_straight_way_is_its_own_length_and_a_blocked_one_is_longer(route, contacts):
    far = contacts.approach + 0.1 * contacts.outward
    for index in (0, len(contacts) // 2, len(contacts) - 1):
        ways, first = route.ways(far[index], np.zeros(3), LOW, HIGH)
        if route.is_clear(far[index], contacts.approach[[index]])[0]:
            assert ways[index] == pytest.approx(0.1)
            np.testing.assert_array_equal(first[index], contacts.approach[index])
        assert (ways >= np.linalg.norm(contacts.approach - far[index], axis=1) - 1e-9).all()
    ways, _ = route.ways(np.array([0.0, 0.2]), np.zeros(3), LOW, HIGH)
    below = int(np.argmin(contacts.approach[:, 1]))
    assert ways[below] > np.linalg.norm(contacts.approach[below] - (0.0, 0.2)) + 0.01


def test_following_the_way_points_reaches_every_contact_without_touching(route, contacts):
    for contact in range(0, len(contacts), 5):
        tool = np.array([-0.03, 0.15])
        for _ in range(200):
            ways, first = route.ways(tool, np.zeros(3), LOW, HIGH)
            if ways[contact] < 1e-6:
                break
            step = first[contact] - tool
            tool = tool + step * min(1.0, 0.01 / np.linalg.norm(step))
            assert T_BLOCK.distance(np.zeros(3), tool) > RADIUS + 0.002
        assert np.linalg.norm(tool - contacts.approach[contact]) < 1e-6


def test_there_is_no_way_through_a_wall(route, contacts):
    wall = np.array([0.02, 1.0])  # Nothing to the right of x = 2 cm.
    ways, _ = route.ways(np.array([-0.15, 0.0]), np.zeros(3), LOW, wall)
    assert np.isinf(ways[contacts.approach[:, 0] > 0.02]).all()
    assert np.isfinite(ways[contacts.approach[:, 0] < -0.05]).all()
