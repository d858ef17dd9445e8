# SPDX-License-Identifier: Apache-2.0
"""Plane geometry and friction of the sliding object, against closed forms."""

import numpy as np
import pytest

from rl100_sim.planar_object import PlanarObject, Rectangle, to_base, to_object, wrap_angle
from rl100_sim.tasks.push_t import T_BLOCK


def block(*rectangles: Rectangle) -> PlanarObject:
    return PlanarObject(rectangles, height=0.03, mass=0.2, drag=20.0, tool_friction=0.3)


def test_the_origin_of_the_t_is_its_centre_of_mass():
    centres = [(part.x, part.y) for part in T_BLOCK.rectangles]
    centre = np.average(centres, axis=0, weights=[part.area for part in T_BLOCK.rectangles])
    np.testing.assert_allclose(centre, 0.0, atol=1e-12)


def test_the_t_is_a_bar_of_12_by_3_and_a_stem_of_3_by_9_cm_that_touch():
    bar, stem = T_BLOCK.rectangles
    np.testing.assert_allclose([2 * bar.half_x, 2 * bar.half_y], [0.12, 0.03])
    np.testing.assert_allclose([2 * stem.half_x, 2 * stem.half_y], [0.03, 0.09])
    assert bar.y - bar.half_y == pytest.approx(stem.y + stem.half_y)


def test_friction_radius_of_a_thin_rod_is_a_quarter_of_its_length():
    # Mean |x| over [-l/2, l/2] is l/4; the width of 1 mm adds less than 1e-5 m.
    rod = block(Rectangle(0.0, 0.0, 0.10, 0.0005))
    assert rod.friction_radius == pytest.approx(0.05, rel=1e-3)


def test_friction_radius_of_a_square_is_the_closed_form():
    # Mean distance from the centre of a square of side a: a (sqrt(2) + asinh(1)) / 6.
    square = block(Rectangle(0.0, 0.0, 0.04, 0.04))
    expected = 0.08 * (np.sqrt(2.0) + np.arcsinh(1.0)) / 6.0
    assert square.friction_radius == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0.05, 0.0), 0.03),  # In front of a face at x = 2 cm.
        ((0.05, 0.05), 0.05),  # Off the corner (2, 1) cm by (3, 4) cm.
        ((0.0, 0.0), -0.01),  # In the middle the nearest face is 1 cm away.
    ],
)
def test_distance_of_a_rectangle(point, expected):
    plate = block(Rectangle(0.0, 0.0, 0.02, 0.01))
    assert float(plate.distance(np.zeros(3), np.array(point))) == pytest.approx(expected)


def test_distance_moves_with_the_pose():
    pose = np.array([0.4, -0.2, 0.7])
    point = np.array([0.03, 0.09])
    moved = T_BLOCK.distance(pose, to_base(pose, point))
    assert float(moved) == pytest.approx(float(T_BLOCK.distance(np.zeros(3), point)))


def test_object_and_base_frame_are_inverse():
    pose = np.array([0.4, -0.2, 2.1])
    points = np.array([[0.1, 0.2], [-0.3, 0.05]])
    np.testing.assert_allclose(to_object(pose, to_base(pose, points)), points)


def test_a_quarter_turn_takes_x_to_y():
    np.testing.assert_allclose(
        to_base(np.array([1.0, 2.0, np.pi / 2]), np.array([0.1, 0.0])), [1.0, 2.1]
    )


@pytest.mark.parametrize(
    ("angle", "wrapped"),
    [(3.5, 3.5 - 2 * np.pi), (-3.5, 2 * np.pi - 3.5), (7.0, 7.0 - 2 * np.pi), (0.3, 0.3)],
)
def test_wrapped_angles_are_equivalent_and_short(angle, wrapped):
    assert wrap_angle(angle) == pytest.approx(wrapped)
