# SPDX-License-Identifier: Apache-2.0
"""A flat rigid object that slides on the table: shape, mass, friction, geometry of its outline.

Poses are (x, y, yaw) of the object's origin in the base frame, [3], m and rad. The origin is the
centre of mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_AREA_CELL = 0.0025
"""Edge of the cells of the friction integral [m]; a quarter of it changes L of a block of
10 cm by less than 1 %."""


@dataclass(frozen=True)
class Rectangle:
    """Axis-aligned rectangle in the object frame [m]."""

    x: float
    y: float
    half_x: float
    half_y: float

    @property
    def area(self) -> float:
        """Area [m^2]."""
        return 4.0 * self.half_x * self.half_y


@dataclass(frozen=True)
class PlanarObject:
    """Union of disjoint rectangles extruded upwards from the table.

    Sliding on the table follows the ellipsoidal limit surface of quasi-static pushing: the planar
    velocity is proportional to (f_x, f_y, tau / L^2) of the applied force, where L is the ratio of
    the largest friction torque to the largest friction force.
    """

    rectangles: tuple[Rectangle, ...]
    height: float
    """Thickness above the table [m]."""
    mass: float
    """[kg]."""
    drag: float
    """Sliding resistance [N s/m]."""
    tool_friction: float
    """Coulomb coefficient between tool and object."""

    @property
    def friction_radius(self) -> float:
        """L of the limit surface [m].

        The mean distance of the supporting area from the centre of mass, for even pressure.
        """
        return float(np.average(np.linalg.norm(self._cells(), axis=1)))

    def corners(self, pose: Floats) -> Floats:
        """Corners of all rectangles in the base frame, [4 * len(rectangles), 2], m."""
        local = [
            (r.x + sx * r.half_x, r.y + sy * r.half_y)
            for r in self.rectangles
            for sx, sy in ((1, 1), (-1, 1), (-1, -1), (1, -1))
        ]
        return to_base(pose, np.array(local))

    def distance(self, pose: Floats, points: Floats) -> Floats:
        """Signed distance of points in the base frame from the outline: negative inside.

        Args:
            pose: (x, y, yaw) of the object, [3].
            points: [..., 2], m.

        Returns:
            [...], m. Exact outside; inside, minus the depth in the deepest rectangle, which is
            less than the true depth near the seam of two rectangles.
        """
        local = to_object(pose, points)
        per_rectangle = []
        for r in self.rectangles:
            offset = np.abs(local - (r.x, r.y)) - (r.half_x, r.half_y)
            outside = np.linalg.norm(np.maximum(offset, 0.0), axis=-1)
            per_rectangle.append(outside + np.minimum(offset.max(axis=-1), 0.0))
        return np.min(per_rectangle, axis=0)

    def _cells(self) -> Floats:
        """Centres of a fine grid over the area, [C, 2]."""
        grids = []
        for r in self.rectangles:
            nx, ny = (max(1, round(2.0 * half / _AREA_CELL)) for half in (r.half_x, r.half_y))
            x = r.x + r.half_x * ((2.0 * np.arange(nx) + 1.0) / nx - 1.0)
            y = r.y + r.half_y * ((2.0 * np.arange(ny) + 1.0) / ny - 1.0)
            grids.append(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
        return np.concatenate(grids)


def rotation(yaw: float) -> Floats:
    """Plane rotation matrix R(yaw), [2, 2]: p_base = R p_object + t."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin], [sin, cos]])


def to_base(pose: Floats, points: Floats) -> Floats:
    """Points of the object frame in the base frame, [..., 2], m."""
    return points @ rotation(pose[2]).T + pose[:2]


def to_object(pose: Floats, points: Floats) -> Floats:
    """Points of the base frame in the object frame, [..., 2], m."""
    return (points - pose[:2]) @ rotation(pose[2])


def wrap_angle(angle: float) -> float:
    """Equivalent angle in [-pi, pi) [rad]."""
    return float((angle + np.pi) % (2.0 * np.pi) - np.pi)
