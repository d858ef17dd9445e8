# SPDX-License-Identifier: Apache-2.0
"""The workspace in the characters of a terminal."""

import numpy as np

from rl100_policy.core.scene_view import SceneView

LOW, HIGH = np.array([0.0, -1.0, 0.0]), np.array([2.0, 1.0, 1.0])


def lines(view: SceneView) -> list[str]:
    return view.text().plain.rstrip("\n").split("\n")


def view() -> SceneView:
    return SceneView(LOW, HIGH, width=10, height=5)


def test_an_empty_workspace_has_its_size_and_no_dot():
    assert lines(view()) == ["\u2800" * 10] * 5


def test_x_points_up_and_y_to_the_left():
    seen = view()
    seen.points(np.array([[2.0, 1.0, 0.5]]), "red")  # far and left
    assert lines(seen)[0][0] == "\u2801"
    assert sum(line.count("\u2800") for line in lines(seen)) == 49
    seen.points(np.array([[0.0, -1.0]]), "red")  # near and right
    assert lines(seen)[4][9] == "\u2880"


def test_what_is_outside_or_not_finite_is_left_out():
    seen = view()
    seen.points(np.array([[3.0, 0.0], [1.0, -2.0], [np.nan, 0.0]]), "red")
    seen.points(np.zeros((0, 3)), "red")
    assert lines(seen) == ["\u2800" * 10] * 5


def test_a_line_goes_through_every_character_between_its_corners():
    seen = view()
    seen.line(np.array([[1.0, 1.0], [1.0, -1.0]]), "green")
    assert "\u2800" not in lines(seen)[2]
